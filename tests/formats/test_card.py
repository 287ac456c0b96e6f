"""Model cards: what the Hub's parser reads of them, and only figures that a file holds."""

import ast
import json
import shlex
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from plm.errors import DataError
from plm.formats.architecture import of_model
from plm.formats.card import card, llama_cpp_command, transformers_command
from plm.formats.common import About
from tests.model.common import tiny

SUMMARY = {
    "stage": "pretrain",
    "status": "done",
    "tokens": 1_402_880,
    "steps": 685,
    "phases": [
        {
            "name": "stable",
            "tokens": 931_840,
            "seq_len": 32,
            "rate": {"shape": "hold", "to": 1.0, "warmup_tokens": 50_000},
            "mixture": {"prose": 0.6, "code": 0.4},
        },
        {
            "name": "decay",
            "tokens": 471_040,
            "seq_len": 16,
            "rate": {"shape": "one_minus_sqrt", "to": 1 / 60, "warmup_tokens": 0},
            "mixture": {"prose": 1.0},
        },
    ],
    "sources": {
        "prose": {"tokens_read": 812_345, "epochs": 4.234},
        "code": {"tokens_read": 590_535, "epochs": 0.251},
    },
    "val_before": {"prose": {"loss": 8.3399, "bpb": 4.0069}},
    "val_after": {"prose": {"loss": 3.8224, "bpb": 1.8365}, "code": {"loss": 3.4385, "bpb": 1.58}},
    "ngrams": {"prose": {"unigram": 7.1145, "trigram_kneser_ney": 4.8833}},
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "data": {
        "comparable": False,
        "why": "other packages",
        "leak": {"prose": 0.00212, "code": 0.0},
    },
    "command": "python train.py +experiment=small name=a|b",
}
MANIFEST = {
    "recipe": "embedded",
    "fingerprint": "2640c9e0cf9d",
    "sources": {
        "prose": {
            "train": {"documents": 1052, "tokens": 2_885_460, "bytes": 1},
            "licence": "per | distribution\nof each",
            "licences": {"numpy": "BSD-3-Clause", "anyio": "MIT"},
            "leak": {"share": 0.00212},
        },
        "code": {"train": {"documents": 686, "tokens": 2_673_437}},
    },
}
PLM, LLAMA = of_model(tiny()), of_model(tiny("model=llama"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    return tmp_path


def rows(text: str, section: str) -> list[list[str]]:
    """Cells of the first table of a section, without its rule."""
    lines = text.split(f"## {section}\n")[1].split("\n## ")[0].splitlines()
    table = [line for line in lines if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    assert len({len(row) for row in cells}) == 1, cells
    return [cells[0], *cells[2:]]


@pytest.mark.parametrize(
    ("architecture", "tags"), [(PLM, ["plm", "custom_code"]), (LLAMA, ["plm", "llama"])]
)
def test_front_matter_is_what_the_hub_reads(architecture, tags: list[str]):
    found = ModelCard(card(architecture, About("small"), parameters=6100)).data.to_dict()
    assert found == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": tags,
    }


def test_figures_of_a_run(run: Path):
    text = card(PLM, About("small", run=run), parameters=6100, dtype="bfloat16")
    model = dict(rows(text, "Model"))
    assert model["parameters"].startswith("6,100,") and model["weights"] == "bfloat16"
    assert "1,402,880 tokens in 685 steps" in text and SUMMARY["command"] in text
    assert rows(text, "Training")[1:] == [
        ["stable", "931,840", "32", "hold to 1, warm-up 50.0k", "prose 60%, code 40%"],
        ["decay", "471,040", "16", "one_minus_sqrt to 0.01667", "prose 100%"],
    ]
    assert rows(text, "Data")[1:] == [
        ["prose", "1,052", "2,885,460", "812,345", "4.23", "0.2 %", r"per \| distribution of each"],
        ["code", "686", "2,673,437", "590,535", "0.25", "–", "–"],
    ]
    assert "prose by distribution: anyio: MIT; numpy: BSD-3-Clause" in text
    assert rows(text, "Results") == [
        ["source", "before", "unigram", "trigram kneser ney", "after", "bits a byte"],
        ["prose", "8.340", "7.114", "4.883", "3.822", "1.837"],
        ["code", "–", "–", "–", "3.438", "1.580"],
    ]
    assert "Trained with python 3.11.7, torch 2.13.0." in text


def test_limits_are_said(run: Path):
    text = card(PLM, About(run=run), parameters=1).split("## Limits")[1]
    for part in (
        "A base model",
        "windows of at most 32 tokens; longer is untried",
        "(prose 0.2 %), which flatters",
        "Not comparable with other machines' figures: other packages",
    ):
        assert part in text, part
    summary = {**SUMMARY, "stage": "sft", "data": {"comparable": True, "leak": {"code": 0.0}}}
    (run / "summary.json").write_text(json.dumps(summary))
    text = card(PLM, About(run=run), parameters=1).split("## Limits")[1]
    assert not [w for w in ("base model", "flatters", "comparable") if w in text]


def test_without_a_run_it_is_short_and_holds_no_figure_of_one(tmp_path: Path):
    for run in (None, tmp_path):
        text = card(LLAMA, About(run=run), parameters=4128)
        assert "Nothing is known here of its training" in text
        assert not [s for s in ("Training", "Data", "Results") if f"## {s}\n" in text]


def test_how_to_use_it():
    text = card(PLM, About("small"), parameters=1)
    assert "from_pretrained(folder, trust_remote_code=True)" in text
    assert "llama-completion -m small-F16.gguf -no-cnv -fa off" in text
    text = card(LLAMA, About("small"), parameters=1, tokenizer_class=None)
    assert "trust_remote_code" not in text and "-fa off" not in text and "okenizer" not in text
    untied = of_model(tiny("model/embedding=untied"))
    assert "llama.cpp has no PLM" in card(untied, About(), parameters=1)
    for tokenizer, chat in (("AutoTokenizer", None), ("AutoTokenizer", "{{ 1 }}"), (None, None)):
        text = card(PLM, About(chat_template=chat), parameters=1, tokenizer_class=tokenizer)
        compile(text.split("```python\n")[1].split("```")[0], "card", "exec")
        # A model that was taught to answer is asked; the others go on with a text.
        assert ("apply_chat_template" in text) == (chat is not None)
        assert ("-cnv --jinja" in text) == (chat is not None)


def test_commands_quote_their_paths():
    assert llama_cpp_command("a b.gguf", LLAMA).startswith("llama-completion -m 'a b.gguf' ")
    for tokenizer, chat in ((True, False), (True, True), (False, False)):
        words = shlex.split(transformers_command("it\"s 'here", PLM, tokenizer, chat))
        assert ("'role'" in ast.unparse(ast.parse(words[2]))) == chat
        assert words[:2] == ["python", "-c"] and len(words) == 3
        (place,) = [
            node.value
            for node in ast.walk(ast.parse(words[2]))
            if isinstance(node, ast.Constant) and "here" in str(node.value)
        ]
        assert place == "it\"s 'here" and "trust_remote_code=True" in words[2]


def test_a_damaged_file_is_named(run: Path):
    (run / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest.json is not JSON"):
        card(PLM, About(run=run), parameters=1)
    (run / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match=r"manifest.json holds a list, not a mapping"):
        card(PLM, About(run=run), parameters=1)
