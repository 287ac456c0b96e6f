"""Two tables: one for the tokens' vectors, one for the output head."""

from collections.abc import Callable

from torch import Tensor, nn

from plm.errors import ConfigError


class Untied(nn.Embedding):
    """Tokens in by one table [V, D], scores out by another."""

    tied = False
    exports = ("plm", "llama", "qwen2", "qwen3")

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, linear: Callable[..., nn.Module]
    ) -> None:
        super().__init__(num_embeddings, embedding_dim)
        self.lm_head = linear(embedding_dim, num_embeddings, "head")
        if not hasattr(self.lm_head, "weight"):
            raise ConfigError(
                "model.linear gives role head no weight of [vocab_size, hidden_size], which the "
                "losses read; let it give role head another layer, or use model/embedding=tied"
            )

    @property
    def head_weight(self) -> Tensor:
        """[V, D], of the output head."""
        return self.lm_head.weight
