"""The leading tokens that decide the vector of a text."""

import numpy as np
import pytest

from viewfinder.models.text_length import TextLength

START, END, PAD = 8, 9, 1


def tokens(*lengths: int, context: int = 77) -> np.ndarray:
    """Token ids of texts with these numbers of tokens, start and end included."""
    made = np.full((len(lengths), context), 0)
    for row, length in zip(made, lengths, strict=True):
        row[:length] = [START, *[5] * (length - 2), END]
    return made


@pytest.mark.parametrize("rule", [TextLength("highest"), TextLength("end", END)])
@pytest.mark.parametrize(("lengths", "kept"), [((3,), 3), ((3, 9), 9), ((16,), 16), ((17,), 24), ((77, 3), 77)])
def test_a_causal_tower_reads_up_to_the_last_end(rule: TextLength, lengths: tuple[int, ...], kept: int) -> None:
    made = tokens(*lengths)
    assert rule.cut(made).tolist() == made[:, :kept].tolist()
    assert rule.ends(made).tolist() == [length - 1 for length in lengths]


@pytest.mark.parametrize(("length", "kept"), [(0, 1), (5, 5), (30, 32), (31, 32)])
def test_a_tower_that_masks_its_padding_does_not_read_it(length: int, kept: int) -> None:
    made = np.full((2, 32), PAD)
    made[1, :length] = 5
    assert TextLength("padding", PAD).cut(made).shape == (2, kept)


def test_other_towers_read_everything() -> None:
    assert TextLength("all").cut(tokens(3)).shape == (1, 77)
    assert not TextLength("all").has_ends
