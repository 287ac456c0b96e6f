"""What `train.py` calls: from the composed configuration to the end of its run."""

import json
import logging
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from plm import handoff, launch, pipeline
from plm.config import build, check_targets, plain, trust
from plm.errors import ConfigError, Interrupted, PlmError
from plm.pairs.settle import settle_pairs
from plm.phases import Plan
from plm.rlvr import prompts
from plm.rlvr.settle import settle_rlvr
from plm.run import RunFolder

log = logging.getLogger("plm")

SWEEP_FILE = "PLM_SWEEP_FILE"


def settle(config: Any) -> dict[str, Any]:
    """The composed configuration as plain settings, checked as far as that needs no data.

    Raises:
        ConfigError: a value is missing, a target is not allowed, a phase cannot work.
    """
    settings = plain(config)
    trust(settings.get("trust") or [])
    handoff.take_over(settings)
    if settings["data"].get("path"):
        _take_path(settings)
    settings["command"] = " ".join(["python", "train.py", *sys.argv[1:]])
    check_targets({k: v for k, v in settings.items() if k != "hydra"})
    _check_tokenizer(settings)
    settle_pairs(settings)
    settle_rlvr(settings)
    longest = Plan.read(settings["phases"]).max_seq_len
    if longest > settings["model"]["max_position_embeddings"]:
        raise ConfigError(
            f"phases: seq_len={longest} passes model.max_position_embeddings="
            f"{settings['model']['max_position_embeddings']}"
        )
    check_parts(settings)
    return settings


def _take_path(settings: dict[str, Any]) -> None:
    """The user's own data: by the recipe for them, unless the chosen one reads a path itself."""
    from plm.data.recipe import load_recipe

    data = settings["data"]
    data["path"] = str(Path(str(data["path"])))
    if not load_recipe(data["recipe"]).takes_path:
        data["recipe"] = data["path_recipe"]
    sources = load_recipe(data["recipe"]).sources
    for phase in settings["phases"].values():
        if phase is not None and not set(phase.get("mixture") or {}) <= set(sources):
            even = dict.fromkeys(sources, 1.0)
            phase |= {"mixture": even, "mixture_to": {}, "temperature": 1.0}


def _check_tokenizer(settings: dict[str, Any]) -> None:
    """Whether a tokenizer named for the data is that of the model which the run begins from.

    Looked at here, too, since its size would be found wrong first, which is not what is wrong.

    Raises:
        CheckpointError: it is another one.
    """
    data, init_from = settings["data"], settings.get("init_from")
    taken_over = data.get("tokenizer_sha256")
    if not (init_from and data.get("tokenizer")) or taken_over or data.get("allow_changed"):
        return
    path = Path(data["tokenizer"])
    file = path / "tokenizer.json" if path.is_dir() else path
    # With more tokens it is not yet what it will be.
    if file.is_file() and not data.get("new_tokens"):
        handoff.new_ids(handoff.find(init_from, settings["init"], ""), file, [])


def check_parts(settings: dict[str, Any]) -> None:
    """Build the parts without memory or data, so that shapes that cannot work end here.

    Raises:
        ConfigError: as the parts say.
    """
    import torch

    from plm.optimizer.common import NamedParameter
    from plm.precision import precision_of

    plan = Plan.read(settings["phases"])
    with torch.device("meta"):
        model = build(settings["model"])
    build(settings["schedule"])(plan.segments())
    _check_trainable(plan, model)
    for node in [settings["scaling"], *settings["losses"].values()]:
        if node:
            build(node)
    some = NamedParameter("some.weight", torch.nn.Parameter(torch.zeros(2, 2)), "up")
    build(settings["optimizer"])([some], lr=settings["peak_lr"])
    precision_of(settings["precision"], settings["trainer"]["accelerator"])
    handoff.check(handoff.find(settings["init_from"], settings["init"], ""), model)


def start(config: Any, in_sweep: bool = False) -> tuple[int, float]:
    """Run what the configuration composes.

    Args:
        config: as Hydra composed it.
        in_sweep: one job of several: it runs in a process of its own.
    Returns:
        Exit code, and what a sweeper minimises.
    """
    launch.take_signals()
    if config["stage"]["_target_"] == pipeline.TARGET:
        return _pipeline(plain(config))
    settings = settle(config)
    if launch.external():
        return _as_rank(settings), 0.0
    try:
        return _start(settings, in_sweep)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command goes on") from None


def _check_trainable(plan: Plan, model: Any) -> None:
    """Whether every pattern of a phase's `trainable` names a parameter that can learn."""
    from fnmatch import filter as matching

    asked = model.parameter_settings()
    names = [n for n, _ in model.named_parameters() if not asked.get(n, {}).get("frozen")]
    for planned in plan.phases:
        for pattern in planned.phase.trainable:
            if not matching(names, pattern):
                raise ConfigError(
                    f"phases.{planned.phase.name}.trainable={pattern} matches no parameter that "
                    f"can learn; some are {', '.join(names[:3])}"
                )


def _pipeline(settings: dict[str, Any]) -> tuple[int, float]:
    try:
        code, folder = pipeline.run(settings, _overrides())
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command goes on") from None
    _note_job(RunFolder(folder), code)
    return code, objective(RunFolder(folder))


def _start(settings: dict[str, Any], in_sweep: bool) -> tuple[int, float]:
    from plm.kernels import dispatch
    from plm.precision import accelerator_of

    # Only here: a plan may be for another machine.
    dispatch.which(settings["kernels"], accelerator_of(settings["trainer"]["accelerator"]))
    folder = RunFolder.choose(settings)
    if folder.status().get("status") == "done":
        folder.claim(settings)
        print(f"{folder.path} is finished; its report: {folder.path / 'report.html'}")
        code = 0
    else:
        _check_evaluations(settings)
        prepare(settings)
        folder.claim(settings)
        code = _run(settings, folder, in_sweep)
    folder.release()
    _note_job(folder, code)
    return code, objective(folder)


def _run(settings: dict[str, Any], folder: RunFolder, in_sweep: bool) -> int:
    ranks = int(settings["trainer"]["devices"])
    if in_sweep or ranks > 1:
        code = launch.run_ranks(folder.path / "config.yaml", ranks)
        if code and folder.status().get("status") == "running":
            folder.set_status("failed", exit_code=code)
    else:
        from plm.worker import run

        code = run(settings, folder)
    if code == ConfigError.exit_code:
        folder.discard()
    return code


def _check_evaluations(settings: dict[str, Any]) -> None:
    """Refuse evaluations while training that cannot work, before anything takes long.

    Raises:
        PlmError: the task's key, and what is wrong with it.
    """
    from plm.data.open import find_data
    from plm.evaluation.choices import check_callbacks

    # Items take seconds, and are looked at again: here only where data are to be prepared.
    context = settings["model"]["max_position_embeddings"]
    unprepared = bool(settings.get("candidates")) or prompts.wanted(settings)
    fresh = unprepared or find_data(settings["data"]) is None
    check_callbacks(settings["callbacks"], context, items=fresh)


def prepare(settings: dict[str, Any]) -> None:
    """Prepare the data if that has not been done, with progress and a word before.

    Pairs that the run samples itself are prepared by the run, behind their sampling.

    Raises:
        DataError: a source that cannot be used.
    """
    from plm.callbacks.progress import DataProgress
    from plm.data.manifest import losses
    from plm.data.open import find_data, open_data

    if settings.get("candidates") or prompts.wanted(settings):
        return
    fresh = find_data(settings["data"]) is None
    if fresh:
        what = settings["data"]["path"] or f"the recipe {settings['data']['recipe']}"
        print(f"preparing {what}, once: later runs with it start at once", file=sys.stderr)
    shown = DataProgress()
    try:
        prepared = open_data(settings["data"], progress=shown)
    finally:
        shown.close()
    if fresh:
        from plm.report.recipe_page import write_recipe_report

        for lost in losses(prepared.manifest):
            word = "warning: dropped" if lost.large else "dropped"
            print(f"{word}  {lost.text}", file=sys.stderr)
        print(f"what the data hold: {write_recipe_report(prepared)}", file=sys.stderr)


def _as_rank(settings: dict[str, Any]) -> int:
    """One of the ranks that torchrun, or the like, has started: rank 0 makes the folder."""
    chosen, ranks = settings["trainer"], int(os.environ["WORLD_SIZE"])
    if chosen["devices"] * chosen["num_nodes"] != ranks or not chosen["strategy"]:
        error = ConfigError(
            f"{ranks} processes were started, the configuration has trainer.devices="
            f"{chosen['devices']} on trainer.num_nodes={chosen['num_nodes']}; give trainer=ddp (or "
            f"fsdp, deepspeed_zero2) and trainer.devices=<processes of a machine>"
        )
        if os.environ["RANK"] == "0":
            print(error, file=sys.stderr)
        return error.exit_code
    import torch
    import torch.distributed as dist

    from plm.precision import accelerator_of
    from plm.strategies import backend
    from plm.worker import leave, run

    accelerator = accelerator_of(settings["trainer"]["accelerator"])
    if accelerator == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Rank 0 may prepare data for hours before the others hear of it.
    dist.init_process_group(backend(accelerator), timeout=timedelta(days=1))
    rank, said = dist.get_rank(), [None, None]
    folder = RunFolder.choose(settings)
    if rank == 0:
        try:
            _check_evaluations(settings)
            prepare(settings)
            folder.claim(settings)
            done = folder.status().get("status") == "done"
            said = ["done" if done else "go", str(folder.path)]
        except PlmError as error:
            said = ["failed", f"{error.exit_code} {error}"]
    dist.broadcast_object_list(said)
    if said[0] == "failed":
        code, _, text = str(said[1]).partition(" ")
        if rank == 0:
            print(text, file=sys.stderr)
        return int(code)
    if said[0] == "done":
        return 0
    leave(run(settings, RunFolder(Path(str(said[1]))) if rank else folder))


def _note_job(folder: RunFolder, code: int) -> None:
    """Add a finished job to the sweep's table."""
    path = os.environ.get(SWEEP_FILE)
    if not path:
        return
    entry = {
        "overrides": _overrides(),
        "folder": str(folder.path),
        "code": code,
        "val": folder.status().get("val", {}),
    }
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def _overrides() -> list[str]:
    """What the command line changes."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def objective(folder: RunFolder) -> float:
    """What a sweeper minimises: the mean held-out loss over the sources."""
    figures = folder.status().get("val", {})
    return sum(v["loss"] for v in figures.values()) / len(figures) if figures else float("inf")


def sweep_table(path: Path) -> list[str]:
    """The sweep's jobs as lines of a table: what varied, held-out losses, folder."""
    jobs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    shared = set.intersection(*(set(job["overrides"]) for job in jobs)) if jobs else set()
    rows = []
    for job in jobs:
        varied = " ".join(o for o in job["overrides"] if o not in shared) or "-"
        losses = {name: f"{v['loss']:.4f}" for name, v in job["val"].items()}
        rows.append({"job": varied, **losses, "exit": str(job["code"]), "folder": job["folder"]})
    names = list(dict.fromkeys(name for row in rows for name in row))
    widths = {n: max(len(n), *(len(row.get(n, "")) for row in rows)) for n in names}
    lines = ["  ".join(n.ljust(widths[n]) for n in names)]
    lines += ["  ".join(row.get(n, "").ljust(widths[n]) for n in names) for row in rows]
    return lines


def load_frozen(run: str) -> tuple[dict[str, Any], Path]:
    """The frozen configuration of a run folder.

    Raises:
        ConfigError: there is none.
    """
    path = Path(run)
    try:
        found: Any = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))
    except OSError as error:
        raise ConfigError(f"run={run} is not a run folder: {error}") from error
    return found, path
