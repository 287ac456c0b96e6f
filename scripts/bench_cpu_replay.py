"""The matrix products and attention of a training step by themselves: what it cannot go below."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS = {aten.mm, aten.addmm, aten.addmm_, aten.bmm, aten.baddbmm, aten.baddbmm_}
ATTENTION = {aten._scaled_dot_product_flash_attention_for_cpu}
ATTENTION_BACKWARD = {aten._scaled_dot_product_flash_attention_for_cpu_backward}


@dataclass
class Replay:
    """Recorded calls with operands of the same shapes, strides and shared memory.

    Attributes:
        calls: in the step's order.
        flops: of all of them; attention counted causal where it is, recomputation not counted.
    """

    calls: list[Callable[[], Any]] = field(default_factory=list)
    flops: float = 0.0

    def run(self) -> None:
        """Make the calls once."""
        for call in self.calls:
            call()


class Recorder(TorchDispatchMode):
    """Collects a step's products and attention, those within ops of ours too."""

    def __init__(self) -> None:
        super().__init__()
        self.replay = Replay()
        self._storages: dict[tuple[int, int], Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run the op; note it where it is one of those."""
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet in PRODUCTS | ATTENTION | ATTENTION_BACKWARD:
            self._note(func, args, kwargs)
        elif func.namespace == "plm":
            # Its Python code with this mode on, which is off in here: the dispatcher has no way to.
            definition = torch._library.custom_ops._maybe_get_opdef(func)
            with self:
                return definition._init_fn(*args, **kwargs)
        return func(*args, **kwargs)

    def _note(self, func: Any, args: tuple, kwargs: dict) -> None:
        written = func.overloadpacket.__name__.endswith("_") and args[0]
        held = [self._held(a, own=a is written) if isinstance(a, Tensor) else a for a in args]
        held_by_name = {
            key: self._held(a, own=key == "out") if isinstance(a, Tensor) else a
            for key, a in kwargs.items()
        }
        self.replay.calls.append(lambda: func(*held, **held_by_name))
        self.replay.flops += flops(func, args)

    def _held(self, tensor: Tensor, own: bool) -> Tensor:
        """A stand-in with the tensor's layout and values.

        Tensors that shared memory in the step, at once or one after the other, share it here, so
        that the caches see the same. What is written to has memory of its own: inputs stay.
        """
        storage = tensor.untyped_storage()
        key = (storage.data_ptr(), storage.nbytes())
        if own:
            key = (-1 - key[0], key[1])
        if key not in self._storages:
            self._storages[key] = torch.empty(0, dtype=torch.uint8).set_(storage).clone()
        there = torch.empty(0, dtype=tensor.dtype).set_(self._storages[key].untyped_storage())
        return there.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def flops(func: Any, args: tuple) -> float:
    """Of one recorded call."""
    packet = func.overloadpacket
    if packet in PRODUCTS:
        a, b = [a for a in args if isinstance(a, Tensor)][-2:]
        return 2.0 * math.prod(a.shape) * b.shape[-1]
    backward = packet in ATTENTION_BACKWARD
    q, k, v = args[1:4] if backward else args[:3]
    # The flag follows the dropout in both; a call without it has the default.
    causal = bool(args[7] if backward else (args[4:5] or (False,))[0])
    products = 2.0 * q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
    return products * (2 if backward else 1) / (2 if causal else 1)


def record(step: Callable[[], Any]) -> Replay:
    """Run a step, uncompiled, and keep its products and attention."""
    recorder = Recorder()
    with recorder:
        step()
    return recorder.replay
