"""Memory of a training step by part, before anything is allocated: estimates in bytes.

The peak is reached in the loss, when all activations are kept and a chunk of logits is at hand, or
in the backward of a layer. Weights, gradients and optimizer are added, as a step of several
micro-batches has them all: gradients are there while the second one runs forward.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plm.config import build
from plm.errors import ConfigError
from plm.kernels.linear_rows import default_chunk
from plm.phases import Plan
from plm.plan_saved import Saved, saved_bytes

STRATEGIES = ("single", "ddp", "fsdp", "zero2")

ZERO_BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed's default `reduce_bucket_size`: gradients of a bucket wait there to be reduced."""


@dataclass(frozen=True)
class Sizes:
    """What the arithmetic needs of a model.

    Attributes:
        parameters: number of all weights.
        root: of those outside the layers: embedding, final norm, heads.
        layer: of the largest layer.
        vocab_size: V.
        hidden_size: D.
        optimizer: bytes of the optimizer's state, on one device.
    """

    parameters: int
    root: int
    layer: int
    vocab_size: int
    hidden_size: int
    optimizer: int


@dataclass(frozen=True)
class Activations:
    """What micro-batches of one and of two rows keep: the rest is a straight line.

    Attributes:
        one, two: counts at B = 1 and 2.
        precision: fp32, mixed or bf16.
    """

    one: Saved
    two: Saved
    precision: str

    def at(self, name: str, rows: int) -> int:
        """inputs, loss, outside or largest at so many rows."""
        one, two = getattr(self.one, name), getattr(self.two, name)
        return one + (two - one) * (rows - 1)

    def layers(self, rows: int) -> list[int]:
        """Bytes of each layer at so many rows."""
        both = zip(self.one.layers, self.two.layers, strict=True)
        return [one + (two - one) * (rows - 1) for one, two in both]

    def kept(self, rows: int, checkpointing: bool) -> tuple[int, int]:
        """Bytes kept, the loss's left out: when the forward ends, and in a layer's backward.

        Args:
            rows: B.
            checkpointing: layers keep their inputs alone. At the forward's end autocast's narrow
                copies of all weights are there yet; in the backward one layer is made again.
        """
        layers, always = self.layers(rows), self.at("inputs", rows) + self.at("outside", rows)
        if not checkpointing:
            return always + sum(layers), always + sum(layers)
        both = zip(self.one.layers, self.two.layers, strict=True)
        copies = sum(2 * one - two for one, two in both)
        return always + copies, always + max(layers)


def chunk_bytes(sizes: Sizes, precision: str, positions: int, gpu: bool) -> int:
    """Passing memory of the chunked cross-entropy: a chunk of logits, narrow copies of the head.

    Args:
        sizes: of the model.
        precision: fp32, mixed or bf16.
        positions: B * T.
        gpu: chunks as on a GPU.
    """
    narrow = precision != "fp32"
    # A GPU's kernels stay in the product's type; plain torch calculates with a copy in fp32.
    each = (2 if narrow else 4) if gpu else 4 + 2 * narrow
    device = "cuda" if gpu else "cpu"
    rows = min(positions, default_chunk(sizes.vocab_size, sizes.hidden_size, device, each))
    logits = rows * sizes.vocab_size * each
    # The weight's copy is autocast's; the product of a chunk's gradient comes in either.
    copies = {"fp32": 0, "mixed": 2, "bf16": 1}[precision]
    return logits + copies * 2 * sizes.vocab_size * sizes.hidden_size


def full_logits_bytes(sizes: Sizes, positions: int) -> int:
    """What a loss with all logits holds at the least: these in fp32, and their gradient."""
    return 2 * 4 * positions * sizes.vocab_size


def reference_bytes(sizes: Sizes, positions: int) -> int:
    """Passing memory of the loss under kernels=reference: three tensors of all logits, measured."""
    return 3 * 4 * positions * sizes.vocab_size


def states(sizes: Sizes, strategy: str, gpus: int, precision: str) -> dict[str, int]:
    """Bytes on each GPU that do not depend on the batch.

    Weights and gradients are fp32 (autocast narrows copies), but for ZeRO, where DeepSpeed keeps
    bf16 ones whole and fp32 ones shared out with the optimizer (arXiv:1910.02054, section 5).

    Args:
        sizes: of the model.
        strategy: one of STRATEGIES.
        gpus: over which fsdp and zero2 share out.
        precision: fp32, mixed or bf16.
    """
    p, share = sizes.parameters, 1 if strategy in ("single", "ddp") else gpus
    found = {"weights": 4 * p, "gradients": 4 * p, "optimizer": sizes.optimizer // share}
    if strategy == "fsdp":
        # The root is whole from its forward to its backward; of the layers, the one that runs and
        # the next one are, each with its gradient in the backward.
        gathered = 4 * (sizes.root + 2 * sizes.layer) + 4 * (sizes.root + sizes.layer)
        found |= {"weights": 4 * p // gpus, "gradients": 4 * p // gpus}
        found["gathered"] = gathered if gpus > 1 else 0
    elif strategy == "zero2":
        width = 2 if precision == "bf16" else 4
        found |= {"weights": width * p, "gradients": width * p // gpus}
        found["optimizer"] += 4 * p // gpus
        found["bucket"] = width * min(p, ZERO_BUCKET_ELEMENTS)
    return found


@dataclass(frozen=True)
class Step:
    """A micro-batch as it runs on one device.

    Attributes:
        rows: B.
        seq_len: T.
        checkpointing: layers are recomputed in the backward.
        gpu: a GPU's chunks of logits.
        reference: kernels=reference, whose loss makes all logits.
    """

    rows: int
    seq_len: int
    checkpointing: bool
    gpu: bool
    reference: bool = False


def loss_bytes(sizes: Sizes, kept: Activations, step: Step) -> tuple[int, int]:
    """Bytes of the losses: kept for the backward, and passing."""
    positions = step.rows * step.seq_len
    passing = (
        reference_bytes(sizes, positions)
        if step.reference
        else chunk_bytes(sizes, kept.precision, positions, step.gpu)
    )
    return kept.at("loss", step.rows), passing


def step_bytes(sizes: Sizes, kept: Activations, step: Step) -> dict[str, int]:
    """Bytes of a micro-batch by part, at its peak: in the loss or in the backward of a layer.

    Returns:
        activations: kept for the backward.
        logits: of the loss: its gradients and, if it makes the peak, a chunk of logits.
        working: a layer's own gradients, if its backward makes the peak.
    """
    in_loss, in_layer = kept.kept(step.rows, step.checkpointing)
    loss, passing = loss_bytes(sizes, kept, step)
    # One gradient of the largest tensor's size: as measured on a CPU.
    working = kept.at("largest", step.rows)
    if in_loss + passing >= in_layer + working:
        return {"activations": in_loss, "logits": loss + passing, "working": 0}
    return {"activations": in_layer, "logits": loss, "working": working}


def largest_rows(available: int, fixed: int, sizes: Sizes, kept: Activations, step: Step) -> int:
    """The most rows whose step fits beside the fixed parts; 0: not even one.

    Args:
        available: bytes of the device.
        fixed: bytes that do not depend on the batch.
        sizes, kept: of the model.
        step: its rows are what is looked for.
    """

    def fits(rows: int) -> bool:
        tried = Step(rows, step.seq_len, step.checkpointing, step.gpu, step.reference)
        return fixed + sum(step_bytes(sizes, kept, tried).values()) <= available

    if not fits(1):
        return 0
    low, high = 1, 2
    while fits(high) and high < 2**20:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def precision_names(choice: str) -> tuple[str, str]:
    """How activations are kept on a GPU under a precision: by torch's strategies, by DeepSpeed.

    Raises:
        ConfigError: another choice.
    """
    if choice == "fp32":
        return "fp32", "fp32"
    if choice in ("auto", "bf16", "fp16"):
        return "mixed", "bf16"
    raise ConfigError(f"precision={choice} is not auto, fp32, bf16 or fp16")


def memory(
    settings: Mapping[str, Any], sizes: Sizes, *, device_bytes: float, gpus: int
) -> dict[str, Any]:
    """Peak memory of one GPU by part, for each strategy, with checkpointing and without.

    Args:
        settings: the composed configuration, plain.
        sizes: of the model.
        device_bytes: memory of one GPU.
        gpus: how many fsdp and zero2 share out over.
    """
    plan, rows = Plan.read(settings["phases"]), settings["micro_batch_size"]
    seq_len, model = plan.max_seq_len, settings["model"]
    losses = {name: build(node) for name, node in settings["losses"].items() if node}
    isolate = any(planned.phase.isolate_documents for planned in plan.phases)
    by_torch, by_deepspeed = precision_names(settings["precision"])
    kept = {}
    for precision in {by_torch, by_deepspeed}:
        shape = {"seq_len": seq_len, "isolate": isolate, "precision": precision, "gpu": True}
        one, two = (saved_bytes(model, losses, rows=n, **shape) for n in (1, 2))
        kept[precision] = Activations(one, two, precision)
    found: list[dict[str, Any]] = []
    for strategy in STRATEGIES:
        precision = by_deepspeed if strategy == "zero2" else by_torch
        fixed = states(sizes, strategy, gpus, precision)
        for checkpointing in (False, True):
            step = Step(rows, seq_len, checkpointing, True, settings["kernels"] == "reference")
            parts = {**fixed, **step_bytes(sizes, kept[precision], step)}
            most = largest_rows(
                int(device_bytes), sum(fixed.values()), sizes, kept[precision], step
            )
            found.append(
                {
                    "strategy": strategy,
                    "checkpoint_activations": checkpointing,
                    "parts": parts,
                    "total": sum(parts.values()),
                    "fits": sum(parts.values()) <= device_bytes,
                    "largest_micro_batch": most,
                }
            )
    return {
        "precision": by_torch,
        "micro_batch_size": rows,
        "seq_len": seq_len,
        "device_bytes": device_bytes,
        "logits_chunked": sum(loss_bytes(sizes, kept[by_torch], Step(rows, seq_len, False, True))),
        "logits_full": full_logits_bytes(sizes, rows * seq_len),
        "setups": found,
    }
