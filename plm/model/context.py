"""What travels beside the hidden states through a model's parts."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from plm.batch import Batch, LossSum
from plm.kernels import document_bounds


@dataclass
class Context:
    """The same for all layers of one forward.

    Attributes:
        positions: [B, T] int64.
        doc_ids: [B, T] int64, or None where a token may see all that is before it.
        cu_seqlens: [N] int32, as in Batch.
        causal: False lets a token see what follows it.
        tokens_seen: tokens of the run before this batch.
        rope_theta: base of the rotary angles that the phase asks for; None: the model's own.
        reach: while decoding, a number of positions that the state's rows hold at most once the new
            ones are in, so that no more of it is looked at; None: found out from `positions`.
        wide: dtype of tables computed here, at least fp32: fp64 in a model in fp64.
        kernels: "auto", "triton" to insist on the GPU's kernels, or "reference" for plain, twice
            differentiable torch with every tap.
        extras: what the batch's source added, by name.
        taps: outputs of the named parts that a regularizer reads, by module name.
        read: modules whose outputs a regularizer reads.
        losses: what the parts added with add_loss, by "<module path>.<name>".
        layer: module path of the layer that runs, kept by the model.
        part: name in the layer of the part that runs, kept by the block.
        shared: tables that parts compute once a forward (masks, rotary angles), by key.
    """

    positions: Tensor
    doc_ids: Tensor | None = None
    cu_seqlens: Tensor | None = None
    causal: bool = True
    tokens_seen: int = 0
    rope_theta: float | None = None
    reach: int | None = None
    wide: torch.dtype = torch.float32
    kernels: str = "auto"
    extras: dict[str, Tensor] = field(default_factory=dict)
    taps: dict[str, Tensor] = field(default_factory=dict)
    read: set[nn.Module] = field(default_factory=set)
    losses: dict[str, LossSum] = field(default_factory=dict)
    layer: str = ""
    part: str = ""
    shared: dict[object, object] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Batch, **settings: object) -> "Context":
        """The context of a training batch."""
        return cls(
            positions=batch.positions,
            doc_ids=batch.doc_ids,
            cu_seqlens=batch.cu_seqlens,
            tokens_seen=batch.tokens_seen,
            extras=batch.extras,
            **settings,  # type: ignore[arg-type]
        )

    def add_loss(self, name: str, loss: LossSum) -> None:
        """Add an auxiliary loss of the running part.

        The key is the part's path, so that recomputing it (activation checkpointing) replaces the
        loss instead of adding it twice. The count must depend on the batch's shape alone (rows or
        positions): the stage scales it up to the global batch before the first backward.
        """
        self.losses[f"{self.layer}.{self.part}.{name}"] = loss

    def rotary(self, dim: int, theta: float) -> tuple[Tensor, Tensor]:
        """Cosine and sine, each [B, T, dim / 2] in `wide`, of the rotary angles at `positions`."""
        theta = self.rope_theta or theta
        key = ("rotary", dim, theta, self.wide)
        if key not in self.shared:
            # fp64: in fp32 the angle of position 100,000 is already off by 1e-3.
            exponent = torch.arange(0, dim, 2, device=self.positions.device, dtype=torch.float64)
            angle = self.positions[..., None].double() * theta ** (-exponent / dim)
            self.shared[key] = (angle.cos().to(self.wide), angle.sin().to(self.wide))
        return self.shared[key]  # type: ignore[return-value]

    def document_bounds(self) -> tuple[Tensor | None, Tensor | None]:
        """First position and end of each token's document, [B, T] int32; None: a row is one."""
        if self.doc_ids is None:
            return None, None
        if "bounds" not in self.shared:
            self.shared["bounds"] = document_bounds(self.doc_ids)
        return self.shared["bounds"]  # type: ignore[return-value]

    def attention_mask(self) -> Tensor | None:
        """[B, 1, T, T] bool, True where a query may see a key; None: plain causal, or no mask."""
        if self.doc_ids is None:
            return None
        key = ("mask", self.causal)
        if key not in self.shared:
            mask = self.doc_ids[:, :, None] == self.doc_ids[:, None, :]
            self.shared[key] = (mask.tril() if self.causal else mask)[:, None]
        return self.shared[key]  # type: ignore[return-value]

    def reached(self) -> int:
        """Positions of the state that a step has to look at, its own included."""
        if self.reach is None:
            # Once a step: elsewhere than on a CPU this waits for the device.
            self.reach = int(self.positions.max()) + 1
        return self.reach

    def step_mask(self) -> Tensor:
        """[B, 1, T, reached] bool, which positions of the state each new one sees."""
        if "step_mask" not in self.shared:
            places = torch.arange(self.reached(), device=self.positions.device)
            self.shared["step_mask"] = (places <= self.positions[:, :, None])[:, None]
        return self.shared["step_mask"]  # type: ignore[return-value]
