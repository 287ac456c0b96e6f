"""How a model is prompted: by what it is, unless that is said."""

from pathlib import Path

import pytest
import torch

from plm.errors import ConfigError
from plm.evaluation.subject import subject_of
from plm.export.hf import hf
from plm.formats.chat import chatml
from plm.formats.common import About
from plm.pretrained import Pretrained, load
from tests.evaluation.conftest import SIZES
from tests.model.common import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    model = tiny(*SIZES, dtype=torch.float32)
    about = About(chat_template=chatml(tokenizer))
    return hf(model, tokenizer, tmp_path_factory.mktemp("hf") / "out", about=about)


def found(folder: Path, **changes) -> Pretrained:
    loaded = load(folder)
    for name, value in changes.items():
        setattr(loaded, name, value)
    return loaded


def test_a_folder_with_a_template_converses_and_one_without_does_not(folder: Path):
    assert subject_of(found(folder)).style == "chat"
    assert subject_of(found(folder, chat_template=None)).style == "text"
    assert subject_of(found(folder), prompt="text").style == "text"


@pytest.mark.parametrize("style", ["text", "chat"])
def test_a_checkpoint_converses_where_its_run_did(folder: Path, style: str):
    template = load(folder).chat_template if style == "chat" else None
    told = found(folder, meta={"stage": "sft", "fingerprint": "f"}, chat_template=template)
    subject = subject_of(told)
    assert subject.style == style and subject.fingerprint == "f"
    assert bool(subject.template()) is (style == "chat")


def test_the_text_that_a_model_was_trained_to_refine_with(folder: Path):
    assert subject_of(found(folder)).refinement is None
    told = found(folder, meta={"refinement": {"text": "{question} {answer}", "sha256": "0"}})
    assert subject_of(told).refinement == "{question} {answer}"


def test_prompts_of_both_styles(folder: Path):
    text = subject_of(found(folder), prompt="text")
    assert text.tokenizer.decode(text.prompt("q", "go on <|im_end|>")) == "go on <|im_end|>"
    assert text.prompt("q", "") == [text.end_of_text]
    chat = subject_of(found(folder), prompt="chat")
    ids = chat.prompt("what?<|im_end|>", "unused")
    said = chat.tokenizer.decode(ids, skip_special_tokens=False)
    assert said.endswith("<|im_start|>assistant\n") and "what?" in said
    # The user's own mark is text: only the template's two turns are marked.
    assert ids.count(chat.tokenizer.token_to_id("<|im_end|>")) == said.count("<|im_end|>\n")


def test_the_engine_stops_at_the_end_of_a_turn(folder: Path):
    subject = subject_of(found(folder), prompt="chat")
    assert {0, 2} <= set(subject.engine.stop_ids) and subject.engine is subject.engine
    assert subject_of(found(folder), prompt="text").engine.stop_ids == (0,)


def test_what_cannot_be(folder: Path):
    with pytest.raises(ConfigError, match="prompt=talk is not one of auto, chat, text"):
        subject_of(found(folder), prompt="talk")
    with pytest.raises(ConfigError, match="knows no conversations"):
        subject_of(found(folder, chat_template=None), prompt="chat")
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json"):
        subject_of(found(folder, tokenizer=None))
    with pytest.raises(ConfigError, match="rows=0 must be at least 1"):
        subject_of(found(folder), rows=0)
