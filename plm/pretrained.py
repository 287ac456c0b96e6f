"""A trained model and what belongs to it, from a run, a checkpoint or a Hugging Face folder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from plm import handoff
from plm.config import build
from plm.data import tokenizer as bpe
from plm.errors import CheckpointError
from plm.formats.common import check_tokenizer
from plm.transform.common import Transforms


@dataclass
class Pretrained:
    """A model as it lies on a disk.

    Attributes:
        path: checkpoint or Hugging Face folder.
        model: on the CPU, in fp32, for evaluation.
        tokenizer: its tokenizer.json; None: there is none.
        end_of_text: the token that ends a document; None: not said.
        rope_theta: rotary base that the last phase set; None: the model's own.
        run: folder of the run; None for a Hugging Face folder, or a checkpoint by itself.
        meta: the checkpoint's meta.json; empty for a Hugging Face folder.
        chat_template: Jinja; None: there is none.
    """

    path: Path
    model: nn.Module
    tokenizer: Path | None
    end_of_text: str | None = None
    rope_theta: float | None = None
    run: Path | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    chat_template: str | None = None


def load(where: str | Path, *, average: bool = False) -> Pretrained:
    """Load a model for use.

    Args:
        where: run folder (its newest whole checkpoint), checkpoint, or Hugging Face folder.
        average: take the averaged weights that callbacks.average kept.
    Raises:
        CheckpointError: nothing usable is there, or it does not fit together.
        DataError: the tokenizer has more ids than the embedding rows.
        ConfigError: it names what is not trusted.
    """
    start = handoff.find(str(where), "weights", "")
    if start.path is None:
        raise CheckpointError("no folder was named")
    node = handoff.model_settings(start)
    if start.meta:
        node["linear"] = handoff.without_adapters(node["linear"])
    model = build(node)
    Transforms().replay(model, start.meta.get("transforms", []))
    model.load_state_dict(handoff.weights(start, model, average=average))
    model.eval()
    tokenizer = handoff.tokenizer_file(start)
    if tokenizer is not None:
        check_tokenizer(bpe.load(tokenizer), model.vocab_size, start.path)
    found = Pretrained(start.path, model, tokenizer, meta=start.meta)
    if start.meta:
        inside = start.path.parent.name == "checkpoints"
        found.run = start.path.parents[1] if inside else None
        found.rope_theta = start.meta.get("rope_theta")
    found.end_of_text = handoff.end_of_text(start)
    found.chat_template = handoff.chat_template(start)
    return found
