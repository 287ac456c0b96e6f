"""Made-up pairs in packed windows, and the same sequences one by one."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from plm.batch import Batch
from plm.data.conversation_shards import TARGET
from plm.data.indexed import IndexedDataset, IndexedWriter
from plm.data.loader import Batches
from plm.data.order import Order
from plm.data.packing import write_packing
from plm.data.pair_shards import OF_WORSE
from plm.data.pair_stream import PairStream
from plm.phases import Plan
from plm.preference.aries import aries
from plm.preference.common import SHOWN, PairLogps
from plm.stages.preference import Preference
from plm.transform.common import Transforms
from tests.model.common import plain_context

SIZE = 44
"""Of a window: two or three of the questions' parts fit, and one or two of the others."""
_BEHIND = 1
_TEMPLATE = (2, 3, 4)


class Drawn(NamedTuple):
    """A pair: a prompt for each of SHOWN, and both answers; token ids."""

    prompts: list[list[int]]
    chosen: list[int]
    rejected: list[int]


def drawn(number: int, seed: int = 0) -> list[Drawn]:
    """Random pairs of all lengths, those of an answer of one token included."""
    generator = np.random.default_rng(seed)

    def text(least: int, most: int) -> list[int]:
        return generator.integers(8, 37, generator.integers(least, most + 1)).tolist()

    found = []
    for _ in range(number):
        asked, chosen, rejected = text(1, 3), text(1, 4), text(1, 4)
        first, middle, last = _TEMPLATE
        shown = ([first, *asked, middle, *answer, last] for answer in (rejected, chosen))
        found.append(Drawn([asked, *shown], chosen, rejected))
    return found


def write(
    folder: Path, pairs: list[Drawn], kinds: tuple[str, ...] = SHOWN, size: int = SIZE
) -> PairStream:
    """The pairs' parts, as `plm.data.pair_shards` writes them, packed."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, marks, lengths = [], [], []
    for pair in pairs:
        for kind in kinds:
            shown, before = SHOWN.index(kind), len(ids)
            for of_worse, answer in enumerate((pair.chosen, pair.rejected)):
                prompt = pair.prompts[shown]
                ids += [*prompt, *answer, _BEHIND]
                high = of_worse * OF_WORSE + (shown << 2)
                marks += [high] * len(prompt) + [high + TARGET] * len(answer) + [high]
            lengths.append(len(ids) - before)
    for name, values in (("data", ids), ("mask", marks)):
        with IndexedWriter(folder / name, np.dtype(np.uint16 if name == "data" else np.uint8)) as w:
            w.add(np.array(values), lengths)
    write_packing(folder / "data", size)
    return PairStream(IndexedDataset(folder / "data"), size, IndexedDataset(folder / "mask"))


def plan_of(streams: dict[str, PairStream], rows: int = 0) -> Plan:
    """One phase over the sources in equal shares; a step of all windows if rows is 0."""
    size = next(iter(streams.values())).size
    total = sum(stream.n_windows for stream in streams.values())
    rows = rows or total
    return Plan.read(
        {
            "pairs": {
                "tokens": total // rows * rows * size,
                "seq_len": size,
                "global_batch_tokens": rows * size,
                "mixture": dict.fromkeys(streams, 1),
                "rate": {"shape": "hold", "to": 1.0},
            }
        }
    )


def batches(streams: dict[str, PairStream], micro: int, rows: int = 0) -> Batches:
    """As the stage reads them."""
    plan = plan_of(streams, rows)
    sizes = {name: stream.n_tokens for name, stream in streams.items()}
    size = next(iter(streams.values())).size
    return Batches(Order(plan, sizes, size, 0), list(streams.values()), micro_batch_size=micro)


def whole(stream: PairStream) -> Batch:
    """All windows in one micro-batch."""
    (batch,) = batches({"x": stream}, stream.n_windows).step(0)
    return batch


def alone(model: nn.Module, prompt: list[int], answer: list[int]) -> Tensor:
    """An answer's log-probability, summed over its tokens: no packing, padding or fused head."""
    tokens = torch.tensor([[*prompt, *answer]])
    logps = model(tokens, context=plain_context(*tokens.shape)).logits.log_softmax(-1)
    predicted = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return sum(logps[0, place, tokens[0, place + 1]] for place in predicted)


def one_by_one(model: nn.Module, pairs: list[Drawn], kinds: tuple[str, ...] = SHOWN) -> PairLogps:
    """Every part's log-probabilities, in the order that `write` writes the parts."""
    rows = []
    for pair in pairs:
        for kind in kinds:
            shown = SHOWN.index(kind)
            both = [alone(model, pair.prompts[shown], a) for a in (pair.chosen, pair.rejected)]
            rows.append((*both, len(pair.chosen), len(pair.rejected), shown))
    chosen, rejected, *rest = zip(*rows, strict=True)
    return PairLogps(torch.stack(chosen), torch.stack(rejected), *map(torch.tensor, rest))


def documents(stream: PairStream, parts: Tensor) -> Tensor:
    """Which of the parts, in the order that they were written, have these numbers."""
    return torch.from_numpy(stream._order)[parts]


class _Keeps(torch.optim.SGD):
    """An optimizer that keeps the gradients of each step."""

    def __init__(self, named: list[Any], lr: float) -> None:
        super().__init__([one.parameter for one in named], lr=lr)
        self.param_groups[0]["initial_lr"] = lr
        self.names, self.kept = [one.name for one in named], []

    def step(self, closure: Any = None) -> Any:
        parameters = self.param_groups[0]["params"]
        grads = [p.grad.clone() for p in parameters]
        self.kept.append(dict(zip(self.names, grads, strict=True)))
        return super().step(closure)


def stage_of(
    model: nn.Module, plan: Plan, preference: Any = None, sft_weight: float = 0.0
) -> Preference:
    """The stage, whose optimizer keeps the gradients."""
    return Preference(
        model,
        preference=partial(aries) if preference is None else preference,
        sft_weight=sft_weight,
        losses={},
        plan=plan,
        schedule=lambda tokens_seen: 1.0,
        make_optimizer=_Keeps,
        peak_lr=0.1,
        clip_norm=0.0,
        seed=0,
        transforms=Transforms(),
        regularizers={},
    )


def fitted(stage: Preference, data: Batches) -> list[dict[str, Tensor]]:
    """Run the stage as Lightning does: the gradients by name of each step."""
    pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(stage, torch.utils.data.DataLoader(data, batch_size=None))
    return stage.placement.optimizer.kept
