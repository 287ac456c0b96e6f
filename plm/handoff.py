"""What a run takes over: from its own newest checkpoint, or from the run before."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from plm import checkpoint
from plm.errors import CheckpointError, ConfigError


@dataclass
class Start:
    """Where a run begins.

    Attributes:
        path: checkpoint or Hugging Face folder; None: from nothing.
        meta: its meta.json; empty for a Hugging Face folder.
        everything: take optimizer, position and tokens seen as well as weights.
    """

    path: Path | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    everything: bool = False

    @property
    def tokens_seen(self) -> int:
        """Tokens that count as seen where this run begins."""
        return int(self.meta.get("tokens_seen", 0)) if self.everything else 0

    @property
    def cursors(self) -> dict[str, int]:
        """Tokens read of each source where this run begins."""
        return dict(self.meta.get("cursors", {})) if self.everything else {}


def find(init_from: str | None, init: str, stage: str) -> Start:
    """The start that `init_from` and `init` name.

    Args:
        init_from: run folder, checkpoint, Hugging Face folder, or None.
        init: auto (everything from the same stage, else weights), weights, or all.
        stage: the stage about to run.
    Raises:
        CheckpointError: nothing usable is there.
    """
    if init not in ("auto", "weights", "all"):
        raise ConfigError(f"init={init} is not auto, weights or all")
    if not init_from:
        return Start()
    path = Path(init_from)
    if not path.exists():
        raise CheckpointError(f"init_from={init_from} does not exist")
    if (path / "checkpoints").is_dir():
        torn: list[str] = []
        newest = checkpoint.newest(path / "checkpoints", torn.append)
        if newest is None:
            raise CheckpointError(f"init_from={init_from} has no whole checkpoint; {torn or ''}")
        path = newest
    if (path / checkpoint.META).is_file():
        meta = checkpoint.read_meta(path)
        everything = init == "all" or (init == "auto" and meta.get("stage") == stage)
        return Start(path, meta, everything)
    if (path / "config.json").is_file():
        if init == "all":
            raise CheckpointError(f"init=all: {path} is a Hugging Face folder, with weights only")
        return Start(path)
    raise CheckpointError(
        f"init_from={init_from} is not a run folder, a checkpoint or a Hugging Face folder"
    )


def weights(start: Start, model: nn.Module) -> Mapping[str, Tensor]:
    """The start's weights by the model's own names, checked against it.

    Raises:
        CheckpointError: which tensors differ.
    """
    assert start.path is not None
    if start.meta:
        found = checkpoint.read_weights(start.path)
    else:
        found = _hugging_face(start.path)
        if getattr(model.embed_tokens, "tied", False):
            found.pop("lm_head.weight", None)
    wanted = model.state_dict()
    checkpoint.fit_weights(found, wanted, start.path)
    return found


def _hugging_face(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{path} has no *.safetensors; pickled weights are not read")
    found: dict[str, Tensor] = {}
    for file in files:
        found.update(load_file(file))
    return {name.removeprefix("model."): value for name, value in found.items()}
