"""What a forward keeps for its backward, counted on tensors that take no memory.

The model's own code runs on fake tensors of the real shapes, so that the count holds for any mixer,
feed-forward or loss; for a GPU, with the ops that its kernels fuse. Only torch's own attention on a
GPU is stood in for: there it keeps queries, keys, values, output and log-sum-exp, where the CPU's
plain path keeps the pattern.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from plm.batch import LossSum
from plm.config import build
from plm.kernels.dispatch import assumed
from plm.model.attention.common import SoftmaxAttention
from plm.model.context import Context
from plm.optimizer.common import NamedParameter

PRECISIONS = ("fp32", "mixed", "bf16")
"""fp32 throughout; fp32 weights under bf16 autocast; bf16 weights (DeepSpeed's way)."""


@dataclass
class Saved:
    """Bytes kept for the backward, each storage once, parameters left out.

    Attributes:
        layers: of each layer, its input left out.
        inputs: of the layers' inputs: all that activation checkpointing keeps of a layer.
        loss: of the losses: with the chunked cross-entropy, its two gradients.
        outside: embedding, final norm, rotary tables, further heads.
        largest: the largest storage in a layer.
    """

    layers: list[int] = field(default_factory=list)
    inputs: int = 0
    loss: int = 0
    outside: int = 0
    largest: int = 0


class Tally:
    """Hooks on saved tensors that add each storage to the region which is running."""

    def __init__(self, model: nn.Module) -> None:
        self._known = {p.untyped_storage()._cdata for p in model.parameters()}
        # Held here: a storage freed in mid-forward would lend its address to another one.
        self._held: list[Tensor] = []
        self.bytes: dict[str, int] = {}
        self.largest = 0
        self.region = "outside"

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor that autograd saves."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self._held.append(tensor)
            self.bytes[self.region] = self.bytes.get(self.region, 0) + storage.nbytes()
            if self.region.startswith("layer"):
                self.largest = max(self.largest, storage.nbytes())
        return tensor

    def within(self, region: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, with what it saves counted under `region`."""

        def run(*args: Any, **kwargs: Any) -> Any:
            before, self.region = self.region, region
            try:
                return call(*args, **kwargs)
            finally:
                self.region = before

        return run

    def watch(self, model: nn.Module) -> None:
        """Count each layer apart; its input is a layer's too, whoever saves it."""
        for index, layer in enumerate(model.layers):
            forward = self.within(f"layer {index}", layer.forward)

            def run(hidden: Tensor, *args: Any, _forward=forward) -> Any:
                self.within("inputs", self.pack)(hidden)
                return _forward(hidden, *args)

            layer.forward = run

    def saved(self, layers: int) -> Saved:
        """The count so far, of a model of so many layers."""
        return Saved(
            layers=[self.bytes.get(f"layer {index}", 0) for index in range(layers)],
            inputs=self.bytes.get("inputs", 0),
            loss=self.bytes.get("loss", 0),
            outside=self.bytes.get("outside", 0),
            largest=self.largest,
        )


class _FusedAttention(torch.autograd.Function):
    """Keeps what torch's attention on a GPU keeps; computes nothing."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        log_sum = q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, log_sum, bias)
        return out


def _attend_fused(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, **_: Any):
    if torch.is_autocast_enabled("cpu"):
        q, k, v = (part.to(torch.get_autocast_dtype("cpu")) for part in (q, k, v))
    # torch turns a bool mask into a bias of the queries' dtype, anew in every layer.
    bias = None if mask is None else q.new_empty(mask.shape)
    return _FusedAttention.apply(q, k, v, bias)


def _narrow(model: nn.Module) -> None:
    # Module.bfloat16() swaps tensors, which fake ones refuse.
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.detach().bfloat16()))


def saved_bytes(
    model_settings: Mapping[str, Any],
    losses: Mapping[str, Callable[..., LossSum]],
    *,
    rows: int,
    seq_len: int,
    isolate: bool,
    precision: str = "fp32",
    gpu: bool = False,
) -> Saved:
    """What one micro-batch keeps for its backward.

    Args:
        model_settings: the node `model`; nothing of it is allocated.
        losses: `(hidden, head_weight, labels, kernels=) -> LossSum`, by name.
        rows: B.
        seq_len: T.
        isolate: documents of a window do not see each other: a mask.
        precision: one of PRECISIONS.
        gpu: attention by a GPU's fused kernels; False: the paths of a CPU.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        model = build({**model_settings, "checkpoint_activations": False})
        if precision == "bf16":
            _narrow(model)
        tally = Tally(model)
        tally.watch(model)
        for module in model.modules():
            fused = isinstance(module, SoftmaxAttention) and module.plain and gpu
            if fused and model.kernels != "reference":
                module.forward = _attend_fused
        if gpu and model.kernels == "auto":
            model.use_kernels("triton")
        tokens = torch.zeros(rows, seq_len, dtype=torch.int64)
        context = Context(positions=tokens, doc_ids=tokens if isolate else None)
        mixed = torch.autocast("cpu", torch.bfloat16) if precision == "mixed" else nullcontext()
        saved = torch.autograd.graph.saved_tensors_hooks(tally.pack, lambda held: held)
        with assumed() if gpu else nullcontext(), mixed, saved:
            model(
                tokens,
                context=context,
                labels=tokens,
                losses={name: tally.within("loss", call) for name, call in losses.items()},
            )
        return tally.saved(len(model.layers))


def optimizer_bytes(model_settings: Mapping[str, Any], optimizer: Any) -> int:
    """Bytes of the optimizer's state after a step, all weights learning in fp32.

    Args:
        model_settings: the node `model`.
        optimizer: the node `optimizer`.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        model = build(model_settings)
        roles = model.roles()
        named = [
            NamedParameter(name, parameter, roles.get(name, "other"))
            for name, parameter in model.named_parameters()
        ]
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        made = build(optimizer)(named, lr=1.0)
        made.step()
        return sum(
            value.numel() * value.element_size()
            for state in made.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        )
