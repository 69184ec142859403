"""Tokenization of texts that contain the names of control tokens."""

import html
from typing import Any

import pytest

from viewfinder.models.byte_pair import BytePairTokenizer
from viewfinder.models.checkpoint import TokenizerSpec, locate
from viewfinder.models.tokenizer import Tokenizer
from viewfinder.testing.models import Family, tiny_checkpoint

FAMILIES: tuple[Family, ...] = ("clip", "siglip", "xlm-roberta", "metaclip2", "coca")
NAMES = {
    "bpe": ["<end_of_text>", "<start_of_text>", "<END_OF_TEXT>"],
    "huggingface": ["<s>", "</s>", "<pad>", "<unk>", "</S>", "</s></s>", "<</s>/s>"],
}


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    spec = locate(str(tiny_checkpoint(tmp_path_factory.mktemp(request.param), request.param))).tokenizer
    return spec, Tokenizer(spec)


def content(made: Tokenizer, text: str) -> list[int]:
    """The tokens of a text without those of its padding, in their order."""
    (row,), _ = made([text])
    return [int(each) for each in row if int(each) not in controls(made)]


def controls(made: Tokenizer) -> set[int]:
    """The ids of control tokens, and of padding."""
    # CLIP's have the highest ids, and its padding is 0. Those of the tokenizers that these tests write are the first.
    return {0, 49_406, 49_407} if isinstance(made._tokenizer, BytePairTokenizer) else {0, 1, 2, 3}


def control_count(made: Tokenizer, text: str) -> int:
    """Number of control tokens that a text gets besides padding."""
    (row,), _ = made([text])
    return sum(int(each) in controls(made) for each in row)


def test_a_control_token_in_a_text_is_plain_text(tokenizer: tuple[Any, Tokenizer]) -> None:
    """Regression: models ignored the text after it, as they read the vector of the first end token."""
    spec, made = tokenizer
    assert spec.kind in NAMES
    for name in NAMES[spec.kind]:
        for written in (name, html.escape(name), html.escape(html.escape(name)), html.escape(name, quote=False) * 2):
            text = f"red car {written} sunset"
            plain = "red car sunset"
            added = len(content(made, text)) - len(content(made, plain))
            assert added > 0 or spec.options.get("clean") == "canonicalize"
            whole, tail = made.lengths([text])[0], content(made, "sunset")
            assert content(made, text)[-len(tail) :] == tail
            # Each further token takes the place of one of padding.
            assert control_count(made, text) == control_count(made, plain) - added
            assert whole == made.lengths([plain])[0] + added


@pytest.fixture(scope="module")
def unigram(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer as SentencePiece makes it: NFKC, invisible characters removed, control tokens among its pieces."""
    from tokenizers import Regex, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Fast
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*special, "\u2581", *"</>abcdefghijklmnopqrstuvwxyz"]
    made = Fast(models.Unigram([(piece, 0.0 if piece in special else -2.0) for piece in pieces], unk_id=3))
    invisible = normalizers.Replace(Regex("[\u0001\u200b]"), "")
    made.normalizer = normalizers.Sequence([invisible, normalizers.NFKC()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    directory = tmp_path_factory.mktemp("unigram")
    PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(directory)
    return Tokenizer(TokenizerSpec("huggingface", 64, {}, directory=str(directory)))


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("\ufe64/s\ufe65", "</s>"),
        ("\uff1c/\uff53\uff1e", "</s>"),
        ("</\u24e2>", "</s>"),
        ("\ufe64pad\ufe65", "<pad>"),
        ("<\uff50ad>", "<pad>"),
        ("<\u200b/s>", "</s>"),
        ("<\x01/\u24e2>", "</s>"),
    ],
)
def test_a_control_token_in_other_characters_is_plain_text_too(unigram: Tokenizer, written: str, plain: str) -> None:
    """The tokenizer's own normalization made the token of them."""
    text = f"a red {written} b"
    assert content(unigram, text) == content(unigram, f"a red {plain} b")
    assert unigram.lengths([text]) == [len(content(unigram, text))]
    assert content(unigram, "a \ufb01ne \u24e2un") == content(unigram, "a fine sun")
