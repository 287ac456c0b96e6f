"""One table for the tokens' vectors and for the output head.

Paper: Press & Wolf (arXiv:1608.05859)
"""

from collections.abc import Callable

from torch import Tensor, nn


class Tied(nn.Embedding):
    """Tokens in and scores out share a table [V, D].

    Args:
        num_embeddings: V.
        embedding_dim: D.
        linear: unused; an embedding choice is offered it for a head of its own.
    """

    tied = True
    exports = ("plm", "llama", "qwen2", "qwen3")

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        linear: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim)

    @property
    def head_weight(self) -> Tensor:
        """[V, D], of the output head."""
        return self.weight
