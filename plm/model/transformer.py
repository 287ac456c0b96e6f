"""The root of a language model: embedding, layers, final norm, head and losses."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from plm.batch import LossSum
from plm.errors import ConfigError
from plm.kernels import pick
from plm.model.common import Tap, flops
from plm.model.context import Context
from plm.model.taps import reading

Loss = Callable[..., LossSum]


@dataclass
class Output:
    """What a forward gives.

    Attributes:
        hidden: [B, T, D], after the final norm.
        losses: by name; parts' own under their module path.
        logits: [B, T, V], where no labels were given.
    """

    hidden: Tensor
    losses: dict[str, LossSum]
    logits: Tensor | None = None


class Transformer(nn.Module):
    """A stack of blocks over token vectors, every part of it a choice.

    Args:
        vocab_size: V.
        hidden_size: D.
        num_hidden_layers: L.
        max_position_embeddings: longest context that it is meant for.
        attention, mlp: partials, completed with hidden_size, linear, norm or activation, matmul.
        activation: `() -> module`.
        norm: `(size) -> module`.
        block: partial, completed with hidden_size, attention, mlp and norm; it keeps
            `context.part` at the name of the part that runs.
        linear: `(in, out, role) -> module`.
        matmul: product inside attention.
        embedding: partial, completed with V, D and linear.
        heads: further heads, partials completed with hidden_size, vocab_size, linear and norm; each
            `(hidden, head_weight, labels, context) -> LossSum`.
        initializer_range: standard deviation of initial weights.
        depth_scaled_init: divide it by sqrt(2 L) for what writes into the residual stream.
        checkpoint_activations: recompute each block in the backward instead of keeping it.
        kernels: "auto", "triton" or "reference".
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        hidden_size: int,
        num_hidden_layers: int,
        max_position_embeddings: int,
        attention: Callable[..., nn.Module],
        mlp: Callable[..., nn.Module],
        activation: Callable[[], nn.Module],
        norm: Callable[..., nn.Module],
        block: Callable[..., nn.Module],
        linear: Callable[..., nn.Module],
        matmul: Callable[..., Tensor],
        embedding: Callable[..., nn.Module],
        heads: Mapping[str, Callable[..., nn.Module]] | None = None,
        initializer_range: float = 0.02,
        depth_scaled_init: bool = False,
        checkpoint_activations: bool = False,
        kernels: str = "auto",
    ) -> None:
        super().__init__()
        sizes = {
            "vocab_size": vocab_size,
            "hidden_size": hidden_size,
            "num_hidden_layers": num_hidden_layers,
        }
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"model.{name}={value} must be at least 1")
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range, self.depth_scaled_init = initializer_range, depth_scaled_init
        self.checkpoint_activations = checkpoint_activations

        def projection(in_features: int, out_features: int, role: str) -> nn.Module:
            module = linear(in_features, out_features, role)
            module.role = role
            return module

        def mixer() -> nn.Module:
            return attention(hidden_size, linear=projection, norm=norm, matmul=matmul)

        def feed_forward() -> nn.Module:
            return mlp(hidden_size, activation=activation, linear=projection)

        self.embed_tokens = embedding(vocab_size, hidden_size, linear=projection)
        self.embedded = Tap()
        self.layers = nn.ModuleList(
            block(hidden_size, attention=mixer, mlp=feed_forward, norm=norm)
            for _ in range(num_hidden_layers)
        )
        self.norm = norm(hidden_size)
        self.heads = nn.ModuleDict(
            {
                name: head(hidden_size, vocab_size=vocab_size, linear=projection, norm=norm)
                for name, head in (heads or {}).items()
            }
        )
        self.use_kernels(kernels)

    def use_kernels(self, kernels: str) -> None:
        """Switch the whole model to "auto", "triton" or "reference".

        Raises:
            ConfigError: another name.
        """
        pick(kernels)
        # A norm is called without a context: it is told once.
        for module in self.modules():
            if module is self or hasattr(module, "kernels"):
                module.kernels = kernels

    def init_weights(self, seed: int) -> None:
        """Draw every weight from a generator of (seed, its name): layout and ranks don't matter.

        A part with parameters of its own takes part by a method `init_weights(generator, std)`,
        called after those of what it holds.
        """
        depth_factor = (2 * len(self.layers)) ** -0.5 if self.depth_scaled_init else 1.0
        for name, module in reversed(list(self.named_modules())):
            generator = torch.Generator().manual_seed(_seed_of(seed, name))
            role = getattr(module, "role", "")
            std = self.initializer_range * (depth_factor if role in ("o", "down") else 1.0)
            if module is not self and hasattr(module, "init_weights"):
                module.init_weights(generator, std)
            elif isinstance(module, nn.Linear | nn.Embedding):
                with torch.no_grad():
                    drawn = torch.randn(module.weight.shape, generator=generator) * std
                    module.weight.copy_(drawn)

    def forward(
        self,
        tokens: Tensor | None = None,
        *,
        context: Context,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        losses: Mapping[str, Loss] | None = None,
        regularizers: Mapping[str, Loss] | None = None,
    ) -> Output:
        """Run the layers and, where labels are given, the losses.

        Args:
            tokens: [B, T] int64.
            context: positions, documents and switches of this batch.
            inputs_embeds: [B, T, D] in the place of tokens.
            labels: [B, T] int64, already shifted: labels[t] is what position t predicts.
            losses: `(hidden, head_weight, labels) -> LossSum`, by name; called here, because a
                tied and sharded head is whole only inside the root's forward.
            regularizers: `(context, tokens_seen) -> LossSum`, by name. One's `reads`, patterns of
                module names, says whose outputs it finds in `context.taps`.
        Raises:
            ConfigError: documents are to be isolated and a mixer cannot do so, or a regularizer
                reads what does not run.
        """
        hidden = self.embed_tokens(tokens) if inputs_embeds is None else inputs_embeds
        with reading(self, regularizers or {}, context):
            hidden = self._run(hidden, context)
        head_weight = self.embed_tokens.head_weight
        if labels is None:
            return Output(hidden, dict(context.losses), F.linear(hidden, head_weight))
        found = {
            name: self._call(loss, hidden, head_weight, labels)
            for name, loss in (losses or {}).items()
        }
        for name, head in self.heads.items():
            found[f"heads.{name}"] = head(hidden, head_weight, labels, context)
        for name, regularizer in (regularizers or {}).items():
            found[f"regularizers.{name}"] = regularizer(context, context.tokens_seen)
        return Output(hidden, {**found, **context.losses})

    def _call(self, loss: Loss, *given: Tensor) -> LossSum:
        """A loss may want to know which kernels to use; none has to."""
        return loss(*given, kernels=self.kernels) if _wants_kernels(loss) else loss(*given)

    def _run(self, hidden: Tensor, context: Context) -> Tensor:
        hidden = self._enter(hidden, context)
        for index, layer in enumerate(self.layers):
            self._prepare(layer, context)
            if self.checkpoint_activations and self.training:
                hidden = checkpoint(_layer, layer, index, hidden, context, use_reentrant=False)
            else:
                hidden = _layer(layer, index, hidden, context)
        return self.norm(hidden)

    def _enter(self, hidden: Tensor, context: Context) -> Tensor:
        context.kernels = self.kernels
        context.wide = torch.promote_types(hidden.dtype, torch.float32)
        return self.embedded(hidden)

    def _prepare(self, layer: nn.Module, context: Context) -> None:
        mixer = getattr(layer, "self_attn", layer)
        if context.doc_ids is not None and not getattr(mixer, "isolates_documents", False):
            raise ConfigError(
                f"model.attention={type(mixer).__name__} cannot keep the documents of a window "
                "apart; set isolate_documents=false in every phase"
            )
        if hasattr(mixer, "prepare"):
            mixer.prepare(context)

    def init_state(
        self, batch: int, max_len: int, device: torch.device | str = "cpu", dtype=torch.float32
    ) -> list[object]:
        """An empty decoding state a layer, for `batch` rows of at most max_len positions."""
        return [
            layer.self_attn.init_state(batch, max_len, torch.device(device), dtype)
            for layer in self.layers
        ]

    def step(
        self, tokens: Tensor, states: list[object], context: Context, last: Tensor | None = None
    ) -> Tensor:
        """Take T new positions: [B, T] int64 -> logits of one of them, [B, V].

        Args:
            tokens: padded on the right where rows are of several lengths.
            states: of `init_state`; advanced in place.
            context: with each row's positions in it.
            last: [B] int64, which of the T; None: the last.
        """
        hidden = self._enter(self.embed_tokens(tokens), context)
        for index, (layer, state) in enumerate(zip(self.layers, states, strict=True)):
            context.layer = f"layers.{index}"
            hidden = layer.step(hidden, state, context)
        rows = torch.arange(len(hidden), device=hidden.device)
        hidden = hidden[:, -1] if last is None else hidden[rows, last]
        return F.linear(self.norm(hidden), self.embed_tokens.head_weight)

    @property
    def ragged(self) -> bool:
        """Whether a step takes prompts of several lengths, padded on the right."""
        return all(getattr(layer.self_attn, "ragged", False) for layer in self.layers)

    def reorder(self, states: list[object], index: Tensor) -> None:
        """Make row i of every state the former row index[i]; index: int64."""
        for layer, state in zip(self.layers, states, strict=True):
            layer.self_attn.reorder(state, index)

    def place(
        self, states: list[object], rows: Tensor, source: list[object], index: Tensor
    ) -> None:
        """Overwrite rows of the states with the rows `index` of others; both [N] int64."""
        for layer, state, given in zip(self.layers, states, source, strict=True):
            layer.self_attn.place(state, rows, given, index)

    def first(self, states: list[object], count: int) -> list[object]:
        """The first rows of the states, as states that share their memory."""
        return [
            layer.self_attn.first(state, count)
            for layer, state in zip(self.layers, states, strict=True)
        ]

    def roles(self) -> dict[str, str]:
        """Role of every parameter by name: of its projection, else embedding, norm or other."""
        found: dict[str, str] = {}
        for name, module in self.named_modules():
            role = getattr(module, "role", None)
            if role is None and module is self.embed_tokens:
                role = "embedding"
            if role is None and name.rpartition(".")[2].endswith("norm"):
                role = "norm"
            for parameter, _ in module.named_parameters(name, recurse=role is not None):
                if role is not None or parameter not in found:
                    found[parameter] = role or found.get(parameter, "other")
        return found

    def parameter_settings(self) -> dict[str, dict[str, float | bool]]:
        """What parts ask of the optimizer, by parameter: `rate_factor`, `decay`.

        A part asks by a method of this name, with its own parameters' names.
        """
        return {
            f"{name}.{parameter}": asked
            for name, module in self.named_modules()
            if module is not self and hasattr(module, "parameter_settings")
            for parameter, asked in module.parameter_settings().items()
        }

    def flops_per_token(self, seq_len: int) -> float:
        """Forward FLOPs a token in a window of seq_len, head included, attention causal."""
        head = 2.0 * self.vocab_size * self.hidden_size
        return head + sum(flops(part, seq_len) for part in [*self.layers, *self.heads.values()])

    def training_flops_per_token(self, seq_len: int) -> float:
        """FLOPs a token of a step, forward and backward, of the weights that learn as they are.

        Three times the forward where all do. A frozen matrix needs no gradient of its own, and
        layers below the first that learns have no backward at all.
        """
        embedding = list(self.embed_tokens.parameters())
        reached = any(weight.requires_grad for weight in embedding)
        total = 0.0
        for layer in self.layers:
            reached = reached or any(weight.requires_grad for weight in layer.parameters())
            total += (3 if reached else 1) * flops(layer, seq_len)
            total -= 2.0 * _frozen(layer) if reached else 0.0
        for head in self.heads.values():
            total += 3 * flops(head, seq_len) - 2.0 * _frozen(head)
        learns = self.embed_tokens.head_weight.requires_grad
        return total + (2 + learns) * 2.0 * self.vocab_size * self.hidden_size

    def state_bytes(self, seq_len: int, element_bytes: int = 2, expanded: bool = False) -> int:
        """Bytes of one row's decoding state over all layers, at seq_len positions."""
        return sum(
            layer.self_attn.state_bytes(seq_len, element_bytes, expanded) for layer in self.layers
        )

    def parameters_of(self, *, embedding: bool = True) -> int:
        """Number of parameters, with or without the embedding and the head."""
        total = sum(parameter.numel() for parameter in self.parameters())
        return (
            total if embedding else total - sum(p.numel() for p in self.embed_tokens.parameters())
        )


def _frozen(module: nn.Module) -> int:
    """Weights in matrices that do not learn."""
    return sum(p.numel() for p in module.parameters() if p.dim() == 2 and not p.requires_grad)


def _layer(layer: nn.Module, index: int, hidden: Tensor, context: Context) -> Tensor:
    """One layer. Its name is set here, out of what torch.compile sees: a compiled layer that
    names itself is compiled anew for every layer. In the recomputation it is set again.
    """
    context.layer = f"layers.{index}"
    return layer(hidden, context)


@lru_cache(maxsize=64)
def _wants_kernels(loss: Loss) -> bool:
    parameters = inspect.signature(loss).parameters.values()
    return any(p.name == "kernels" or p.kind is p.VAR_KEYWORD for p in parameters)


def _seed_of(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")
