"""What differs between one process, DDP, FSDP2 and DeepSpeed: one small class each.

A strategy is Lightning's; the placement beside it accumulates, clips, saves and loads for it.
"""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
    Strategy,
)
from torch import Tensor, nn

from plm import checkpoint
from plm.errors import CheckpointError, ConfigError, GuardStop
from plm.precision import accelerator_of

_OTHER_STRATEGY = (
    "{folder} was written by another strategy; go on with that one, or start from its weights "
    "with init_from={folder} init=weights"
)


class Placement:
    """One process, or DDP: every rank holds all weights and the whole optimizer state.

    Args:
        stage: the Lightning module; `stage.model` holds the weights.
    """

    whole_matrices = True
    whole_weights = True
    """Does every rank hold all weights: what a mean of them, or sampling, needs."""
    freezes = True
    """Can a phase keep some of the weights from learning?"""

    def __init__(self, stage: Any) -> None:
        self.stage = stage

    @property
    def rank(self) -> int:
        """Rank of this process among all."""
        return self.stage.trainer.global_rank

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer that holds the state."""
        return self.stage.trainer.strategy.optimizers[0]

    @contextlib.contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        """Around a micro-batch's backward: only the last one of a step exchanges gradients."""
        wrapped = self.stage.trainer.strategy.model
        if last or not hasattr(wrapped, "no_sync"):
            yield
        else:
            with wrapped.no_sync():
                yield

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """What scales fp16's losses; None in other precisions."""
        return getattr(self.stage.trainer.precision_plugin, "scaler", None)

    def clip(self, max_norm: float) -> Tensor:
        """Clip the gradients to a norm, 0 for none, and return the norm before: scalar, fp32."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self.stage.model.parameters() if p.grad is not None]
        if max_norm:
            return nn.utils.clip_grad_norm_(parameters, max_norm)
        return nn.utils.get_total_norm([p.grad for p in parameters])

    def step(self, norm: Tensor) -> bool:
        """Move the weights; False where the gradients' norm, as `clip` said it, forbids it."""
        finite = bool(torch.isfinite(norm))
        if self.scaler is not None:
            # Lightning would take the scale off a second time. The scaler itself leaves out a step
            # that overflowed, and lowers the scale: no bad step while it can go lower.
            lowest = self.scaler.get_scale() <= 1.0
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return finite or not lowest
        if finite:
            self.stage.optimizers().step()
        return finite

    def norm(self, before: Tensor) -> Tensor:
        """The gradients' norm, once the step was made: what `clip` said."""
        return before

    def load_optimizer(self, load: Any) -> None:
        """Call `load`, which fills the optimizer's state, and keep this run's own settings.

        A fork may have another rate or decay than the run whose state it takes over.

        Raises:
            CheckpointError: the state is another optimizer's.
        """
        own = [
            {key: value for key, value in group.items() if key != "params"}
            for group in self.optimizer.param_groups
        ]
        try:
            load()
        except (ValueError, KeyError) as error:
            raise CheckpointError(
                f"the checkpoint's optimizer state does not fit ({error}); init=weights takes the "
                "weights alone"
            ) from error
        for group, settings in zip(self.optimizer.param_groups, own, strict=True):
            group.update(settings)

    def write(self, folder: Path, state: dict[str, Any]) -> None:
        """Write weights, optimizer and `state` into a checkpoint's folder; on rank 0 only."""
        from safetensors.torch import save_file

        weights = self.stage.model.state_dict()
        save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()},
                  folder / checkpoint.WEIGHTS)  # fmt: skip
        if self.scaler is not None:
            state = {**state, "scaler": self.scaler.state_dict()}
        torch.save({**state, "optimizer": self.optimizer.state_dict()}, folder / checkpoint.STATE)

    collective_write = False

    def read(self, folder: Path, state: dict[str, Any]) -> None:
        """Take weights and optimizer from a checkpoint; `state` is its state.pt."""
        if "optimizer" not in state:
            raise CheckpointError(_OTHER_STRATEGY.format(folder=folder))
        weights = checkpoint.read_weights(folder)
        checkpoint.fit_weights(weights, self.stage.model.state_dict(), folder)
        self.stage.model.load_state_dict(weights)
        self.load_optimizer(lambda: self.optimizer.load_state_dict(state["optimizer"]))
        if self.scaler is not None and "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])


class ShardedPlacement(Placement):
    """FSDP2: each rank holds a part; checkpoints are DCP's folder, read on any number of ranks."""

    collective_write = True
    whole_weights = False

    @contextlib.contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        """Reduce gradients at the last micro-batch only."""
        self.stage.model.set_requires_gradient_sync(last)
        yield

    def clip(self, max_norm: float) -> Tensor:
        """As in Placement; the norm is over all ranks' parts."""
        norm = super().clip(max_norm)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def _parts(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, optimizer = get_state_dict(self.stage.model, self.optimizer)
        return {"model": model, "optimizer": optimizer}

    def write(self, folder: Path, state: dict[str, Any]) -> None:
        """Every rank writes its part; rank 0 writes `state` too."""
        import torch.distributed.checkpoint as dcp

        dcp.save(self._parts(), checkpoint_id=str(folder / checkpoint.SHARDS))
        if self.rank == 0:
            torch.save(state, folder / checkpoint.STATE)

    def read(self, folder: Path, state: dict[str, Any]) -> None:
        """Every rank reads its part."""
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import set_state_dict

        if not (folder / checkpoint.SHARDS).is_dir():
            raise CheckpointError(_OTHER_STRATEGY.format(folder=folder))
        parts, where = self._parts(), str(folder / checkpoint.SHARDS)
        # What did not learn has no state there, while asking for the parts made some here.
        there = dcp.FileSystemReader(where).read_metadata().state_dict_metadata
        made = parts["optimizer"]["state"]
        without = [n for n in made if not any(k.startswith(f"optimizer.state.{n}.") for k in there)]
        held = {name: made.pop(name) for name in without}
        dcp.load(parts, checkpoint_id=where)
        made.update(held)
        self.load_optimizer(
            lambda: set_state_dict(
                self.stage.model,
                self.optimizer,
                model_state_dict=parts["model"],
                optim_state_dict=parts["optimizer"],
            )
        )
        for name, parameter in self.stage.model.named_parameters():
            if name in held:
                self.optimizer.state.pop(parameter, None)


class DeepSpeedPlacement(Placement):
    """DeepSpeed ZeRO: the engine accumulates, clips and keeps the optimizer's parts."""

    whole_matrices = False
    collective_write = True
    whole_weights = False
    freezes = False

    @property
    def engine(self) -> Any:
        """DeepSpeed's engine."""
        return self.stage.trainer.strategy.deepspeed_engine

    @contextlib.contextmanager
    def accumulate(self, last: bool) -> Iterator[None]:
        """The engine is told where a step ends, and counts every micro-batch."""
        self.engine.set_gradient_accumulation_boundary(last)
        yield
        if not last:
            self.engine.step()

    def clip(self, max_norm: float) -> Tensor:
        """The engine clips inside its step: nothing is known before it."""
        return torch.zeros(())

    def step(self, norm: Tensor) -> bool:
        """Move the weights, whatever their gradients are."""
        self.stage.optimizers().step()
        return True

    def norm(self, before: Tensor) -> Tensor:
        """The norm that the engine found in its step."""
        norm = self.engine.get_global_grad_norm()
        if norm is not None and not math.isfinite(float(norm)):
            # The engine has no guard of its own in fp32 and bf16.
            raise GuardStop(
                f"the gradient was not finite after {self.stage.tokens_seen} tokens, and DeepSpeed "
                "has stepped with it; go on from the newest checkpoint with a lower rate"
            )
        return before if norm is None else torch.as_tensor(float(norm))

    def write(self, folder: Path, state: dict[str, Any]) -> None:
        """Every rank writes its part into `deepspeed`; rank 0 the weights and `state` too."""
        from safetensors.torch import save_file

        self.engine.save_checkpoint(str(folder / "deepspeed"), tag="state")
        if self.rank == 0:
            weights = self.stage.model.state_dict()
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in weights.items()},
                folder / checkpoint.WEIGHTS,
            )
            torch.save(state, folder / checkpoint.STATE)

    def read(self, folder: Path, state: dict[str, Any]) -> None:
        """Every rank reads its part."""
        if not (folder / "deepspeed").is_dir():
            raise CheckpointError(_OTHER_STRATEGY.format(folder=folder))
        self.load_optimizer(
            lambda: self.engine.load_checkpoint(str(folder / "deepspeed"), tag="state")
        )


class CPUDeepSpeedStrategy(DeepSpeedStrategy):
    """Lightning's strategy, which refuses CPUs although DeepSpeed itself runs on gloo."""

    def setup_environment(self) -> None:
        """As the base class, without its check for CUDA."""
        if torch.cuda.is_available():
            super().setup_environment()
            return
        self.accelerator.setup_device(self.root_device)
        self.setup_distributed()

    def setup_distributed(self) -> None:
        """As the base class, without its check of device indices."""
        if torch.cuda.is_available():
            super().setup_distributed()
            return
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @property
    def root_device(self) -> torch.device:
        """A device with an index: the engine has no use for a bare "cpu"."""
        if torch.cuda.is_available():
            return super().root_device
        return torch.device("cpu", 0)


def backend(accelerator: str = "auto") -> str:
    """Collectives for an accelerator: nccl with a GPU, else gloo."""
    return "nccl" if accelerator_of(accelerator) == "cuda" else "gloo"


def ddp(accelerator: str = "auto") -> Strategy:
    """Every rank holds all; gradients are averaged."""
    return DDPStrategy(process_group_backend=backend(accelerator), gradient_as_bucket_view=True)


def fsdp(devices: int, num_nodes: int = 1, accelerator: str = "auto") -> Strategy:
    """FSDP2 over all ranks (arXiv:2304.11277), by Lightning's ModelParallelStrategy."""
    return ModelParallelStrategy(
        data_parallel_size=devices * num_nodes,
        tensor_parallel_size=1,
        process_group_backend=backend(accelerator),
    )


def deepspeed(stage: int, clip_norm: float, accelerator: str = "auto") -> Strategy:
    """DeepSpeed ZeRO (arXiv:1910.02054).

    Args:
        stage: 1 or 2: optimizer, and gradients, are shared out. (3, the weights too, does not
            run: a tied head is read outside the module that it belongs to.)
        clip_norm: the engine clips itself.
    Raises:
        ConfigError: deepspeed is not installed, or another stage.
    """
    if stage not in (1, 2):
        raise ConfigError(f"trainer.strategy.stage={stage} is not 1 or 2; trainer=fsdp shares more")
    try:
        import deepspeed as _  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "trainer=deepspeed needs the package deepspeed (Linux only): pip install deepspeed"
        ) from error
    return CPUDeepSpeedStrategy(
        config={
            "zero_optimization": {"stage": stage},
            "gradient_clipping": clip_norm,
            "train_micro_batch_size_per_gpu": 1,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        },
        process_group_backend=backend(accelerator),
    )


def shard(model: nn.Module, mesh: Any) -> None:
    """Share a model's weights out over a mesh, a layer at a time, for FSDP2."""
    from torch.distributed.fsdp import fully_shard

    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def placement(stage: Any) -> Placement:
    """The placement that goes with the trainer's strategy."""
    strategy = stage.trainer.strategy
    if isinstance(strategy, DeepSpeedStrategy):
        return DeepSpeedPlacement(stage)
    if isinstance(strategy, ModelParallelStrategy):
        return ShardedPlacement(stage)
    return Placement(stage)
