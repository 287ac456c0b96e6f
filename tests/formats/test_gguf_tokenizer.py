"""A tokenizer's keys in GGUF, what llama.cpp would read otherwise, and llama.cpp's own ids."""

import json
import logging
from functools import lru_cache
from pathlib import Path

import gguf as package
import pytest
from gguf import GGUFValueType as Type
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from plm.config import build
from plm.data import tokenizer as bpe
from plm.errors import ConfigError, DataError
from plm.export.gguf import gguf
from plm.formats.common import About
from plm.formats.gguf_tokenizer import keys
from plm.formats.llama_cpp import LlamaCpp
from tests.model.common import compose

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ROWS = 512
ABOUT = About()
PROSE = (
    "It's the dog's 2nd day; they'll SHOUT: DON'T! We'VE won 1234567 points, ½ of 3².\r\n\r\n"
    "naïve café — Straße, Ångström, Łódź, Hoàng thành.\n"
    "Привет, мир! Καλημέρα.\n"
    "東京と大阪は2024年に暑かった。 안녕하세요 你好，世界！\n"
    "مرحبا بالعالم ١٢٣٤ नमस्ते दुनिया สวัสดี\n"
    "🚀 👩\u200d🔬\ufe0f ✅  \u2028 x\u00a0y \u3000z \t\t tail   "
)
CODE = (
    "def add(a, b=0x1F):\n    '''Sum.'''\n    return a + b  # 12345.678e-9\n\n\n"
    "class A_b2(Base):\n\tx = {'k': [1, 22, 333, 4444]}\n\n  if x != y and not z[::-1]:\n"
    '        raise ValueError(f"{x!r:>10}")\n'
    '#include <stdio.h>\r\nint main(void){for(int i=0;i<100;i++)printf("%d\\n",i);return 0;}\r\n'
    "SELECT * FROM t WHERE id>=42;  --  done\n   \n\n     \n"
)
TEXTS = {
    "prose": PROSE,
    "code": CODE,
    "empty": "",
    "spaces": "    ",
    "space and digits": "a  1  22   333 \n 4 ",
    "looks special": "a<|endoftext|>b <|im_start|>user [PAD500]",
}
FAMILIES = ("qwen2", "gpt2", "llama3", "llama3 merging", "smollm")
PRE = dict(zip(FAMILIES, ("qwen2", "gpt-2", "llama-bpe", "smaug-bpe", "smollm"), strict=True))


@lru_cache
def trained(family: str = "qwen2") -> Tokenizer:
    """About 450 ids of 512 rows; not to be changed."""
    split = {"smollm": "gpt2", "llama3 merging": "llama3"}.get(family, family)
    tokenizer = bpe.train(
        [PROSE, CODE] * 2, vocab_size=450, special_tokens=SPECIAL, pre_tokenizer=split
    )
    if family == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    if family == "llama3 merging":
        tokenizer.model.ignore_merges = False
    return tokenizer


def copy(tokenizer: Tokenizer) -> Tokenizer:
    return Tokenizer.from_str(tokenizer.to_str())


def changed(tokenizer: Tokenizer, **settings) -> Tokenizer:
    """With other settings of its model, as tokenizer.json has them."""
    state = json.loads(tokenizer.to_str())
    state["model"] |= settings
    return Tokenizer.from_str(json.dumps(state))


def write(target: Path, tokenizer: Tokenizer, arch: str = "plm", about: About = ABOUT) -> Path:
    model = build(compose("scale=test", f"model={arch}")["model"])
    model.init_weights(0)
    return gguf(model, tokenizer, target, about=about, kind="F32")


def test_every_key_of_a_tokenizer_and_no_other(tmp_path: Path):
    tokenizer = copy(trained())
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    tool = tokenizer.token_to_id("<tool>")
    count = bpe.size(tokenizer)
    assert tool == count - 1 < ROWS - 8
    about = About(chat_template="{{ messages }}")
    fields = package.GGUFReader(write(tmp_path / "x.gguf", tokenizer, about=about)).fields
    found = {name: field for name, field in fields.items() if name.startswith("tokenizer.")}
    spelt = {index: token for token, index in tokenizer.get_vocab().items()}
    state = json.loads(tokenizer.to_str())["model"]
    control, normal, user, unused = 3, 1, 4, 5
    pads = range(count, ROWS)
    expected = {
        "tokenizer.ggml.model": (Type.STRING, "gpt2"),
        "tokenizer.ggml.pre": (Type.STRING, "qwen2"),
        "tokenizer.ggml.tokens": (
            [Type.ARRAY, Type.STRING],
            [spelt[index] for index in range(count)] + [f"[PAD{index}]" for index in pads],
        ),
        "tokenizer.ggml.token_type": (
            [Type.ARRAY, Type.INT32],
            [control] * 3 + [normal] * (tool - 3) + [user] + [unused] * len(pads),
        ),
        "tokenizer.ggml.merges": (
            [Type.ARRAY, Type.STRING],
            [f"{left} {right}" for left, right in state["merges"]],
        ),
        "tokenizer.ggml.bos_token_id": (Type.UINT32, 0),
        "tokenizer.ggml.eos_token_id": (Type.UINT32, 0),
        "tokenizer.ggml.padding_token_id": (Type.UINT32, 0),
        "tokenizer.ggml.eot_token_id": (Type.UINT32, 2),
        "tokenizer.ggml.add_bos_token": (Type.BOOL, False),
        "tokenizer.chat_template": (Type.STRING, "{{ messages }}"),
    }
    assert set(found) == set(expected)
    for name, (kind, value) in expected.items():
        field = found[name]
        assert field.types == (kind if isinstance(kind, list) else [kind]), name
        assert field.contents() == value, name
    assert fields["plm.vocab_size"].contents() == ROWS


def test_a_base_model_brings_no_template_and_chatml_its_end():
    with_marks = keys(trained(), ROWS, ABOUT)
    plain = bpe.train([PROSE], vocab_size=400, special_tokens=["<|begin|>", "<|stop|>"])
    found = keys(plain, ROWS, About(end_of_text="<|stop|>"))
    assert set(with_marks) - set(found) == {"tokenizer.ggml.eot_token_id"}
    talks = keys(trained(), ROWS, About(chat_template="{{ 1 }}"))
    assert set(talks) - set(with_marks) == {"tokenizer.chat_template"}
    ends = [found[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")]
    assert ends == [1, 1, 1]
    with pytest.raises(ConfigError, match=r"^the tokenizer has no end-of-text token '<nothing>'"):
        keys(plain, ROWS, About(end_of_text="<nothing>"))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_splitter_has_llama_cpps_name(family: str):
    assert keys(trained(family), ROWS, ABOUT)["tokenizer.ggml.pre"] == PRE[family]


def with_splitter(splitter) -> Tokenizer:
    tokenizer = copy(trained())
    tokenizer.pre_tokenizer = splitter
    return tokenizer


def test_unknown_splitters_are_refused():
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    together = pre_tokenizers.Digits(individual_digits=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spaced = pre_tokenizers.ByteLevel(add_prefix_space=True)
    words = pre_tokenizers.Split(Regex(r"\w+|\W+"), behavior="isolated")
    for parts in ([words, byte_level], [together, gpt2], [digits, byte_level], [digits, spaced]):
        with pytest.raises(DataError) as refusal:
            keys(with_splitter(pre_tokenizers.Sequence(parts)), ROWS, ABOUT)
        assert str(refusal.value) == (
            "the tokenizer splits text in a way that llama.cpp is not known to have; known: "
            "qwen2, gpt2, llama3, smollm"
        )
    for splitter in (spaced, None):
        with pytest.raises(DataError, match=r"^the tokenizer splits text in a way that llama.cpp"):
            keys(with_splitter(splitter), ROWS, ABOUT)


def without_a_byte() -> Tokenizer:
    state = json.loads(trained().to_str())["model"]
    return changed(
        trained(),
        vocab={("!!" if token == "!" else token): i for token, i in state["vocab"].items()},
        merges=[merge for merge in state["merges"] if "!" not in "".join(merge)],
    )


def of_words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def spelt_as_padding() -> Tokenizer:
    tokenizer = copy(trained())
    tokenizer.add_tokens([f"[PAD{ROWS - 1}]"])
    return tokenizer


def lower_case() -> Tokenizer:
    tokenizer = copy(trained())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    return tokenizer


REFUSED = {
    "no merges": (
        lambda: bpe.train([PROSE], vocab_size=259, special_tokens=SPECIAL),
        r"^the tokenizer has no merges, without which llama.cpp loads none; train one with a",
    ),
    "whole words": (
        lambda: changed(trained(), ignore_merges=True),
        r"^the tokenizer has ignore_merges=true, which llama.cpp does not have where text is split "
        r"as qwen2 does; only llama3 leaves the choice$",
    ),
    "a byte missing": (
        without_a_byte,
        r"^the tokenizer is not a byte-level BPE with all 256 bytes",
    ),
    "words": (of_words, r"^the tokenizer is not a byte-level BPE with all 256 bytes, the one kind"),
    "chance": (
        lambda: changed(trained(), dropout=0.5),
        r"^the tokenizer has dropout=0.5, which llama.cpp does not know$",
    ),
    "a suffix": (
        lambda: changed(
            trained(), merges=[["a", "b</w>"]], end_of_word_suffix="</w>", vocab=SUFFIX
        ),
        r"^the tokenizer has end_of_word_suffix='</w>', which llama.cpp does not know$",
    ),
    "one spelling twice": (
        spelt_as_padding,
        rf"^the tokenizer's ids \d+ and {ROWS - 1} are both spelt '\[PAD{ROWS - 1}\]', which llama",
    ),
    "lower case": (
        lower_case,
        r"^the tokenizer has a normaliser \(Lowercase\), which llama.cpp would not apply; train wi",
    ),
}
SUFFIX = {
    c: i for i, c in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "b</w>", "ab</w>"])
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_would_read_otherwise_is_refused(name: str, tmp_path: Path):
    make, line = REFUSED[name]
    with pytest.raises(DataError, match=line) as refusal:
        write(tmp_path / "x.gguf", make())
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_nfc_and_trimming_tokens_are_told(caplog):
    tokenizer = copy(trained())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken("<trim>", rstrip=True)])
    with caplog.at_level(logging.WARNING, logger="plm"):
        assert keys(tokenizer, ROWS, ABOUT)["tokenizer.ggml.pre"] == "qwen2"
    nfc, trimmed = caplog.messages
    assert nfc.startswith("the tokenizer composes letters first (NFC) and llama.cpp does not: text")
    assert trimmed.endswith("has for <trim>: text around them may get other ids there")
    caplog.clear()
    keys(trained(), ROWS, ABOUT)
    assert not caplog.messages


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["plm", "llama"])
@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_gives_the_same_ids(family: str, arch: str, tmp_path: Path, llama_cpp):
    tokenizer = copy(trained(family))
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    with LlamaCpp(write(tmp_path / "x.gguf", tokenizer, arch), n_ctx=16) as peer:
        assert peer.n_vocab == ROWS
        assert (peer.bos_token_id, peer.eos_token_id, peer.pad_token_id) == (0, 0, 0)
        assert peer.metadata("tokenizer.ggml.eot_token_id") == "2"
        for name, text in {**TEXTS, "added": f"{CODE}<tool>{PROSE}<tool>"}.items():
            (ours,) = bpe.encode_batch(tokenizer, [text])
            assert peer.tokenize(text) == ours.tolist(), name
            assert peer.detokenize(ours.tolist()) == text, name
            # With the spelling of special tokens read as those tokens.
            marked = tokenizer.encode(text, add_special_tokens=False).ids
            assert peer.tokenize(text, special=True) == marked, name


MARKS = r"""'s 'LL ' ! -> _ a Zz é 7 42 ١٢ ² Ⅷ 東 안 🚀""".split()
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "e\u0301", "\u200d"]
PIECES = st.sampled_from(MARKS + SPACES)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_splits_random_texts_alike(family: str, tmp_path_factory, llama_cpp):
    tokenizer = trained(family)
    path = write(tmp_path_factory.mktemp("gguf") / "x.gguf", tokenizer)
    with LlamaCpp(path, n_ctx=16) as peer:

        @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(PIECES, max_size=14))
        def check(pieces: list[str]) -> None:
            text = "".join(pieces)
            assert peer.tokenize(text) == bpe.encode_batch(tokenizer, [text])[0].tolist()

        check()


@pytest.mark.slow
def test_llama_cpp_adds_no_token_before_a_text(tmp_path: Path, llama_cpp):
    """`llama-bpe` adds one by itself, were it not for add_bos_token."""
    import ctypes

    with LlamaCpp(write(tmp_path / "x.gguf", trained("llama3")), n_ctx=16) as peer:
        asked = peer._llama.llama_vocab_get_add_bos
        asked.argtypes, asked.restype = (ctypes.c_void_p,), ctypes.c_bool
        assert asked(peer._vocabulary) is False
