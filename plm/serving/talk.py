"""A conversation with one model from within this process, turn by turn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plm.errors import ConfigError
from plm.formats.common import whole
from plm.rollout.sampling import Sampling, row_seed
from plm.serving.served import Served

if TYPE_CHECKING:
    from plm.formats.chat import Chat
    from plm.rollout.completion import Event
    from plm.rollout.engine import Engine

# Older turns make room until an answer has this part of the context, if it may be so long.
_LEAST_SHARE = 4


@dataclass
class Turn:
    """A question on its way.

    Attributes:
        prompt: ids.
        sampling: of its answer.
        dropped: older turns that had to make room.
        cut: the context leaves fewer tokens than may be drawn.
    """

    prompt: list[int]
    sampling: Sampling
    dropped: int = 0
    cut: bool = False


@dataclass
class Talk:
    """What was said, and what the model is shown of it.

    Args:
        engine: driven by nobody else.
        chat: None: the model knows no conversations; each text is continued by itself.
        sampling: of the answers.
        system: text of the system message; "": none.

    Attributes:
        messages: user and assistant in turn, all of them.
        forgotten: so many messages at the beginning are not shown any more.
        asked: questions so far, for the seed of the next.
    """

    engine: Engine
    chat: Chat | None
    sampling: Sampling
    system: str = ""
    messages: list[dict[str, str]] = field(default_factory=list)
    forgotten: int = 0
    asked: int = 0

    def __post_init__(self) -> None:
        self._served = Served(self.engine, self.chat, "")

    def ask(self, text: str) -> Turn:
        """Prepare an answer, with the older turns that there is room for.

        Raises:
            ConfigError: this text alone leaves no room in the context, or is no text in UTF-8;
                nothing has changed.
            BadConversation: the chat template does not render it.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ConfigError("this is not text in UTF-8") from error
        context = self._served.context
        most = self.sampling.max_new_tokens
        least = min(most, context // _LEAST_SHARE)
        start = self.forgotten
        prompt = self._prompt(text, start)
        while start < len(self.messages) and len(prompt) + least > context:
            start += 2
            prompt = self._prompt(text, start)
        room = context - len(prompt)
        if room < 1:
            system = ", with the system prompt," if self.system and self.chat else ""
            raise ConfigError(
                f"this takes {len(prompt)} tokens{system} and the context has {context}, which "
                "leaves no room for an answer; say it shorter"
            )
        dropped = (start - self.forgotten) // 2
        self.forgotten = start
        seed = row_seed(self.sampling.seed, self.asked)
        self.asked += 1
        sampling = replace(self.sampling, max_new_tokens=min(most, room), seed=seed)
        return Turn(prompt, sampling, dropped, room < most)

    def answer(self, turn: Turn) -> Iterator[Event]:
        """Draw it, token by token."""
        return self.engine.stream(turn.prompt, turn.sampling)

    def keep(self, asked: str, answered: str) -> None:
        """Let a question and its answer be part of what follows, unless the answer has no words.

        No model was trained to go on behind such an answer.
        """
        if not answered.strip():
            return
        self.messages.append({"role": "user", "content": asked})
        self.messages.append({"role": "assistant", "content": answered})

    def clear(self) -> None:
        """Forget all that was said, but not the system prompt."""
        self.messages.clear()
        self.forgotten = self.asked = 0

    def save(self, path: Path, **about: Any) -> None:
        """Write the conversation in the form that training takes: `messages`, on one line.

        Raises:
            ConfigError: something is there already, or it cannot be written.
        """
        if not path.parent.is_dir():
            raise ConfigError(f"{path.parent} is no folder; make it, or save elsewhere")
        system = [{"role": "system", "content": self.system}] if self.system else []
        told = {"messages": [*system, *self.messages], **about}
        with whole(path, "save under another name") as partial:
            text = json.dumps(told, ensure_ascii=False)
            partial.write_text(text + "\n", encoding="utf-8")

    def _prompt(self, text: str, start: int) -> list[int]:
        if self.chat is None:
            return self._served.encode(text)
        system = [{"role": "system", "content": self.system}] if self.system else []
        shown = self.messages[start:]
        return self.chat.prompt([*system, *shown, {"role": "user", "content": text}])
