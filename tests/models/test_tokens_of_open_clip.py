"""Tokens of texts in many scripts, compared with open_clip's own tokenizers."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models.test_checkpoint import run_python
from viewfinder.models.byte_pair import BytePairTokenizer
from viewfinder.models.checkpoint import TokenizerSpec
from viewfinder.models.hugging_face_tokenizer import HuggingFaceTokenizer, TokenizerDefinition
from viewfinder.models.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

SENTENCES = [
    "",
    " \t\n ",
    "a red car",
    "a < b > c",
    "it's 3 o'clock, isn't it? We'll see; I'M sure they'd've",
    "<table> </ s> end_of_text",
    "Tom &amp;amp; Jerry &lt;b&gt; &eacute;&#x1F408;",
    "snake_case, don't-stop!? (really) 50%",
    "l’Hôtel “de Ville” … â€œmojibakeâ€\x9d Ã©tÃ©",
    "ﬁne ＦＵＬＬ ｗｉｄｔｈ ① ½ ſ K Å",
    "e\u0301 combining, zero\u200bwidth, bom\ufeff, rtl\u202e, nul\x00, bell\x07",
    "海滩上的两只猫 🎉🏽👨‍👩‍👧",
    "ネコが窓辺に座っている",
    "창가에 앉은 고양이 한 마리",
    "Кошка сидит на подоконнике",
    "قطة تجلس على حافة النافذة",
    "חתול על אדן החלון",
    "खिड़की पर बैठी बिल्ली",
    "แมวนั่งอยู่ที่ขอบหน้าต่าง",
    "Γάτα στο περβάζι, ΣΊΣΥΦΟΣ",
    "İstanbul'da ılık bir gün",
    "word " * 400,
    "x" * 300,
]
# Letters, digits, signs, marks and spaces of many scripts.
BLOCKS = [
    (0x20, 0x7E), (0x80, 0xFF), (0x100, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x530, 0x58F),
    (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x10A0, 0x10FF), (0x1100, 0x11FF),
    (0x1E00, 0x1EFF), (0x2000, 0x206F), (0x20A0, 0x20CF), (0x2150, 0x218F), (0x2460, 0x24FF), (0x3000, 0x30FF),
    (0x4E00, 0x4FFF), (0xAC00, 0xADFF), (0xFB00, 0xFB4F), (0xFF00, 0xFFEF), (0x1D400, 0x1D4FF), (0x1F300, 0x1F6FF),
    (0x20000, 0x200FF), (0xE0020, 0xE007F),
]  # fmt: skip


def fuzzed(seed: int, count: int) -> list[str]:
    """Texts of random characters: of all scripts, or of one."""
    chance = random.Random(seed)
    texts = []
    for _ in range(count):
        blocks = [*chance.sample(BLOCKS, chance.choice([1, 2, 5])), (0x20, 0x20), (0x61, 0x7A)]
        texts.append("".join(chr(chance.randint(*chance.choice(blocks))) for _ in range(chance.randint(1, 60))))
    return texts


TEXTS = [*SENTENCES, *fuzzed(seed=0, count=600)]


def assert_equal_tokens(ours: Tokenizer, theirs: Callable[[list[str]], Any], texts: list[str] = TEXTS) -> None:
    expected = theirs(texts).numpy()
    tokens, truncated = ours(texts)
    assert tokens.dtype == np.int64
    different = [text for text, wrong in zip(texts, (tokens != expected).any(axis=1), strict=True) if wrong]
    assert different == []
    context_length = tokens.shape[1]
    assert [max(0, length - context_length) for length in ours.lengths(texts)] == truncated


@pytest.mark.parametrize(
    ("context_length", "options"), [(77, {}), (32, {}), (64, {"clean": "canonicalize"}), (77, {"clean": "whitespace"})]
)
def test_clips_tokenizer(context_length: int, options: dict[str, str]) -> None:
    from open_clip.tokenizer import SimpleTokenizer

    made = Tokenizer(TokenizerSpec("bpe", context_length, options))
    assert_equal_tokens(made, SimpleTokenizer(context_length=context_length, **options))


def test_reduction_of_words_is_for_training_only() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    made = Tokenizer(TokenizerSpec("bpe", 32, {"reduction_mask": "simple"}))
    assert_equal_tokens(made, SimpleTokenizer(context_length=32))


def trained(kind: str, directory: Path) -> Path:
    """Write a small tokenizer of this kind, with a vocabulary from the sentences above."""
    import transformers
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    classes = {"unigram": "PreTrainedTokenizerFast", "t5": "T5Tokenizer", "xlm-roberta": "XLMRobertaTokenizer"}
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    if kind == "wordpiece":
        names = {"cls_token": "[CLS]", "pad_token": "[PAD]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
        special = list(names.values())
        made = Fast(models.WordPiece(unk_token="[UNK]"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=600, special_tokens=special))
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
        )
        transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(directory)
        return directory
    made = Fast(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.train_from_iterator(
        SENTENCES, trainers.UnigramTrainer(vocab_size=700, special_tokens=special, unk_token="<unk>")
    )
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    saved = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names)
    saved.save_pretrained(directory)
    config = directory / "tokenizer_config.json"
    text = config.read_text()
    assert "PreTrainedTokenizerFast" in text or "TokenizersBackend" in text
    for old in ("PreTrainedTokenizerFast", "TokenizersBackend"):
        text = text.replace(f'"{old}"', f'"{classes[kind]}"')
    config.write_text(text)
    return directory


@pytest.mark.parametrize(
    ("kind", "options", "mode"),
    [
        ("unigram", {"clean": "canonicalize"}, None),
        ("t5", {"clean": "canonicalize"}, None),
        ("xlm-roberta", {}, None),
        ("wordpiece", {"strip_sep_token": True}, None),
        ("wordpiece", {}, "clips"),
        ("unigram", {"padding_side": "left", "truncation_side": "left"}, None),
    ],
)
def test_a_hugging_face_tokenizer(tmp_path: Path, kind: str, options: dict[str, Any], mode: str | None) -> None:
    from open_clip.tokenizer import HFTokenizer

    if mode == "clips":
        options = options | {"bos_token": "[CLS]", "eos_token": "[SEP]"}
    directory = str(trained(kind, tmp_path / kind))
    made = Tokenizer(TokenizerSpec("huggingface", 40, options, mode, directory))
    theirs = HFTokenizer(directory, context_length=40, tokenizer_mode=mode, **options)
    assert_equal_tokens(made, theirs)
    if mode is None:
        whole = [len(theirs.tokenizer(theirs.clean_fn(text), verbose=False)["input_ids"]) for text in SENTENCES]
        assert made.lengths(SENTENCES) == whole


def test_a_saved_definition_makes_the_same_tokenizer(tmp_path: Path) -> None:
    definition = TokenizerDefinition.read(str(trained("unigram", tmp_path / "unigram")), {})
    definition.save(tmp_path / "tokenizer.json")
    loaded = TokenizerDefinition.load(tmp_path / "tokenizer.json")
    ours, theirs = (HuggingFaceTokenizer(each, 40, None, {}) for each in (loaded, definition))
    assert np.array_equal(ours.encode(SENTENCES)[0], theirs.encode(SENTENCES)[0])


def test_the_cache_of_words_is_bounded() -> None:
    """open_clip's own keeps every word: in a service that is a leak."""
    made = BytePairTokenizer(77, {})
    assert made._word_ids.cache_info().maxsize == 50_000
    made.encode(["a red car"])
    assert made._word_ids.cache_info().currsize == 3


def test_tokenizing_imports_neither_torch_nor_open_clip(tmp_path: Path) -> None:
    TokenizerDefinition.read(str(trained("unigram", tmp_path / "unigram")), {}).save(tmp_path / "tokenizer.json")
    out = run_python(
        "import sys\n"
        "from pathlib import Path\n"
        "from viewfinder.models.checkpoint import TokenizerSpec\n"
        "from viewfinder.models.hugging_face_tokenizer import TokenizerDefinition\n"
        "from viewfinder.models.tokenizer import Tokenizer\n"
        "Tokenizer(TokenizerSpec('bpe', 77, {}))(['a red car'])\n"
        "definition = TokenizerDefinition.load(Path(sys.argv[1]))\n"
        "Tokenizer(TokenizerSpec('huggingface', 77, {}), definition)(['a red car'])\n"
        "print([name for name in ('torch', 'open_clip', 'transformers') if name in sys.modules])",
        str(tmp_path / "tokenizer.json"),
    )
    assert out.strip() == "[]"
