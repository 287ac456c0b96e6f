"""Two ways to the gradients of one preference step, over the same made-up pairs and weights.

`Ours` is what the stage does: the reference's figures are computed first, with the model that the
run begins from, and parts go through it a few windows at a time. `AtOnce` keeps the reference
beside the policy and takes all sequences of all pairs, padded to the longest, in one forward of
each.
"""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from plm.batch import IGNORE_INDEX
from plm.config import build
from plm.data.conversation_shards import TARGET
from plm.data.indexed import IndexedDataset, IndexedWriter
from plm.data.loader import Batches
from plm.data.order import Order
from plm.data.packing import write_packing
from plm.data.pair_shards import OF_WORSE
from plm.data.pair_stream import PairStream
from plm.errors import ConfigError
from plm.kernels import pick
from plm.model.context import Context
from plm.pairs.reference import Reference, scored
from plm.phases import Plan
from plm.preference.common import SHOWN, PairLogps, shown_by
from plm.transform.common import Transforms

TEMPLATE_TOKENS = 24
"""Around a shown answer: about as many as configs/refinement/short.yaml has, with the turn's."""
_APART = 0.02


class Part(NamedTuple):
    """A prompt with its two answers; token ids, and what is shown as index into SHOWN."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    shown: int


class Case:
    """The model, the loss and the pairs, from a seed: alike in every process.

    Args:
        own: this script's settings.
        settings: the composed configuration, plain.
        device: where the model lies.
    Raises:
        ConfigError: a part is longer than a window.
    """

    def __init__(self, own: dict[str, Any], settings: dict[str, Any], device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.phase = settings["phases"]["pairs"]
        self.size, self.rows = self.phase["seq_len"], settings["micro_batch_size"]
        self.preference = build(settings["preference"])
        self.parts = self._drawn(own)
        self.model = build(settings["model"])
        self.model.init_weights(settings["seed"])
        self.model.to(device).train()

    def _drawn(self, own: dict[str, Any]) -> list[Part]:
        generator = np.random.default_rng(self.settings["seed"])

        def text(most: int) -> list[int]:
            # All lengths from a quarter of the longest are as likely.
            many = generator.integers(max(1, most // 4), most + 1)
            return generator.integers(0, self.settings["model"]["vocab_size"], many).tolist()

        found, template = [], text(4 * TEMPLATE_TOKENS)[:TEMPLATE_TOKENS]
        for _ in range(own["pairs"]):
            asked, chosen, rejected = (
                text(own["question"]),
                text(own["answer"]),
                text(own["answer"]),
            )
            shows = {"nothing": [], "worse": rejected, "better": chosen}
            for kind in shown_by(self.preference):
                prompt = [*asked, *template, *shows[kind]] if shows[kind] else asked
                found.append(Part(prompt, chosen, rejected, SHOWN.index(kind)))
        longest = max(2 * len(p.prompt) + len(p.chosen) + len(p.rejected) for p in found)
        if longest > self.size:
            raise ConfigError(
                f"phases.pairs.seq_len={self.size} is less than the {longest} tokens of a part; "
                "use a smaller question= or answer="
            )
        return found

    def warm_up(self) -> None:
        """Load what a first step loads, so that it is not counted."""
        tokens = torch.zeros(1, 8, dtype=torch.int64, device=self.device)
        context = Context(positions=torch.arange(8, device=self.device)[None])
        given = {"context": context, "labels": tokens, "losses": {"x": _token_logps}}
        self.model(tokens, **given).losses["x"].sum().backward()
        self.model.zero_grad(set_to_none=True)

    @torch.no_grad()
    def move_policy(self) -> None:
        """Away from the reference, as after some steps."""
        generator = torch.Generator().manual_seed(self.settings["seed"] + 1)
        for weight in self.model.parameters():
            noise = torch.randn(weight.shape, generator=generator).to(weight)
            weight.add_(noise, alpha=_APART * float(weight.abs().mean()))


class Ours:
    """The stage's `compute`, micro-batch after micro-batch, and the reference's pass before it.

    Args:
        case: its model is the reference until `begin` has run.
        folder: for the packed windows.
    """

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.stream = _written(case.parts, folder, case.size)
        windows = self.stream.n_windows
        tokens = windows * case.size
        plan = Plan.read({"pairs": {**case.phase, "tokens": tokens, "global_batch_tokens": tokens}})
        order = Order(plan, {"pairs": self.stream.n_tokens}, case.size, case.settings["seed"])
        self.batches = Batches(order, [self.stream], micro_batch_size=case.rows)
        self.stage = build(
            case.settings["stage"],
            case.model,
            plan=plan,
            schedule=None,
            make_optimizer=None,
            peak_lr=0.0,
            losses={},
            clip_norm=0.0,
            seed=case.settings["seed"],
            transforms=Transforms(),
            regularizers={},
        )
        self.shapes = {
            "windows": windows,
            "window": case.size,
            "micro_batch_size": case.rows,
            "parts": self.stream.n_parts,
            "tokens": tokens,
        }

    def begin(self) -> None:
        """The reference's log-probabilities of all parts."""
        case, device = self.case, self.case.device
        table = torch.zeros(self.stream.n_parts, 2, device=device)
        starts = np.arange(self.stream.n_windows, dtype=np.int64) * case.size
        settings = {"rows": case.rows, "device": device, "rope_theta": None}
        for parts, found, real in scored(case.model, self.stream, starts, **settings):
            table[parts[real]] = torch.stack((found.chosen, found.rejected), -1).float()[real]
        self.stage.reference = Reference({"pairs/train": table}, ["pairs"])
        case.move_policy()

    def step(self) -> float:
        """Leaves the gradients in the model; the loss."""
        total = 0.0
        for batch in self.batches.step(0):
            loss = self.stage.compute(batch.to(self.case.device))["preference"].total
            loss = loss / batch.kept_in_step
            loss.backward()
            total += float(loss.detach())
        return total


class AtOnce:
    """Policy and reference side by side, one forward each and one backward.

    Args:
        case: as for `Ours`.
        folder: not written to.
    """

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        sequences = [(p.prompt, a) for p in case.parts for a in (p.chosen, p.rejected)]
        longest = max(len(prompt) + len(answer) for prompt, answer in sequences)
        self.tokens = torch.zeros(len(sequences), longest, dtype=torch.int64, device=case.device)
        self.labels = torch.full_like(self.tokens, IGNORE_INDEX)
        for row, (prompt, answer) in enumerate(sequences):
            ids = torch.tensor([*prompt, *answer])
            self.tokens[row, : len(ids)] = ids
            predicted = slice(len(prompt) - 1, len(ids) - 1)
            self.labels[row, predicted] = ids[len(prompt) :].to(case.device)
        self.shapes = {
            "sequences": len(sequences),
            "longest": longest,
            "tokens": self.tokens.numel(),
            "tokens_that_are_not_padding": sum(len(p) + len(a) for p, a in sequences),
        }

    def begin(self) -> None:
        """The reference is a copy."""
        self.reference = copy.deepcopy(self.case.model).eval().requires_grad_(False)
        self.case.move_policy()

    def step(self) -> float:
        """Leaves the gradients in the model; the loss."""
        with torch.no_grad():
            reference = self._logps(self.reference)
        total, count = self.case.preference(self._logps(self.case.model), reference)
        loss = total / count
        loss.backward()
        return float(loss.detach())

    def _logps(self, model: nn.Module) -> PairLogps:
        rows, length = self.tokens.shape
        positions = torch.arange(length, device=self.tokens.device).expand(rows, -1)
        given = {"context": Context(positions=positions), "labels": self.labels}
        tokens = model(self.tokens, losses={"x": _token_logps}, **given).losses["x"]
        sums = tokens.view(rows, length).sum(-1).view(-1, 2)
        many = (self.labels != IGNORE_INDEX).sum(-1).view(-1, 2)
        shown = torch.tensor([p.shown for p in self.case.parts], device=sums.device)
        return PairLogps(*sums.unbind(-1), *many.unbind(-1), shown)


FORMS = {"ours": Ours, "at_once": AtOnce}


def _token_logps(hidden: Tensor, head_weight: Tensor, labels: Tensor) -> Any:
    """[B * T], 0 where there is no label: by the kernel that the stage takes, in both forms."""
    flat = hidden.reshape(-1, hidden.shape[-1])
    return pick("auto").linear_logprob(flat, head_weight, labels.reshape(-1)).logps


def _written(parts: list[Part], folder: Path, size: int) -> PairStream:
    """As plm.data.pair_shards writes them."""
    ids, marks, lengths = [], [], []
    for part in parts:
        before = len(ids)
        for of_worse, answer in enumerate((part.chosen, part.rejected)):
            high = of_worse * OF_WORSE + (part.shown << 2)
            ids += [*part.prompt, *answer]
            marks += [high] * len(part.prompt) + [high + TARGET] * len(answer)
        lengths.append(len(ids) - before)
    folder.mkdir(parents=True, exist_ok=True)
    for name, values, dtype in (("data", ids, np.int32), ("mask", marks, np.uint8)):
        with IndexedWriter(folder / name, np.dtype(dtype)) as writer:
            writer.add(np.array(values), lengths)
    write_packing(folder / "data", size)
    return PairStream(IndexedDataset(folder / "data"), size, IndexedDataset(folder / "mask"))
