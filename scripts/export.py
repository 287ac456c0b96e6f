"""Write a trained model in a format that other programs load.

    python scripts/export.py run=runs/plm_pretrain to=hf
    python scripts/export.py run=runs/plm_pretrain to=gguf type=[F16,Q8_0]

Settings, as key=value:
    run       run folder (its newest checkpoint), a checkpoint, or a Hugging Face folder
    to        hf, gguf, or the path of a YAML file of your own like those in configs/export
    out       what is written; must not exist (<run>/export/hf, and for a format with types
              <run>/export/gguf/<name>-<TYPE>.gguf; an out without .gguf is a folder for such files)
    name      of the model (the folder's)
    dtype     of the weights in a format without types: float32, bfloat16, float16 (float32)
    type      one or a list: F32, F16, Q8_0, Q4_K_M …; all or none are written (F16)
    weights   last, or average: those that callbacks.average kept (last)
    shard_gb  most GB of weights in one file of a format that splits them (5)
    chat_template  auto (the one it was fine-tuned with; none for a base model), none, chatml,
              or a Jinja file (auto)
    trust     [mylab]: packages of your own that the model's parts or the format come from
"""

import sys
from pathlib import Path
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import CheckpointError, ConfigError, Interrupted, PlmError
from scripts.arguments import read

FORMATS = Path(__file__).resolve().parents[1] / "configs" / "export"
DEFAULTS: dict[str, Any] = {
    "run": None,
    "to": None,
    "out": None,
    "name": None,
    "dtype": None,
    "type": [],
    "weights": "last",
    "shard_gb": None,
    "chat_template": "auto",
    "trust": [],
}


def place_of(run: str | None) -> tuple[Path, Path | None]:
    """What is exported, and the run's folder; None where it lies in none.

    Raises:
        ConfigError: none was named.
        CheckpointError: there is no such folder, or its run has no checkpoint yet.
    """
    if run is None:
        raise ConfigError("run=<run folder, checkpoint or Hugging Face folder> is missing")
    path = Path(run)
    if not path.is_dir():
        raise CheckpointError(f"run={run} does not exist or is no folder")
    if path.resolve().parent.name == "checkpoints":
        return path, path.resolve().parents[1]
    if (path / "checkpoints").is_dir():
        return path, path
    if (path / "config.yaml").is_file():
        raise CheckpointError(f"run={run} has no checkpoint yet; it writes the first one later")
    return path, None


def format_of(to: str | None) -> tuple[str, dict[str, Any]]:
    """A format's name and its YAML.

    Raises:
        ConfigError: there is none of this name, or its file cannot be read.
    """
    import yaml

    known = ", ".join(sorted(path.stem for path in FORMATS.glob("*.yaml")))
    if to is None:
        raise ConfigError(f"to=<format> is missing; there are {known}")
    file = Path(to) if to.endswith(".yaml") else FORMATS / f"{to}.yaml"
    if not file.is_file():
        raise ConfigError(f"to={to} is not a format that is there: {known}, or a YAML of your own")
    try:
        node = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"to={to}: {file} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(node, dict):
        raise ConfigError(f"to={to}: {file} holds no mapping with a _target_")
    return file.stem, {**node, "_partial_": True}


def nodes_of(chosen: dict[str, Any], to: str, node: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The format's node for each type asked for; by the type, or the dtype where it has none.

    Raises:
        ConfigError: a setting that the format does not have.
    """
    if chosen["shard_gb"] is not None:
        if "max_shard_bytes" not in node:
            raise ConfigError(f"shard_gb={chosen['shard_gb']}: to={to} writes one file")
        node = {**node, "max_shard_bytes": _bytes(chosen["shard_gb"])}
    if "kind" not in node:
        if chosen["type"]:
            told = f"type={','.join(chosen['type'])}: to={to} has no types; dtype=… chooses"
            raise ConfigError(told)
        if "dtype" not in node:
            if chosen["dtype"] is not None:
                raise ConfigError(f"dtype={chosen['dtype']}: to={to} leaves no choice of it")
            return {"its own": node}
        dtype = chosen["dtype"] or node["dtype"]
        return {dtype: {**node, "dtype": dtype}}
    if chosen["dtype"] is not None:
        raise ConfigError(f"dtype={chosen['dtype']}: to={to} has types; type=… chooses")
    return {kind: {**node, "kind": kind} for kind in chosen["type"] or [node["kind"]]}


def _bytes(gigabytes: str) -> int:
    try:
        found = int(float(gigabytes) * 1e9)
    except (ValueError, OverflowError):
        found = 0
    if found < 1:
        raise ConfigError(f"shard_gb={gigabytes} is not a positive number")
    return found


def targets_of(
    chosen: dict[str, Any], to: str, kinds: list[str], typed: bool, run: Path | None
) -> list[Path]:
    """Where each type goes.

    Raises:
        ConfigError: there is no place for it, or something is there already.
    """
    if chosen["out"] is None and run is None:
        raise ConfigError(f"out=… is missing: {chosen['run']} lies in no run's folder")
    out = Path(chosen["out"]) if chosen["out"] else run / "export" / to
    if not typed:
        targets = [out]
    elif chosen["out"] and out.suffix == f".{to}":
        if len(kinds) > 1:
            raise ConfigError(f"out={out} is one file for {len(kinds)} types; name a folder")
        targets = [out]
    else:
        targets = [out / f"{chosen['name']}-{kind}.{to}" for kind in kinds]
    for target in targets:
        if target.exists():
            raise ConfigError(f"{target} exists already; remove it, or give another out=…")
    return targets


def loaded(path: Path, weights: str) -> Any:
    """The model, by `plm.pretrained.load`.

    Raises:
        ConfigError: averaged weights of a Hugging Face folder, or another word than the two.
        CheckpointError: nothing usable is there.
    """
    if weights not in ("last", "average"):
        raise ConfigError(f"weights={weights} is not last or average")
    from plm.pretrained import load

    try:
        found = load(path, average=weights == "average")
    except CheckpointError as error:
        # There the setting has the name that training gives it.
        raise CheckpointError(str(error).replace("init_from=", "run=")) from error
    if weights == "average" and not found.meta:
        raise ConfigError(f"weights=average: {path} is a Hugging Face folder, with one set only")
    return found


def described_by(found: Any, weights: str) -> Path | None:
    """The run's folder, if its figures are those of these weights: the last ones of a whole run."""
    import json

    if found.run is None or weights != "last":
        return None
    status = found.run / "status.json"
    try:
        state = json.loads(status.read_text(encoding="utf-8")).get("status")
    except (OSError, ValueError, AttributeError):
        return None
    last = max(path.name for path in (found.run / "checkpoints").glob("tokens-*"))
    return found.run if state == "done" and found.path.name == last else None


def template_of(named: str, found: Any, tokenizer: Any) -> str | None:
    """The chat template that goes along; None: none does.

    Raises:
        ConfigError: it cannot be read, or ChatML is asked for without its marks.
    """
    from plm.formats.chat import chatml

    if named in ("auto", "none"):
        return found.chat_template if named == "auto" else None
    if named == "chatml":
        template = None if tokenizer is None else chatml(tokenizer)
        if template is None:
            raise ConfigError("chat_template=chatml: the tokenizer lacks ChatML's marks")
        return template
    try:
        return Path(named).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"chat_template={named} is none of auto, none, chatml and no file: {error}"
        ) from error


def write(chosen: dict[str, Any]) -> list[str]:
    """Export as chosen; what to print."""
    from plm.config import check_targets, trust

    trust(chosen["trust"])
    path, run = place_of(chosen["run"])
    to, node = format_of(chosen["to"])
    check_targets(node)
    nodes = nodes_of(chosen, to, node)
    chosen["name"] = chosen["name"] or (run or path).resolve().name
    if Path(chosen["name"]).name != chosen["name"]:
        raise ConfigError(f"name={chosen['name']} cannot be a part of a file's name")
    targets = targets_of(chosen, to, list(nodes), "kind" in node, run)

    from plm.data import tokenizer as bpe
    from plm.formats.common import About

    found = loaded(path, chosen["weights"])
    tokenizer = bpe.load(found.tokenizer) if found.tokenizer else None
    about = About(
        name=chosen["name"],
        end_of_text=found.end_of_text,
        rope_theta=found.rope_theta,
        run=described_by(found, chosen["weights"]),
        chat_template=template_of(chosen["chat_template"], found, tokenizer),
    )
    written = export(found.model, tokenizer, targets, list(nodes.values()), about)
    # The heads that only training needs go into no file.
    named = found.model.named_parameters()
    parameters = sum(p.numel() for name, p in named if not name.startswith("heads."))
    lines = [f"from        {found.path}" + ("" if tokenizer else ", which has no tokenizer")]
    if found.run is not None and about.run is None:
        lines.append("note        not the weights that a whole run ended with: no card of it")
    for target, kind in zip(written, nodes, strict=True):
        lines += ["", f"written     {target}", f"parameters  {parameters:,}", f"types       {kind}"]
        lines += describe(target, found, tokenizer is not None, about.chat_template is not None)
    return lines


def export(
    model: Any, tokenizer: Any, targets: list[Path], nodes: list[dict[str, Any]], about: Any
) -> list[Path]:
    """Build each node and call it for its target; all of them are written, or none."""
    from plm.config import build
    from plm.formats.common import remove

    written: list[Path] = []
    try:
        for target, node in zip(targets, nodes, strict=True):
            written.append(build(node)(model, tokenizer, target, about=about))
    except BaseException:
        # Each is whole by itself, but the same command would stop at it the next time.
        for target in written:
            remove(target)
        raise
    return written


def describe(target: Path, found: Any, tokenizer: bool, chat: bool) -> list[str]:
    """The size of what was written, and how to try it where that is known.

    Args:
        target: what was written.
        found: the model.
        tokenizer, chat: whether one, and a chat template, went along.
    """
    from plm.formats.architecture import of_model
    from plm.formats.card import llama_cpp_command, transformers_command

    files = [p for p in target.rglob("*") if p.is_file()] if target.is_dir() else [target]
    size = sum(file.stat().st_size for file in files)
    told = f" in {len(files)} files" if len(files) > 1 else ""
    lines = [f"size        {size / 1e6:,.1f} MB{told}"]
    if (target / "config.json").is_file():
        architecture = of_model(found.model, found.rope_theta)
        command = transformers_command(str(target), architecture, tokenizer, chat)
        lines.append(f"try         {command}")
    elif target.suffix == ".gguf":
        architecture = of_model(found.model, found.rope_theta)
        lines.append(f"try         {llama_cpp_command(str(target), architecture, chat)}")
    return lines


def main(arguments: list[str]) -> int:
    """Exit code: 0, or 2 for what the user can put right."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        print("\n".join(write(read(arguments, DEFAULTS, lists=("type", "trust")))))
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return Interrupted.exit_code
    except PlmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
