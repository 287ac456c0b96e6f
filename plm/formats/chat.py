"""How a conversation becomes text and tokens: one Jinja template for us, Hugging Face and GGUF."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plm.data.conversations import BadConversation
from plm.data.tokenizer import load, special_tokens
from plm.errors import ConfigError
from plm.formats.chat_render import FAILS, Messages, Spans, Tools, is_marked, parse, render
from plm.formats.chat_special import Special
from plm.formats.common import IM_END, IM_START

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from plm.pretrained import Pretrained

CHATML = Path(__file__).with_name("chatml.jinja")
"""No system prompt unless one is given; the assistant's words and their end mark are marked for
transformers' `return_assistant_tokens_mask`."""

_ASKED = {"role": "user", "content": "q0q"}
# Both cases, so that a template that changes them is found out.
_ANSWERED = {"role": "assistant", "content": "a0A"}
_TALK = [_ASKED, _ANSWERED] * 2


def chatml(tokenizer: Tokenizer) -> str | None:
    """ChatML's template; None: the tokenizer lacks one of its marks as a special token."""
    if not {IM_START, IM_END} <= set(special_tokens(tokenizer)):
        return None
    return CHATML.read_text(encoding="utf-8")


class Chat:
    """Conversations as the tokens of one model.

    Each turn of the assistant is tokenised apart from what stands before it, so that the prompt of
    a turn is always the beginning of the whole, also where an answer begins with a line break that
    the tokenizer would join with the template's.

    Args:
        tokenizer: of the model; a copy is used, so that several threads may share it.
        template: Jinja; None: ChatML.
        end_of_text: the token that ends a document; None: the tokenizer's first special one.
            Templates read it as bos_token and eos_token, too, unless they are `self_contained`.
        where: what an error calls the template: the setting and the file that it is from.

    Attributes:
        template: its text.
        ends: tokens that the template ends an assistant's turn with; most have one.
        stop_ids: ids that end a turn or a document.

    Raises:
        ConfigError: the tokenizer lacks ChatML's marks, or the template does not parse or cannot
            render a question with its answer.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | None = None,
        *,
        end_of_text: str | None = None,
        where: str = "the chat template",
    ) -> None:
        self._special = Special(tokenizer)
        special = self._special.ids
        ours = CHATML.read_text(encoding="utf-8")
        template = ours if template is None else template
        missing = [mark for mark in (IM_START, IM_END) if mark not in special]
        if template == ours and missing:
            raise ConfigError(
                f"the tokenizer lacks {' and '.join(missing)} as special tokens, which ChatML is "
                "written with; add them (data.new_tokens), or name data.chat_template"
            )
        self.template, self._where = template, where
        self._tokenizer = _copy(tokenizer)
        self._text_only = _copy(tokenizer)
        self._text_only.encode_special_tokens = True
        end = end_of_text or next(iter(special), None)
        self._variables = {} if end is None else {"bos_token": end, "eos_token": end}
        self._marked = is_marked(template)
        self._checked = False
        parse(template, where)
        try:
            self.ends: tuple[str, ...] = self._find_ends()
        except BadConversation as error:
            why = str(error).removeprefix(FAILS)
            raise ConfigError(
                f"{where} cannot be used, it fails to render a question with its answer: {why}"
            ) from error
        stops = (special[name] for name in (*self.ends, end) if name in special)
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(stops))

    @classmethod
    def of(cls, pretrained: Pretrained) -> Chat:
        """Of a model that was trained on conversations.

        Raises:
            ConfigError: it was not, or came without a tokenizer.
        """
        if pretrained.tokenizer is None or pretrained.chat_template is None:
            what = "tokenizer" if pretrained.tokenizer is None else "chat template"
            raise ConfigError(
                f"{pretrained.path}: knows no conversations, there is no {what}; take a model "
                "that was trained on some (+experiment=plm_sft)"
            )
        return cls(
            load(pretrained.tokenizer),
            self_contained(pretrained.chat_template, pretrained.path),
            end_of_text=pretrained.end_of_text,
            where=f"the chat template of {pretrained.path}",
        )

    def render(
        self, messages: Messages, *, tools: Tools = None, add_generation_prompt: bool = False
    ) -> str:
        """The conversation as text, as transformers' `apply_chat_template` gives it.

        Args:
            messages: each with role and content, perhaps tool_calls.
            tools: JSON schemas of functions.
            add_generation_prompt: end with the beginning of an assistant's turn.
        Raises:
            BadConversation: the template fails to render it.
        """
        return self._render(messages, tools, add_generation_prompt)[0]

    def prompt(self, messages: Messages, *, tools: Tools = None) -> list[int]:
        """Ids of the conversation and of the beginning of the assistant's next turn.

        Text in a message that reads like a special token stays text.

        Raises:
            BadConversation: the template fails to render it.
        """
        said, mark = self._special.broken({"messages": list(messages), "tools": tools})
        text, spans = self._render(said["messages"], said["tools"], True)
        if not self._marked:
            try:
                spans = self._growing(said["messages"], said["tools"], text)
            except (ConfigError, BadConversation):
                # Good enough to be answered; `encode` says what is wrong.
                spans = []
        return [i for _, ids in self._pieces(text, spans, mark) for i in ids]

    def encode(self, messages: Messages, *, tools: Tools = None) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of a whole conversation, and which of them the assistant is to say.

        Returns:
            ids [n] int32; mask [n] bool: the assistant's words, the token that ends its turn
            included.
        Raises:
            BadConversation: a message reads like a special token, or the template fails to render.
            ConfigError: masks cannot be made with this template.
        """
        self.check_masks()
        if found := self._special.first([list(messages), tools]):
            raise BadConversation(
                "reads like a special token", f"{found} stands in the text of a message"
            )
        text, spans = self._render(messages, tools, False)
        if not self._marked:
            spans = self._growing(messages, tools, text)
        pieces = self._pieces(text, spans)
        mask = np.repeat([said for said, _ in pieces], [len(ids) for _, ids in pieces])
        ids = np.fromiter((i for _, ids in pieces for i in ids), dtype=np.int32)
        return ids, mask.astype(bool)

    def check_masks(self) -> None:
        """Whether the template shows what the assistant says, to the end of its turn.

        Raises:
            ConfigError: it does not, or not in a way that can be relied on.
        """
        if self._checked:
            return
        text, spans = self._render(_TALK, None, False)
        if text.count(_ANSWERED["content"]) < _TALK.count(_ANSWERED):
            raise ConfigError(
                f"{self._where} does not write what the assistant says as it is: there would be "
                "nothing to learn; write {{ message['content'] }} there, or name another "
                "data.chat_template"
            )
        if not self.ends:
            found = self._special.pattern.search(text.partition(_ANSWERED["content"])[2])
            raise ConfigError(
                f"{self._where} ends an assistant's turn with no special token"
                + (f" ({found[0]} comes with the next turn)" if found else "")
                + ": a model trained with it would never stop; name another data.chat_template"
            )
        if not self._marked:
            spans = self._growing(_TALK, None, text)
        if None in self._answers_end(text, spans):
            raise ConfigError(
                f"{self._where} leaves {self.ends[-1]}, which ends an assistant's turn, out of its "
                "{% generation %} marks: a model trained with it would never stop; move "
                "{% endgeneration %} behind it, or name another data.chat_template"
            )
        self._checked = True

    def _render(self, messages: Messages, tools: Tools, prompt: bool) -> tuple[str, Spans]:
        """Text, and where in it the template marks what the assistant says."""
        said = {"tools": tools, "add_generation_prompt": prompt, **self._variables}
        return render(self.template, messages, **said)

    def _growing(self, messages: Messages, tools: Tools, text: str) -> Spans:
        """Where the assistant speaks, from how the text grows by each of its turns."""
        spans = []
        for index, message in enumerate(messages):
            if message.get("role") != "assistant":
                continue
            before = self._render(messages[:index], tools, True)[0]
            after = self._render(messages[: index + 1], tools, False)[0]
            if not after.startswith(before) or not text.startswith(after):
                raise ConfigError(
                    f"{self._where} renders the beginning of a conversation otherwise once it goes "
                    "on, and has no {% generation %} marks: what the assistant says cannot be told "
                    f"apart (message {index}); name another data.chat_template"
                )
            said = after[len(before) :]
            end = next(iter(self.ends), "")
            stop = said.rfind(end)
            stop = stop + len(end) if stop >= 0 else len(said)
            spans.append((len(before), len(before) + stop))
        return spans

    def _pieces(self, text: str, spans: Spans, mark: str = "") -> list[tuple[bool, list[int]]]:
        """(said by the assistant, ids) of one stretch of text after another."""
        found, place = [], 0
        for start, stop in [*spans, (len(text), len(text))]:
            for said, part in ((False, text[place:start]), (True, text[start:stop])):
                if part:
                    found.append((said, self._encoded(part, mark)))
            place = stop
        return found

    def _encoded(self, text: str, mark: str) -> list[int]:
        if not mark or mark not in text:
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        ids: list[int] = []
        for part in self._special.pattern.split(text):
            if part in self._special.ids:
                ids.append(self._special.ids[part])
            elif part:
                plain = part.replace(mark, "")
                ids += self._text_only.encode(plain, add_special_tokens=False).ids
        return ids

    def _find_ends(self) -> tuple[str, ...]:
        text, spans = self._render(_TALK, None, False)
        found = dict.fromkeys(filter(None, self._answers_end(text, spans)))
        if found:
            return tuple(found)
        text = self._render(_TALK[:2], None, False)[0]
        behind = text.rpartition(_ANSWERED["content"])[2].rstrip()
        only_special = not self._special.pattern.sub("", behind).strip()
        if not only_special or _ANSWERED["content"] not in text:
            return ()
        end = self._special.ending(behind)
        return (end,) if end else ()

    def _answers_end(self, text: str, spans: Spans) -> list[str | None]:
        """For each answer of _TALK the token at the end of what is marked round it."""
        joined: Spans = []
        for start, stop in spans:
            if joined and joined[-1][1] == start:
                start = joined.pop()[0]
            joined.append((start, stop))
        places = [found.start() for found in re.finditer(_ANSWERED["content"], text)]
        around = [[text[a:b] for a, b in joined if a <= place < b] for place in places]
        return [self._special.ending(said[0]) if said else None for said in around] or [None]


def _copy(tokenizer: Tokenizer) -> Tokenizer:
    from tokenizers import Tokenizer

    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def self_contained(template: str, folder: Path) -> str:
    """A template that needs no tokenizer_config.json: it says itself what bos_token is.

    Templates of others read the tokens that are named there; here, and in what is exported from
    here, the token that ends a document is all of them.

    Args:
        template: Jinja.
        folder: perhaps with tokenizer_config.json.
    Raises:
        ConfigError: tokenizer_config.json is damaged.
    """
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return template
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    said = ""
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = config.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        read = re.search(rf"\b{name}\b", template) and not re.search(rf"set\s+{name}\b", template)
        if read and isinstance(token, str):
            said += f"{{% set {name} = {json.dumps(token, ensure_ascii=False)} %}}"
    # The first line break behind a tag is swallowed.
    return said + "\n" * (bool(said) and template.startswith("\n")) + template
