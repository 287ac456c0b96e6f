"""The policy losses of TRL 1.16.0 on the same logits: values and gradients in fp64.

TRL has no public function for them: a trainer is made without its constructor, given what its
private method reads, and log-probabilities that are calculated here. Advantages and the sampler's
correction stand in the middle of a long method there, and are written out below as it has them.
"""

from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from plm.advantage.batch import batch
from plm.advantage.centred import centred
from plm.advantage.decoupled import decoupled
from plm.advantage.group import group
from plm.aggregation.constant import constant
from plm.aggregation.sequence import sequence
from plm.aggregation.sequence_sum import sequence_sum
from plm.aggregation.token import token
from plm.correction.masked import masked
from plm.correction.truncated import truncated
from plm.divergence.corrected import corrected
from plm.divergence.k3 import k3
from plm.policy.cispo import cispo
from plm.policy.clip import clip
from plm.policy.common import Tokens
from plm.policy.gspo import gspo
from plm.policy.ppo import ppo
from plm.policy.reinforce import reinforce
from plm.policy.sapo import sapo
from tests.policy.common import again, scored

pytestmark = pytest.mark.peers

LENGTHS, LONGEST, VOCABULARY = [5, 1, 8, 3, 8, 6], 8, 11
ACCELERATOR = SimpleNamespace(
    device="cpu",
    gather=lambda value: value,
    gather_for_metrics=lambda value: value,
    reduce=lambda value, reduction: value,
    num_processes=1,
    sync_gradients=True,
)
BETA, ENTROPY = 0.04, 0.01
# Exact in fp32 too: theirs makes a tensor of its temperatures, in the default dtype.
POSITIVE, NEGATIVE = 0.75, 1.25


@pytest.fixture
def trl():
    return pytest.importorskip("trl", reason="make test-peers installs it")


@pytest.fixture
def wide(trl):
    """Their deviation corrects by a ratio of counts, in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class Drawn:
    """Six rollouts as they pad them, with four kinds of log-probabilities, and as we pack them."""

    def __init__(self) -> None:
        shape = (len(LENGTHS), LONGEST)
        self.mask = torch.arange(LONGEST) < torch.tensor(LENGTHS)[:, None]
        self.logits = torch.randn(*shape, VOCABULARY, dtype=torch.float64, requires_grad=True)
        self.labels = torch.randint(VOCABULARY, shape)
        self.advantages = torch.randn(len(LENGTHS), dtype=torch.float64)
        rollout = torch.arange(len(LENGTHS))[:, None].expand(shape)[self.mask]
        self.tokens = again(
            self.logits[self.mask],
            self.labels[self.mask],
            self.advantages[rollout],
            rollout,
            len(LENGTHS),
        )
        spread = self.logits.log_softmax(2)
        self.logps = spread.gather(2, self.labels[:, :, None])[:, :, 0]
        self.entropy = -(spread.exp() * spread).sum(2)
        self.old, self.ref, self.sampler = (
            self.logps.detach() + 0.4 * torch.randn(shape, dtype=torch.float64) for _ in range(3)
        )

    def packed(self, on_policy: bool = False) -> Tokens:
        if on_policy:
            return self.tokens
        return self.tokens._replace(old_logps=self.old[self.mask])


def trainer(loss_type: str, level: str, settings: dict):
    from trl import GRPOTrainer

    made = GRPOTrainer.__new__(GRPOTrainer)
    values = {
        "accelerator": ACCELERATOR,
        "loss_type": loss_type,
        "importance_sampling_level": level,
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.28,
        "max_completion_length": LONGEST,
        "current_gradient_accumulation_steps": 1,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "use_vllm": False,
        "vllm_importance_sampling_correction": True,
        "_entropy_bonus_enabled": "entropy_coef" in settings,
        "entropy_coef": 0.0,
        "use_adaptive_entropy": False,
        "aux_loss_enabled": False,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "model": torch.nn.Identity().train(),
    }
    args = {
        "delta": None,
        "use_bias_correction_kl": False,
        "steps_per_generation": 1,
        "sapo_temperature_pos": POSITIVE,
        "sapo_temperature_neg": NEGATIVE,
    }
    for name, value in settings.items():
        (args if name in args else values)[name] = value
    for name, value in values.items():
        setattr(made, name, value)
    made.args = SimpleNamespace(**args)
    return made


def theirs(drawn: Drawn, loss_type: str, level: str = "token", ratio=None, old=True, **settings):
    """Their loss, and what they log."""
    made = trainer(loss_type, level, settings)
    made._get_per_token_logps_and_entropies = lambda *_, **__: (drawn.logps, drawn.entropy, None)
    inputs = {
        "prompt_ids": torch.ones(len(LENGTHS), 2, dtype=torch.int64),
        "prompt_mask": torch.ones(len(LENGTHS), 2, dtype=torch.int64),
        "completion_ids": drawn.labels,
        "completion_mask": drawn.mask.long(),
        "advantages": drawn.advantages,
        "num_items_in_batch": drawn.mask.sum(),
        "ref_per_token_logps": drawn.ref,
    }
    if old:
        inputs["old_per_token_logps"] = drawn.old
    if ratio is not None:
        made.use_vllm = True
        inputs["importance_sampling_ratio"] = ratio
    return made._compute_loss(None, inputs), made._metrics["train"]


def ours(drawn: Drawn, loss, aggregation, *, kl=None, entropy=0.0, weights=None, on_policy=False):
    """A step as the stage adds it up, and what the loss says of its tokens."""
    tokens = drawn.packed(on_policy)
    found = loss(tokens)
    value = found.loss if weights is None else found.loss * weights
    if kl is not None:
        value = value + BETA * kl(tokens.logps, drawn.ref[drawn.mask], tokens.old_logps)
    share = aggregation(torch.tensor(LENGTHS), longest=LONGEST)[tokens.rollout]
    return (share * value).sum() - entropy * tokens.entropy.mean(), found


def compare(drawn: Drawn, mine: Tensor, its: Tensor) -> None:
    assert abs(mine.item() - its.item()) < 1e-12
    grads = [torch.autograd.grad(each, drawn.logits, retain_graph=True)[0] for each in (mine, its)]
    assert grads[0].any() and (grads[0] - grads[1]).abs().max() < 1e-12


CLIP = partial(clip, clip_low=0.2, clip_high=0.28)
LOSSES = {
    "grpo": (CLIP, sequence),
    "bnpo": (CLIP, token),
    "dr_grpo": (CLIP, constant),
    "dapo": (CLIP, token),
    # Theirs has no lower bound, and 1.28 or so would be a bound itself.
    "cispo": (partial(cispo, clip_low=1.0, clip_high=0.28), token),
    "sapo": (partial(sapo, positive=POSITIVE, negative=NEGATIVE), sequence),
}
ALL = pytest.mark.parametrize("loss_type", LOSSES)


def bound(loss_type: str) -> dict[str, float]:
    return {"epsilon_high": 1.28} if loss_type == "cispo" else {}


@ALL
@pytest.mark.parametrize("on_policy", [False, True])
def test_losses(trl, loss_type: str, on_policy: bool):
    drawn = Drawn()
    loss, aggregation = LOSSES[loss_type]
    its, _ = theirs(drawn, loss_type, old=not on_policy, **bound(loss_type))
    compare(drawn, ours(drawn, loss, aggregation, on_policy=on_policy)[0], its)


@ALL
@pytest.mark.parametrize(("kl", "unbiased"), [(k3, False), (corrected, True)])
def test_with_a_divergence(trl, loss_type: str, kl, unbiased: bool):
    drawn = Drawn()
    loss, aggregation = LOSSES[loss_type]
    its, logged = theirs(
        drawn, loss_type, beta=BETA, use_bias_correction_kl=unbiased, **bound(loss_type)
    )
    compare(drawn, ours(drawn, loss, aggregation, kl=kl)[0], its)
    tokens = drawn.packed()
    value = kl(tokens.logps, drawn.ref[drawn.mask], tokens.old_logps).mean()
    assert logged["kl"] == [pytest.approx(value.item(), abs=1e-7)]


@ALL
def test_with_an_entropy_term(trl, loss_type: str):
    drawn = Drawn()
    loss, aggregation = LOSSES[loss_type]
    its, logged = theirs(drawn, loss_type, entropy_coef=ENTROPY, **bound(loss_type))
    compare(drawn, ours(drawn, loss, aggregation, entropy=ENTROPY)[0], its)
    assert logged["entropy"] == [pytest.approx(drawn.tokens.entropy.mean().item(), abs=1e-7)]


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize(
    "loss",
    [partial(CLIP, cap=1.5), partial(ppo, clip_low=0.2, clip_high=0.28, dual_clip=1.5)],
    ids=["cap", "dual clip"],
)
def test_with_a_cap(trl, loss_type: str, loss):
    drawn = Drawn()
    its, _ = theirs(drawn, loss_type, delta=1.5)
    compare(drawn, ours(drawn, loss, LOSSES[loss_type][1])[0], its)
    plain, _ = theirs(drawn, loss_type)
    assert abs(plain - its) > 1e-6


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
@pytest.mark.parametrize("bounds", [(3e-4, 4e-4), (0.1, 0.2)])
def test_gspo(trl, loss_type: str, bounds):
    drawn = Drawn()
    low, high = bounds
    its, _ = theirs(drawn, loss_type, "sequence", epsilon_low=low, epsilon_high=high)
    loss = partial(gspo, clip_low=low, clip_high=high)
    compare(drawn, ours(drawn, loss, LOSSES[loss_type][1])[0], its)


def test_sums_over_rollouts(trl):
    """What they call luspo, with the ratio of tokens."""
    drawn = Drawn()
    its, _ = theirs(drawn, "luspo")
    compare(drawn, ours(drawn, CLIP, sequence_sum)[0], its)


def test_what_is_held(trl):
    drawn = Drawn()
    _, logged = theirs(drawn, "dapo")
    _, found = ours(drawn, CLIP, token)
    for name, held in (("low", found.below), ("high", found.above)):
        assert held.any()
        share = held.double().mean().item()
        assert logged[f"clip_ratio/{name}_mean"] == [pytest.approx(share, abs=1e-6)]


def their_ratio(drawn: Drawn, mode: str, low: float | None, high: float | None) -> Tensor:
    """[B, T] or [B, 1]: what theirs calls importance_sampling_ratio."""
    level, way = mode.split("_")
    gap = ((drawn.old - drawn.sampler) * drawn.mask).nan_to_num(nan=0.0)
    ratio = (gap.sum(1, keepdim=True) if level == "sequence" else gap).exp()
    if way == "truncate":
        return ratio.clamp(low, high)
    outside = (ratio < (low or -1)) | (ratio > (high or torch.inf))
    return ratio.masked_fill(outside, 0.0)


@ALL
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize(("way", "correction"), [("truncate", truncated), ("mask", masked)])
def test_with_a_correction(trl, loss_type: str, level: str, way: str, correction):
    """It weighs the loss and not the divergence."""
    drawn = Drawn()
    loss, aggregation = LOSSES[loss_type]
    ratio = their_ratio(drawn, f"{level}_{way}", 0.5, 1.5)
    its, _ = theirs(drawn, loss_type, ratio=ratio, beta=BETA, **bound(loss_type))
    tokens = drawn.packed()
    weights = correction(
        tokens.old_logps,
        drawn.sampler[drawn.mask],
        tokens.rollout,
        tokens.number,
        low=0.5,
        high=1.5,
        level=level,
    )
    compare(drawn, ours(drawn, loss, aggregation, weights=weights, kl=k3)[0], its)
    plain, _ = theirs(drawn, loss_type, beta=BETA, **bound(loss_type))
    assert abs(plain - its) > 1e-6


def their_advantages(rewards: Tensor, weights: Tensor, size: int, way: str) -> Tensor:
    """[R]: `way` is their scale_rewards, or their other multi_objective_aggregation."""
    from trl.trainer.utils import nanstd

    if way == "normalise_then_sum":
        grouped = rewards.view(-1, size, rewards.shape[1])
        deviation = nanstd(grouped, dim=1, keepdim=True)
        apart = (grouped - grouped.nanmean(dim=1, keepdim=True)) / (deviation + 1e-4)
        added = (apart.view(-1, rewards.shape[1]) * weights).nansum(1)
        return (added - added.nanmean()) / (nanstd(added) + 1e-4)
    added = (rewards * weights).nansum(1)
    apart = added - added.view(-1, size).mean(1).repeat_interleave(size)
    if way == "none":
        return apart
    if way == "batch":
        return apart / (nanstd(added) + 1e-4)
    deviation = nanstd(added.view(-1, size), dim=1).repeat_interleave(size)
    return apart / (deviation + 1e-4)


@pytest.mark.parametrize(
    ("way", "advantage"),
    [("group", group), ("none", centred), ("normalise_then_sum", decoupled)],
)
def test_advantages(wide, way: str, advantage):
    rewards = torch.rand(12, 3, dtype=torch.float64)
    # A kind that does not judge the last group's source, and a group without variance.
    rewards[8:, 2] = torch.nan
    rewards[4:8] = rewards[4]
    given = scored(rewards.tolist(), 4, [1.0, 0.5, 2.0])
    expected = their_advantages(given.kinds, given.weights, 4, way)
    assert (advantage(given) - expected).abs().max() < 1e-12


def test_advantages_over_a_batch(wide):
    """Theirs divides by the deviation of the rewards, ours by that of what is left of them."""
    rewards = torch.rand(12, 1, dtype=torch.float64)
    # Groups of equal mean, of which both are the same.
    rewards = (rewards.view(3, 4) - rewards.view(3, 4).mean(1, keepdim=True)).view(12, 1)
    given = scored(rewards.tolist(), 4, [1.0])
    expected = their_advantages(given.kinds, given.weights, 4, "batch")
    assert (batch(given, eps=1e-4) - expected).abs().max() < 1e-12


def test_rloo(trl):
    """Theirs clips the ratio of whole answers; of answers that are used once it is 1."""
    from trl import RLOOTrainer

    drawn, made = Drawn(), RLOOTrainer.__new__(RLOOTrainer)
    values = {
        "accelerator": ACCELERATOR,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "aux_loss_enabled": False,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "model": torch.nn.Identity().train(),
    }
    for name, value in values.items():
        setattr(made, name, value)
    made._get_per_token_logps_and_entropies = lambda *_, **__: (drawn.logps, drawn.entropy, None)
    inputs = {
        "prompt_ids": torch.ones(len(LENGTHS), 2, dtype=torch.int64),
        "prompt_mask": torch.ones(len(LENGTHS), 2, dtype=torch.int64),
        "completion_ids": drawn.labels,
        "completion_mask": drawn.mask.long(),
        "advantages": drawn.advantages,
        "old_logps": (drawn.logps.detach() * drawn.mask).sum(1),
    }
    its = made._compute_loss(None, inputs)
    mine, _ = ours(drawn, reinforce, sequence_sum, on_policy=True)
    grads = [torch.autograd.grad(each, drawn.logits, retain_graph=True)[0] for each in (mine, its)]
    assert grads[0].any() and (grads[0] - grads[1]).abs().max() < 1e-12
