"""How a conversation becomes text: one Jinja template for training, Hugging Face and GGUF."""

from pathlib import Path

from tokenizers import Tokenizer

from plm.data.tokenizer import special_tokens
from plm.formats.common import IM_END, IM_START, About

CHATML = Path(__file__).with_name("chatml.jinja")
"""No system prompt unless one is given; the assistant's words and their end mark are marked for
transformers' `return_assistant_tokens_mask`."""


def chat_template(tokenizer: Tokenizer, about: About) -> str | None:
    """The Jinja template that goes with a model.

    Args:
        tokenizer: must have both of ChatML's marks as special tokens, or there is no ChatML.
        about: its own template comes first.
    Returns:
        The template's text; None: the model knows no conversations.
    """
    if about.chat_template is not None:
        return about.chat_template
    if not {IM_START, IM_END} <= set(special_tokens(tokenizer)):
        return None
    return CHATML.read_text(encoding="utf-8")
