"""What a round is made of, built from the settings and looked at before anything is sampled."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from plm.config import build
from plm.errors import ConfigError
from plm.reward.common import check
from plm.rounds.template import Template


@dataclass
class Parts:
    """What a round is made of, built.

    Attributes:
        task: the prompts: `items`, and `grade` where answers can be verified.
        candidates, reward, pairing: the choices.
        template: how an answer is shown.
        number: prompts that are drawn.
        solutions: the prompts' own solutions may be the better answers of pairs.
        seed: of the prompts' order and of every draw.
        rows: sequences that grow at a time.
        compiled: as for plm.rollout.engine.Engine.
    """

    task: Any
    candidates: Callable[..., Any]
    reward: Callable[..., Any]
    pairing: Callable[..., Any]
    template: Template
    number: int
    solutions: bool
    seed: int
    rows: int
    compiled: bool | str

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Parts":
        """From the settings `prompts`, `candidates`, `reward`, `pairing`, `refinement`, `round`.

        Raises:
            ConfigError: one is missing or cannot work, said before anything is sampled.
        """
        for key in ("prompts", "reward", "pairing"):
            if not settings.get(key):
                raise ConfigError(f"{key} is missing: a round with candidates needs one")
        own = settings["round"]
        if not settings.get("init_from"):
            raise ConfigError("init_from=<run> is missing: a round samples from that model")
        for key, least in (("prompts", 1), ("rows", 1), ("seed", 0)):
            value = own[key]
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"round.{key}={value} must be a whole number from {least} on")
        if not isinstance(own["solutions"], bool):
            raise ConfigError(f"round.solutions={own['solutions']} must be true or false")
        built = {key: build(settings[key]) for key in ("candidates", "reward", "pairing")}
        task, template = build(settings["prompts"]), Template(settings["refinement"]["text"])
        _takes("reward", built["reward"], "", None)
        check(built["reward"], graded=hasattr(task, "grade"))
        # Of no question, and of no answers: their settings are looked at.
        for key, given in (("candidates", (None, [], template, [])), ("pairing", ([],))):
            _takes(key, built[key], *given)
            built[key](*given)
        _check_agreeing(settings)
        return cls(
            task=task,
            template=template,
            number=own["prompts"],
            solutions=own["solutions"],
            seed=own["seed"],
            rows=own["rows"],
            compiled=own["compiled"],
            **built,
        )


def _takes(key: str, function: Callable[..., Any], *given: Any) -> None:
    """Refuse settings that a function has no place for, before it is needed."""
    inner, settings = getattr(function, "func", function), getattr(function, "keywords", {})
    try:
        inspect.signature(inner).bind(*given, **settings)
    except TypeError as error:
        name = getattr(inner, "__name__", type(inner).__name__)
        raise ConfigError(f"{key}: {name} {error}") from error


def _check_agreeing(settings: dict[str, Any]) -> None:
    """Whether as many refinements are drawn as a pairing wants to agree."""
    wants, drawn = (settings[key].get("turns", 0) for key in ("pairing", "candidates"))
    if wants > drawn:
        raise ConfigError(
            f"pairing.turns={wants} answers must agree, and candidates.turns={drawn} refinements "
            f"are drawn: no pair could be left; set candidates=chain candidates.turns={wants}"
        )
