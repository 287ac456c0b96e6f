"""The loss of a micro-batch against a plain computation in fp64 with the full logits."""

import importlib
import pkgutil
from functools import partial, wraps
from typing import Any

import pytest
import torch
from torch import Tensor

import plm.policy
from plm.aggregation.sequence import sequence
from plm.batch import IGNORE_INDEX
from plm.correction.truncated import truncated
from plm.divergence.k3 import k3
from plm.kernels.linear_rows import default_chunk
from plm.policy.clip import clip
from plm.policy.common import Surrogate, Tokens, is_per_token
from plm.policy.gspo import gspo
from plm.policy.reinforce import reinforce
from plm.rlvr.objective import Objective, Scorer, token_logps

ROWS, LENGTH, WIDTH, VOCABULARY, NUMBER = 2, 9, 7, 11, 4
ADVANTAGES = torch.tensor([1.0, -0.5, 0.0, 2.0], dtype=torch.float64)
WEIGHTS = torch.tensor([0.25, 0.5, 0.125, 0.1], dtype=torch.float64)


class Given:
    """A micro-batch of four rollouts, two a row, with places between that have no label."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(1)
        wide = {"generator": draw, "dtype": torch.float64}
        self.hidden = torch.randn(ROWS, LENGTH, WIDTH, **wide).requires_grad_()
        self.head = torch.randn(VOCABULARY, WIDTH, **wide).requires_grad_()
        self.labels = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=draw)
        self.owner = torch.tensor([[0, 0, -1, 0, 1, 1, 1, -1, -1], [2, 2, 2, -1, 3, 3, 3, 3, -1]])
        self.labels[self.owner < 0] = IGNORE_INDEX
        number = int((self.owner >= 0).sum())
        logps = self.logps(1.0)[0].detach()
        self.known = {
            name: logps + 0.4 * torch.randn(number, **wide)
            for name in ("sampled", "old", "reference")
        }

    def logps(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Of the tokens and their distributions, with gradients."""
        each = (self.hidden @ self.head.T / temperature).log_softmax(-1)
        kept = self.labels != IGNORE_INDEX
        chosen = each.gather(-1, self.labels.clamp(min=0)[..., None])[..., 0]
        return chosen[kept], -(each.exp() * each).sum(-1)[kept]

    def loss(
        self,
        objective: Objective,
        advantages: Tensor = ADVANTAGES,
        own: Tensor | None = None,
        **known: Tensor,
    ) -> Any:
        """What the objective says of it; `own` are advantages of single tokens."""
        known = known if own is None else {**known, "advantages": own}
        return objective.loss(
            self.hidden,
            self.head,
            self.labels,
            known=known,
            owner=self.owner[self.owner >= 0],
            advantages=advantages,
            weights=WEIGHTS,
        )

    def gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """To the hidden states and the head."""
        return torch.autograd.grad(loss, [self.hidden, self.head], retain_graph=True)


@pytest.fixture
def given() -> Given:
    return Given()


def _same(given: Given, found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    pairs = zip(given.gradients(found), given.gradients(expected), strict=True)
    for mine, its in pairs:
        assert its.abs().max() > 1e-3
        torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_all_parts_together_equal_a_plain_computation(given: Given, temperature: float) -> None:
    objective = Objective(
        partial(clip, clip_low=0.2, clip_high=0.3),
        sequence,
        divergence=k3,
        divergence_weight=0.3,
        correction=partial(truncated, high=1.2),
        entropy_weight=0.05,
        temperature=temperature,
    )
    loss, _, _ = given.loss(objective, **given.known)
    logps, entropy = given.logps(temperature)
    old, sampled, reference = (given.known[name] for name in ("old", "sampled", "reference"))
    expected = torch.zeros((), dtype=torch.float64)
    for place, owner in enumerate(given.owner[given.owner >= 0].tolist()):
        ratio, advantage = (logps[place] - old[place]).exp(), ADVANTAGES[owner]
        free, held = ratio * advantage, ratio.clamp(0.8, 1.3) * advantage
        each = -torch.minimum(free, held) * (old[place] - sampled[place]).exp().clamp(max=1.2)
        apart = reference[place] - logps[place]
        each = each + 0.3 * (apart.exp() - apart - 1) - 0.05 * entropy[place]
        expected = expected + WEIGHTS[owner] * each
    assert loss.count == 1 and loss.total.dtype == torch.float64
    _same(given, loss.total, expected)


@pytest.mark.parametrize("policy", [clip, partial(gspo, clip_low=0.9, clip_high=9.0)])
def test_each_token_may_have_an_advantage_of_its_own(given: Given, policy: Any) -> None:
    objective = Objective(policy, sequence)
    rollout = given.owner[given.owner >= 0]
    spread = ADVANTAGES[rollout]
    plain, _, _ = given.loss(objective, **given.known)
    # What is given for rollouts is not looked at.
    same, _, _ = given.loss(objective, torch.full((4,), 7.0), spread, **given.known)
    _same(given, same.total, plain.total)
    own = torch.linspace(-1, 2, len(rollout), dtype=torch.float64)
    found, _, _ = given.loss(Objective(reinforce, sequence), own=own, **given.known)
    _same(given, found.total, -(WEIGHTS[rollout] * own * given.logps(1.0)[0]).sum())


def test_of_a_batch_that_is_used_once_the_gradient_is_reinforces(given: Given) -> None:
    known = {"sampled": given.known["sampled"]}
    clipped = given.loss(Objective(clip, sequence), **known)[0].total
    plain = given.loss(Objective(reinforce, sequence), **known)[0].total
    for mine, its in zip(given.gradients(clipped), given.gradients(plain), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-14)
    # Its value is the weighted sum of the advantages, whatever the policy says.
    worth = (WEIGHTS * ADVANTAGES)[given.owner[given.owner >= 0]].sum()
    torch.testing.assert_close(clipped, -worth)


def test_advantages_of_0_give_no_gradient_at_all(given: Given) -> None:
    found = given.loss(Objective(clip, sequence), torch.zeros(NUMBER), **given.known)[0].total
    assert all(gradient.abs().max() == 0 for gradient in given.gradients(found))


@pytest.mark.parametrize("correction", [None, truncated, partial(truncated, level="sequence")])
@pytest.mark.parametrize("with_old", [True, False])
def test_one_pass_over_the_head_equals_two(given: Given, with_old: bool, correction: Any) -> None:
    def unmarked(tokens: Tokens) -> Surrogate:
        return clip(tokens, clip_high=0.3)

    known = {name: v for name, v in given.known.items() if with_old or name != "old"}
    settings = {"divergence": k3, "divergence_weight": 0.3, "entropy_weight": 0.05}
    settings |= {"correction": correction, "temperature": 0.7}
    one, two = (
        given.loss(Objective(policy, sequence, **settings), **known)
        for policy in (partial(clip, clip_high=0.3), unmarked)
    )
    _same(given, one[0].total, two[0].total)
    for mine, its in zip(one[1:], two[1:], strict=True):
        assert set(mine) == set(its)
        for name, value in mine.items():
            torch.testing.assert_close(value, its[name], rtol=1e-12, atol=1e-14)


def _many(dtype: torch.dtype = torch.float64, number: int = 1000) -> dict[str, Any]:
    """More tokens than one chunk of rows has, 9 of each rollout, one in 10 without a label."""
    draw = torch.Generator().manual_seed(3)
    owner = torch.arange(number).repeat_interleave(10)
    labels = torch.randint(0, VOCABULARY, owner.shape, generator=draw)
    labels[::10] = IGNORE_INDEX
    owner = owner[labels != IGNORE_INDEX]
    sampled, old, reference = torch.randn(3, len(owner), generator=draw, dtype=torch.float64) - 3
    return {
        "hidden": torch.randn(1, len(labels), WIDTH, generator=draw).to(dtype).requires_grad_(),
        "head_weight": torch.randn(VOCABULARY, WIDTH, generator=draw).to(dtype).requires_grad_(),
        "labels": labels[None],
        "known": {"sampled": sampled, "old": old, "reference": reference},
        "owner": owner,
        "advantages": torch.randn(number, generator=draw, dtype=torch.float64),
        "weights": torch.rand(number, generator=draw, dtype=torch.float64) / number,
    }


@pytest.mark.parametrize("correction", [None, partial(truncated, level="sequence")])
def test_one_pass_in_several_chunks(correction: Any) -> None:
    settings = {"divergence": k3, "divergence_weight": 0.3, "entropy_weight": 0.05}
    settings |= {"correction": correction}
    given = _many()
    rows = given["labels"].numel() * 9 // 10
    assert rows > default_chunk(VOCABULARY, WIDTH, "cpu", 16)
    totals = [
        Objective(policy, sequence, **settings).loss(**given)[0].total
        for policy in (clip, lambda tokens: clip(tokens))
    ]
    torch.testing.assert_close(*totals, rtol=1e-12, atol=0)
    leaves = given["hidden"], given["head_weight"]
    one, two = (torch.autograd.grad(total, leaves) for total in totals)
    for mine, its in zip(one, two, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-13)


def test_a_divergence_over_all_tokens_is_not_cut() -> None:
    def spread(logps: Tensor, ref_logps: Tensor, old_logps: Tensor) -> Tensor:
        return (logps - ref_logps) * (logps - ref_logps).mean()

    given = _many()
    leaves = given["hidden"], given["head_weight"]
    settings = {"divergence": spread, "divergence_weight": 0.3}
    one, two = (
        torch.autograd.grad(Objective(p, sequence, **settings).loss(**given)[0].total, leaves)
        for p in (clip, lambda tokens: clip(tokens))
    )
    assert all(torch.equal(mine, its) for mine, its in zip(one, two, strict=True))


def test_small_weights_do_not_vanish_in_fp16() -> None:
    made = []
    for dtype in (torch.float16, torch.float64):
        given = _many(dtype, 20)
        given["weights"] = given["weights"] * 2e-5
        loss = Objective(clip, sequence).loss(**given)[0].total
        # What a scaler does: its factor comes with the backward.
        (loss * 65536).backward()
        made.append([given[name].grad.double() for name in ("hidden", "head_weight")])
    for narrow, wide in zip(*made, strict=True):
        assert (narrow - wide).norm() < 5e-3 * wide.norm()


def test_the_mark_is_not_handed_on_to_what_is_around() -> None:
    around = wraps(clip)(lambda tokens: clip(tokens))
    assert is_per_token(clip) and is_per_token(partial(clip, clip_high=0.3))
    assert not is_per_token(around) and not is_per_token(partial(around))


def test_only_losses_of_single_tokens_are_marked() -> None:
    """What a marked loss says of a part of the tokens is what it says of all."""
    marked = {name for name, loss in _policies().items() if is_per_token(loss)}
    assert marked == {"clip", "cispo", "none", "ppo", "reinforce", "sapo"}
    draw = torch.Generator().manual_seed(2)
    logps, old, worth = torch.randn(3, 12, generator=draw, dtype=torch.float64)
    owner = torch.arange(12) // 4
    tokens = Tokens(logps, logps.exp(), old, worth, owner, 3)
    for name, loss in _policies().items():
        whole = loss(tokens).loss
        part = Tokens(*(field[2:7] for field in tokens[:5]), 3)
        assert torch.equal(loss(part).loss, whole[2:7]) == (name in marked)


def _policies() -> dict[str, Any]:
    names = [m.name for m in pkgutil.iter_modules(plm.policy.__path__) if m.name != "common"]
    return {n: getattr(importlib.import_module(f"plm.policy.{n}"), n) for n in names}


def test_figures_are_those_of_the_tokens(given: Given) -> None:
    objective = Objective(clip, sequence, correction=truncated)
    _, said, most = given.loss(objective, **given.known)
    logps, entropy = (part.detach() for part in given.logps(1.0))
    old, sampled, reference = (given.known[name] for name in ("old", "sampled", "reference"))
    ratio, gap = (logps - old).exp(), reference - logps
    worth = ADVANTAGES[given.owner[given.owner >= 0]]
    expected = {
        "entropy": entropy,
        "clip_low": ((ratio < 0.8) & (worth < 0)).double(),
        "clip_high": ((ratio > 1.2) & (worth > 0)).double(),
        "mismatch": (old - sampled).abs(),
        "mismatch_kl": sampled - old,
        "kl": gap.exp() - 1 - gap,
        "correction": (old - sampled).exp().clamp(max=2),
    }
    assert set(said) == {f"rlvr/{name}" for name in expected}
    for name, values in expected.items():
        total, count = said[f"rlvr/{name}"]
        torch.testing.assert_close(total, values.sum())
        assert count == len(values)
    assert expected["clip_low"].sum() > 0 and expected["clip_high"].sum() > 0
    torch.testing.assert_close(most["ratio_max"], ratio.max())
    torch.testing.assert_close(most["inverse_ratio_max"], 1 / ratio.min())
    torch.testing.assert_close(most["mismatch_max"], (old - sampled).abs().max())


def test_without_a_label_there_is_no_loss_and_no_gradient(given: Given) -> None:
    nothing = torch.zeros(0, dtype=torch.float64)
    loss, said, most = Objective(clip, sequence).loss(
        given.hidden,
        given.head,
        torch.full_like(given.labels, IGNORE_INDEX),
        known={"sampled": nothing, "old": nothing},
        owner=torch.zeros(0, dtype=torch.int64),
        advantages=ADVANTAGES,
        weights=WEIGHTS,
    )
    assert loss.total == 0 and said["rlvr/entropy"].count == 0
    assert most["ratio_max"] == -torch.inf
    assert all(g is None or g.abs().max() == 0 for g in torch.autograd.grad(
        loss.total, [given.hidden, given.head], allow_unused=True))  # fmt: skip


def test_the_scorer_gives_the_log_probabilities_alone(given: Given) -> None:
    found = Scorer(0.7)(given.hidden, given.head, given.labels)
    torch.testing.assert_close(found, given.logps(0.7)[0])
    again, entropy = token_logps(
        given.hidden, given.head, given.labels, temperature=0.7, kernels="reference"
    )
    torch.testing.assert_close(again, found)
    torch.testing.assert_close(entropy, given.logps(0.7)[1])
