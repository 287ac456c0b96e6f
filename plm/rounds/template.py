"""How a model is asked for a better answer than one that it is shown."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from plm.errors import ConfigError

DEFAULT = Path(__file__).resolve().parents[2] / "configs" / "refinement" / "plm.yaml"
"""Where the text lies that is used where none is named."""

PLACES = ("{question}", "{answer}")
_PLACE = re.compile("|".join(map(re.escape, PLACES)))


class Template:
    """The text that stands in the question's place where an answer is shown.

    Paper: Zeng et al., ARIES (arXiv:2502.05605), whose own text is not ours.

    Args:
        text: with `{question}` and `{answer}`, where the question and the shown answer go.
    Raises:
        ConfigError: it is no text, or lacks one of the two places.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(
                f"refinement={text!r} is no text; it needs {' and '.join(PLACES)}, for example "
                "configs/refinement/plm.yaml"
            )
        for place in PLACES:
            if place not in text:
                raise ConfigError(
                    f"refinement has no place {place}: the {place.strip('{}')} would never be "
                    "seen; write it where that is to stand"
                )
        self.text = text

    @property
    def sha256(self) -> str:
        """Of the text, hex: what a checkpoint says it was trained with."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def render(self, question: str, answer: str) -> str:
        """What a user says in the question's place. Braces in either are left as they are."""
        given = dict(zip(PLACES, (question, answer), strict=True))
        return _PLACE.sub(lambda place: given[place[0]], self.text)

    def messages(self, messages: Sequence[Mapping[str, Any]], answer: str) -> list[dict[str, Any]]:
        """A conversation that waits for an answer, asking for a better one instead.

        Args:
            messages: the last one is the user's.
            answer: that is shown.
        """
        *before, asked = messages
        said = self.render(asked["content"], answer)
        return [*(dict(m) for m in before), {**asked, "content": said}]


@lru_cache(maxsize=1)
def default_text() -> str:
    """The text that is used where none is named."""
    return yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))["text"]
