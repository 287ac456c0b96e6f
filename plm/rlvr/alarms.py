"""Failures that no loss shows: what is looked at after every sampling, and what is said."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from plm.checkpoint import write_atomic
from plm.errors import CheckpointError, ConfigError, GuardStop

log = logging.getLogger("plm")

ACTIONS = ("warn", "stop")
FILE = "alarms.json"


@dataclass
class Alarms:
    """Watches the figures of the sampling.

    Attributes:
        action: warn says each alarm once; stop ends the run with exit code 3.
        cut: share of answers that end because there is no more room.
        patience: samplings in a row without a group whose rewards differ, or with one reward.
        entropy: nats a token; below it the policy has collapsed.

    Raises:
        ConfigError: another action, or a value out of its range.
    """

    action: str = "warn"
    cut: float = 0.3
    patience: int = 10
    entropy: float = 0.01
    _same: int = field(default=0, init=False)
    _constant: int = field(default=0, init=False)
    _said: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ConfigError(f"alarms.action={self.action} is not one of {', '.join(ACTIONS)}")
        if self.patience < 1 or not 0 <= self.cut <= 1 or self.entropy < 0:
            raise ConfigError(
                f"alarms: patience={self.patience} must be at least 1, cut={self.cut} a share, "
                f"entropy={self.entropy} at least 0"
            )

    def write(self, folder: Path) -> None:
        """Keep with a checkpoint what was counted and said so far."""
        plain = {"same": self._same, "constant": self._constant, "said": sorted(self._said)}
        write_atomic(folder / FILE, json.dumps(plain))

    def read(self, folder: Path) -> None:
        """Go on counting from a checkpoint; one that was written before it had counts has none.

        Raises:
            CheckpointError: they are damaged.
        """
        if not (folder / FILE).exists():
            return
        try:
            plain = json.loads((folder / FILE).read_text(encoding="utf-8"))
            self._same, self._constant = int(plain["same"]), int(plain["constant"])
            self._said = set(plain["said"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"{folder / FILE} cannot be read: {error}") from error

    def look(self, step: int, figures: Mapping[str, float]) -> None:
        """After a sampling.

        Args:
            step: that it is for.
            figures: `cut`, `same` (share of groups without variance), `low`, `high` (of the
                rewards), and `entropy` where it is known.
        Raises:
            GuardStop: an alarm, where the action is stop.
        """
        if figures["cut"] > self.cut:
            self._say(
                step, "cut", f"{figures['cut']:.0%} of the answers were cut: raise "
                "rollouts.max_new_tokens, or reward short ones"
            )  # fmt: skip
        self._same = self._same + 1 if figures["same"] >= 1 else 0
        self._constant = self._constant + 1 if figures["low"] == figures["high"] else 0
        if self._constant >= self.patience:
            self._say(
                step, "constant", f"every reward has been {figures['low']:g} for "
                f"{self._constant} samplings: nothing is learnt; look at the samples"
            )  # fmt: skip
        elif self._same >= self.patience:
            self._say(
                step, "same", f"no group's rewards have differed for {self._same} samplings: "
                "nothing is learnt; take easier or harder prompts, or a larger rollouts.group"
            )  # fmt: skip
        entropy = figures.get("entropy", math.nan)
        if entropy < self.entropy:
            self._say(
                step, "entropy", f"the policy's entropy is {entropy:.4f} nats a token: it has "
                "collapsed; lower the rate, or give stage.entropy_weight a value"
            )  # fmt: skip

    def _say(self, step: int, kind: str, text: str) -> None:
        if self.action == "stop":
            raise GuardStop(f"step {step}: {text} (alarms.action=warn goes on)")
        if kind not in self._said:
            self._said.add(kind)
            log.warning("step %s: %s", step, text)
