"""What a run takes over: from its own newest checkpoint, or from the run before."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plm import checkpoint
from plm.config import build, locate
from plm.errors import CheckpointError, ConfigError
from plm.formats.architecture import model_node, of_model
from plm.formats.chat import self_contained
from plm.formats.hf_config import of_config, read_config
from plm.formats.hf_read import files_of, read_sides
from plm.formats.hf_read import read_weights as read_hf
from plm.model.common import fresh_weights
from plm.transform.common import Transforms

TOKENIZER = "tokenizer.json"


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
            raise CheckpointError(f"init_from={init_from} {_without_checkpoint(torn)}")
        path = newest
    if (path / checkpoint.META).is_file():
        meta = checkpoint.read_meta(path)
        everything = init == "all" or (init == "auto" and meta.get("stage") == stage)
        return Start(path, meta, everything)
    if (path / "config.json").is_file():
        if init == "all":
            raise CheckpointError(f"init=all: {path} is a Hugging Face folder, with weights only")
        of_config(read_config(path), path)
        files_of(path)
        return Start(path)
    raise CheckpointError(
        f"init_from={init_from} is not a run folder, a checkpoint or a Hugging Face folder"
    )


def _without_checkpoint(torn: list[str]) -> str:
    """Why a run folder has nothing to begin from, newest first."""
    if not torn:
        return "has no checkpoint yet; the run's own command goes on until there is one"
    others = f" ({len(torn) - 1} older: none whole)" if len(torn) > 1 else ""
    newest = torn[0].removeprefix("skipped a checkpoint: ")
    return f"has no whole checkpoint; the newest: {newest}{others}"


def check(start: Start, model: nn.Module) -> None:
    """Refuse a Hugging Face folder whose model is not the configured one, before any data is read.

    Args:
        start: as `find` gave it.
        model: as configured; it may lie on the device meta.
    Raises:
        CheckpointError: what differs, and that model=init_from takes the folder's.
        ConfigError: the configured model has parts that no such folder holds.
    """
    if start.path is None or start.meta:
        return
    there = of_config(read_config(start.path), start.path)
    found = of_model(model).differences(there)
    # More rows than the folder has are new tokens; `weights` knows how many were asked for.
    if model.vocab_size >= there.vocab_size:
        found = [line for line in found if not line.startswith("vocab_size:")]
    if found:
        raise CheckpointError(
            f"init_from={start.path} is another model than the configured one ({'; '.join(found)});"
            " model=init_from takes the folder's"
        )


def weights(
    start: Start, model: nn.Module, *, average: bool = False, new_ids: Sequence[int] = ()
) -> Mapping[str, Tensor]:
    """The start's weights by the model's own names, checked against it.

    Args:
        start: with a path.
        model: that they are for.
        average: the averaged weights of callbacks.average in the place of the last ones.
        new_ids: tokens that the start does not know: their rows begin as the mean of the others.
    Raises:
        CheckpointError: which tensors differ.
    """
    assert start.path is not None
    wanted = model.state_dict()
    if start.meta:
        found = checkpoint.read_weights(start.path, "average" if average else "model")
        if not start.everything:
            found = _merged(start, found)
    else:
        # Only the names that are not fresh: such a folder has no adapters.
        old = fresh_weights(model)
        found = read_hf(start.path, {n: t for n, t in wanted.items() if n not in old})
    found = {**{n: wanted[n] for n in fresh_weights(model) if n not in found}, **found}
    if new_ids:
        found = _with_rows(found, wanted, new_ids)
    checkpoint.fit_weights(found, wanted, start.path)
    return found


def without_adapters(linear: Mapping[str, Any]) -> dict[str, Any]:
    """The node `model.linear`, or the plain one that its adapters are merged into."""
    return dict(getattr(locate(linear["_target_"]), "merges_to", None) or linear)


def _merged(start: Start, found: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The start's weights, with its adapters in the weights that they adapt."""
    node = start.meta["model"]
    if without_adapters(node["linear"]) == node["linear"]:
        return found
    model = build(model_settings(start))
    Transforms().replay(model, start.meta.get("transforms", []))
    checkpoint.fit_weights(found, model.state_dict(), start.path)
    model.load_state_dict(found)
    merge(model)
    return model.state_dict()


def merge(model: nn.Module) -> None:
    """Put a plain part in the place of each that can be `merged`: an adapter's projection."""
    for parent in list(model.modules()):
        for name, part in list(parent.named_children()):
            if hasattr(part, "merged"):
                plain = part.merged()
                plain.role = getattr(part, "role", "")
                setattr(parent, name, plain)


def _with_rows(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], new_ids: Sequence[int]
) -> dict[str, Tensor]:
    """Embedding and head with rows for new tokens, where they have none or an untrained one."""
    changed = dict(found)
    for name in ("embed_tokens.weight", "embed_tokens.lm_head.weight"):
        if name not in found or name not in wanted:
            continue
        old, rows = found[name], len(wanted[name])
        known = old[: min(new_ids)]
        mean = known.float().mean(dim=0, keepdim=True).to(old.dtype)
        table = torch.cat((old, mean.expand(max(0, rows - len(old)), -1)))
        table[list(new_ids)] = mean
        changed[name] = table
    return changed


def model_settings(start: Start) -> dict[str, Any]:
    """The node `model` of what a start names, as `plm.config.build` takes it.

    Raises:
        CheckpointError: a Hugging Face folder of another architecture.
    """
    assert start.path is not None
    if start.meta:
        return {**start.meta["model"], "kernels": "auto", "checkpoint_activations": False}
    return model_node(of_config(read_config(start.path), start.path))


def tokenizer_file(start: Start) -> Path | None:
    """tokenizer.json that goes with a start; None: there is none."""
    assert start.path is not None
    own = start.path / TOKENIZER
    if own.is_file() or not start.meta:
        return own if own.is_file() else None
    # Checkpoints of before held only the path of the one that prepared the data.
    there = Path(start.meta["tokenizer"])
    return there if there.is_file() else None


def end_of_text(start: Start) -> str | None:
    """The token that ends a document there; None: not said."""
    assert start.path is not None
    if start.meta:
        return start.meta.get("end_of_text")
    return read_sides(start.path)[0]


def chat_template(start: Start) -> str | None:
    """How conversations become text there, Jinja that stands alone; None: it knows none."""
    assert start.path is not None
    if start.meta:
        return start.meta.get("chat_template")
    template = read_sides(start.path)[1]
    return None if template is None else self_contained(template, start.path)


def new_ids(start: Start, tokenizer: Path, asked: Sequence[str]) -> list[int]:
    """Ids of the data's tokenizer that the start does not know.

    Args:
        start: with a path.
        tokenizer: tokenizer.json of the data.
        asked: the tokens that were to be added.
    Raises:
        CheckpointError: an id means another token there, or tokens are new that nobody asked for.
    """
    theirs = tokenizer_file(start)
    if theirs is None or theirs.read_bytes() == tokenizer.read_bytes():
        return []
    there, here = (_vocabulary(path) for path in (theirs, tokenizer))
    fresh = {token: i for token, i in here.items() if there.get(token) != i}
    moved = [token for token in fresh if token in there]
    gone = [token for token in there if token not in here]
    if moved or gone or not set(fresh) <= set(asked):
        some = (moved or gone or sorted(fresh))[0]
        raise CheckpointError(
            f"the data's tokenizer is not that of init_from={start.path}: {some!r} is id "
            f"{there.get(some)} there and {here.get(some)} in the data, so ids would name other "
            "text; data.tokenizer=init_from takes it over, data.allow_changed=true goes on anyway"
        )
    return sorted(fresh.values())


def _vocabulary(path: Path) -> dict[str, int]:
    from plm.data.tokenizer import load

    return load(path).get_vocab(with_added_tokens=True)


def take_over(settings: dict[str, Any]) -> None:
    """Put into a configuration what `model=init_from` and `data.tokenizer=init_from` stand for.

    Args:
        settings: plain; changed in place, so that the frozen configuration says all of it.
    Raises:
        ConfigError: nothing to take it from.
        CheckpointError: it cannot be read.
    """
    model, data = settings["model"], settings["data"]
    wants_model = model.get("from") == "init_from"
    wants_tokenizer = data.get("tokenizer") == "init_from"
    if not (wants_model or wants_tokenizer):
        return
    if not settings.get("init_from"):
        key = "model" if wants_model else "data.tokenizer"
        raise ConfigError(
            f"{key}=init_from needs init_from=<run, checkpoint or Hugging Face folder>"
        )
    start = find(settings["init_from"], "weights", "")
    if wants_tokenizer:
        _take_tokenizer(start, data)
    if wants_model:
        kept = {k: v for k, v in model.items() if k != "from"}
        node = model_settings(start)
        stage = settings["stage"]["_target_"].rsplit(".", 1)[1].lower()
        if not find(settings["init_from"], settings["init"], stage).everything:
            node["linear"] = without_adapters(node["linear"])
        settings["model"] = {**node, **kept}
        if wants_tokenizer:
            rows = settings["model"]["vocab_size"]
            settings["model"]["vocab_size"] = data["vocab_size"] = max(rows, _ids(data))


def _take_tokenizer(start: Start, data: dict[str, Any]) -> None:
    file = tokenizer_file(start)
    if file is None:
        raise CheckpointError(f"{start.path} has no {TOKENIZER} for data.tokenizer=init_from")
    data["tokenizer"] = str(file)
    data["tokenizer_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    data["end_of_text"] = data.get("end_of_text") or end_of_text(start)
    data["chat_template"] = data.get("chat_template") or chat_template(start)


def _ids(data: Mapping[str, Any]) -> int:
    """Rows that the data's tokenizer needs, new tokens included."""
    from plm.data import adopt
    from plm.data import tokenizer as bpe

    tokenizer = bpe.load(data["tokenizer"])
    adopt.extend(tokenizer, data.get("new_tokens") or [])
    return bpe.size(tokenizer)
