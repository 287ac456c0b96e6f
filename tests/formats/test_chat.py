"""The chat template: what it makes of a conversation, and which words of it are the assistant's."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from plm.data import tokenizer as bpe
from plm.formats.chat import chat_template
from plm.formats.common import About

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hi {{ there }}"},
    {"role": "assistant", "content": " Yes.\n"},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "No."},
]
WRITTEN = (
    "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi {{ there }}<|im_end|>\n"
    "<|im_start|>assistant\n Yes.\n<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n"
    "<|im_start|>assistant\nNo.<|im_end|>\n"
)


def made(special: list[str]) -> PreTrainedTokenizerFast:
    """transformers' tokenizer with our template, and so the peer's Jinja."""
    tokenizer = bpe.train(["Some words to split."], vocab_size=280, special_tokens=special)
    peer = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    peer.chat_template = chat_template(tokenizer, About())
    return peer


def test_a_conversation_as_text():
    peer = made(SPECIAL)
    assert peer.apply_chat_template(TALK, tokenize=False) == WRITTEN
    asked = peer.apply_chat_template(TALK[:2], tokenize=False, add_generation_prompt=True)
    assert asked == WRITTEN[: WRITTEN.index(" Yes.")]
    # Nobody is put before the first message.
    assert peer.apply_chat_template(TALK[1:2], tokenize=False).startswith("<|im_start|>user\nHi")


def test_the_mask_covers_what_the_assistant_says_and_its_end():
    found = made(SPECIAL).apply_chat_template(
        TALK, return_dict=True, return_assistant_tokens_mask=True
    )
    peer = made(SPECIAL)
    marked = zip(found["input_ids"], found["assistant_masks"], strict=True)
    kept = [index for index, mask in marked if mask]
    assert peer.decode(kept) == " Yes.\n<|im_end|>No.<|im_end|>"
    assert peer.decode(found["input_ids"]) == WRITTEN


@pytest.mark.parametrize("special", [SPECIAL[:1], SPECIAL[:2], [SPECIAL[0], SPECIAL[2]]])
def test_without_both_marks_there_is_none(special: list[str]):
    tokenizer = bpe.train(["Some words."], vocab_size=280, special_tokens=special)
    assert chat_template(tokenizer, About()) is None
    assert chat_template(tokenizer, About(chat_template="{{ 1 }}")) == "{{ 1 }}"


def test_marks_that_are_plain_text_do_not_count(tmp_path: Path):
    tokenizer = bpe.train(["Some words."], vocab_size=280, special_tokens=SPECIAL)
    state = json.loads(tokenizer.to_str())
    for token in state["added_tokens"][1:]:
        token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    assert chat_template(bpe.load(tmp_path / "tokenizer.json"), About()) is None
