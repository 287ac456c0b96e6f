"""Loggers beside metrics.csv: TensorBoard and Weights & Biases."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from plm.checkpoint import META
from plm.errors import ConfigError


def tensorboard(run_dir: Path, settings: Mapping[str, Any]) -> Logger:
    """Event files under the run's `logs/tensorboard`.

    Args:
        run_dir: the run's folder.
        settings: unused; every logger is offered the frozen configuration.
    Raises:
        ConfigError: the package is not installed.
    """
    from lightning.pytorch.loggers import TensorBoardLogger

    try:
        return TensorBoardLogger(run_dir / "logs", name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise ConfigError(f"loggers: tensorboard is not installed ({error})") from error


def wandb(
    run_dir: Path, settings: Mapping[str, Any], *, project: str = "plm", offline: bool = False
) -> Logger:
    """One Weights & Biases run, which a resumed run goes on with.

    Args:
        run_dir: the run's folder; the run's id lies in its `wandb_id`.
        settings: the frozen configuration, stored with the run.
        project: where it is listed.
        offline: write files for a later `wandb sync`.
    Raises:
        ConfigError: the package is not installed.
    """
    from lightning.pytorch.loggers import WandbLogger

    stage = settings["stage"]["_target_"].rsplit(".", 1)[1].lower()
    sweep = os.environ.get("PLM_SWEEP_FILE")
    path = run_dir / "wandb_id"
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    try:
        return WandbLogger(
            name=run_dir.name,
            save_dir=run_dir / "logs",
            project=project,
            id=path.read_text(encoding="utf-8").strip(),
            resume="allow",
            offline=offline,
            group=f"sweep-{Path(sweep).stem}" if sweep else stage,
            tags=[stage, "sweep"] if sweep else [stage],
            config=dict(settings),
            log_model=False,
        )
    except ModuleNotFoundError as error:
        raise ConfigError(f"loggers: wandb is not installed ({error})") from error


def keep_lineage(loggers: list[Logger], run_dir: Path, origin: str | None) -> None:
    """Give W&B the run's configuration, manifest and summary, and where its checkpoints lie.

    Args:
        loggers: those of the trainer; others than W&B's are passed over.
        run_dir: the run's folder; checkpoints are named by reference, never uploaded.
        origin: the checkpoint that the run was started from.
    """
    from lightning.pytorch.loggers import WandbLogger

    for logger in loggers:
        if not isinstance(logger, WandbLogger):
            continue
        import wandb as package

        artifact = package.Artifact(f"run-{logger.experiment.id}", type="run",
                                    metadata={"init_from": origin})  # fmt: skip
        for name in ("config.yaml", "manifest.json", "summary.json"):
            artifact.add_file(str(run_dir / name))
        for path in sorted((run_dir / "checkpoints").glob("tokens-*")):
            meta = (path / META).absolute()
            artifact.add_reference(meta.as_uri(), name=f"{path.name}/{META}")
        logger.experiment.log_artifact(artifact)
        _use(logger, origin)


def _use(logger: Any, origin: str | None) -> None:
    """Draw the line from the run that this one was started from, where W&B has seen that one."""
    if origin is None or logger.experiment.offline:
        return
    before = Path(origin).parent.parent / "wandb_id"
    if before.is_file():
        name = f"run-{before.read_text(encoding='utf-8').strip()}:latest"
        logger.experiment.use_artifact(name, type="run")
