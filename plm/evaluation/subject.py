"""The model that is evaluated, with what belongs to it."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plm.data import tokenizer as bpe
from plm.errors import ConfigError

STYLES = ("auto", "chat", "text")


@dataclass
class Subject:
    """A model as the tasks see it.

    Attributes:
        model: on the device it runs on.
        tokenizer: a tokenizers.Tokenizer.
        end_of_text: id of the token that ends a document.
        chat: renders conversations; None: the model is prompted with text.
        rope_theta: rotary base, where it is not the model's own.
        data: the run's node `data`, for tasks on its held-out text; None: there is no run.
        fingerprint: of the data that it was trained on; None: not known.
        window: seq_len and isolate_documents of the run's training; None: there is no run.
        rows: sequences that go through the model at a time.
        max_len: longest prompt and answer together.
        device_context: entered around every forward, such as autocast.
        compiled: whether the engine steps by compiled kernels.
        refinement: text that the model was trained to refine answers with, as
            `plm.rounds.template.Template` takes it; None: it was not.
    """

    model: nn.Module
    tokenizer: Any
    end_of_text: int
    chat: Any = None
    rope_theta: float | None = None
    data: dict[str, Any] | None = None
    fingerprint: str | None = None
    window: tuple[int, bool] | None = None
    rows: int = 32
    max_len: int = 0
    device_context: Any = nullcontext
    compiled: bool = False
    refinement: str | None = None
    _engine: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.max_len = self.max_len or self.model.max_position_embeddings

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    @property
    def style(self) -> str:
        """How it is prompted: chat or text."""
        return "text" if self.chat is None else "chat"

    @property
    def engine(self) -> Any:
        """A rollout engine on the model, made when it is first asked for."""
        if self._engine is None:
            from plm.rollout.engine import Engine

            # Without a limit of its own the engine takes only as many places as are needed.
            shorter = self.max_len < self.model.max_position_embeddings
            stops = {self.end_of_text, *(self.chat.stop_ids if self.chat is not None else ())}
            self._engine = Engine(
                self.model,
                tokenizer=self.tokenizer,
                stop_ids=sorted(stops),
                rope_theta=self.rope_theta,
                rows=self.rows,
                max_len=self.max_len if shorter else None,
                compiled=self.compiled,
            )
        return self._engine

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text; what looks like a special token is text."""
        return [ids.tolist() for ids in bpe.encode_batch(self.tokenizer, list(texts))]

    def prompt(self, question: str, text: str) -> list[int]:
        """Ids of a prompt.

        Args:
            question: what a user says, for a model with a chat template.
            text: what the others go on from.
        """
        if self.chat is not None:
            return list(self.chat.prompt([{"role": "user", "content": question}]))
        return self.encode([text])[0] or [self.end_of_text]

    def template(self) -> str | None:
        """The chat template, or None."""
        return None if self.chat is None else str(getattr(self.chat, "template", ""))


def subject_of(
    found: Any,
    *,
    prompt: str = "auto",
    rows: int = 32,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    device_context: Any = nullcontext,
    compiled: bool | str = False,
) -> Subject:
    """The subject that a `plm.pretrained.Pretrained` is.

    Args:
        found: as `plm.pretrained.load` gave it.
        prompt: chat, text, or auto: chat where there is a chat template, which a run has whose
            data, or the data of the run that it began from, hold conversations.
        rows: sequences at a time.
        device, dtype: where and in what the model computes; None: as it is.
        device_context: entered around every forward, such as autocast.
        compiled: as for plm.rollout.engine.Engine; the kernels are built now.
    Raises:
        ConfigError: no tokenizer, prompt=chat for a model that knows no conversations, or kernels
            that cannot be built.
    """
    from plm.formats.common import About, end_of_text_id
    from plm.kernels.cpu import wanted

    if rows < 1:
        raise ConfigError(f"rows={rows} must be at least 1")
    if found.tokenizer is None:
        raise ConfigError(f"{found.path} has no tokenizer.json; nothing can be asked without one")
    tokenizer = bpe.load(found.tokenizer)
    settings = frozen(found.run) if found.run is not None else None
    return Subject(
        model=found.model.to(device=device, dtype=dtype),
        tokenizer=tokenizer,
        end_of_text=end_of_text_id(tokenizer, About(end_of_text=found.end_of_text)),
        chat=chat_for(found, prompt),
        rope_theta=found.rope_theta,
        data=settings["data"] if settings else None,
        fingerprint=found.meta.get("fingerprint"),
        window=window_of(settings) if settings else None,
        rows=rows,
        device_context=device_context,
        compiled=wanted(compiled),
        refinement=refinement_of(found),
    )


def refinement_of(found: Any) -> str | None:
    """The text that a `plm.pretrained.Pretrained` was trained to refine answers with, or None."""
    return (found.meta.get("refinement") or {}).get("text")


def chat_for(found: Any, prompt: str) -> Any:
    """The Chat that prompts a model, None for text.

    Args:
        found: a Pretrained.
        prompt: auto, chat or text.
    Raises:
        ConfigError: another word, or a model that knows no conversations.
    """
    if prompt not in STYLES:
        raise ConfigError(f"prompt={prompt} is not one of {', '.join(STYLES)}")
    if prompt == "text" or (prompt == "auto" and found.chat_template is None):
        return None
    from plm.formats.chat import Chat

    return Chat.of(found)


def frozen(run: Path) -> dict[str, Any]:
    """The frozen configuration of a run.

    Raises:
        ConfigError: there is none.
    """
    from plm.run import RunFolder

    settings = RunFolder(run).frozen()
    if settings is None:
        raise ConfigError(f"{run} has no config.yaml: it is no run folder")
    return settings


def window_of(settings: dict[str, Any]) -> tuple[int, bool] | None:
    """Longest window of a run's phases, and whether its first phase isolates documents."""
    from plm.phases import Plan

    plan = Plan.read(settings["phases"])
    return plan.max_seq_len, plan.phases[0].phase.isolate_documents
