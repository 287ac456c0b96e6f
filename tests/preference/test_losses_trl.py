"""The losses of TRL 1.16.0 on the same log-probabilities: values and gradients in fp64.

TRL has no public function for a loss: a trainer is made without its constructor, given what its
private method reads, and a model that returns our log-probabilities.
"""

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from plm.batch import LossSum
from plm.preference.aries import aries
from plm.preference.common import PairLogps
from plm.preference.dpo import dpo
from plm.preference.hinge import hinge
from plm.preference.ipo import ipo
from plm.preference.kto import kto
from plm.preference.orpo import orpo
from plm.preference.robust import robust
from plm.preference.simpo import simpo
from tests.preference.common import drawn, gradients

pytestmark = pytest.mark.peers

PARTS, PROMPT, BETA = 12, 3, 0.3
ACCELERATOR = SimpleNamespace(
    device="cpu",
    gather=lambda value: value,
    gather_for_metrics=lambda value: value,
    num_processes=1,
)


@pytest.fixture
def trl():
    return pytest.importorskip("trl", reason="make test-peers installs it")


@pytest.fixture
def parts():
    return drawn(["nothing"] * PARTS)


def bare(kind: type, **settings: object):
    """A trainer that was not constructed, with the attributes its loss reads."""
    made = kind.__new__(kind)
    for name, value in {"accelerator": ACCELERATOR, **settings}.items():
        setattr(made, name, value)
    made._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    return made


def spread(logps: Tensor, tokens: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Token log-probabilities [N, width - 1] with these sums, and the answers' mask [N, width]."""
    place = torch.arange(width)
    mask = ((place >= PROMPT) & (place < PROMPT + tokens[:, None])).long()
    shares = torch.rand(len(tokens), width, dtype=logps.dtype) * mask
    shares = shares / shares.sum(1, keepdim=True)
    return (logps[:, None] * shares)[:, 1:], mask


class Model:
    """Stands in for TRL's patched model: what it returns was calculated before."""

    training = True

    def __init__(self, logps: Tensor) -> None:
        zeros = torch.zeros_like(logps)
        self.found = SimpleNamespace(
            log_probs=logps, entropy=zeros, mean_logits=zeros, is_top1=zeros > 1, aux_loss=None
        )

    def __call__(self, **_: object) -> SimpleNamespace:
        return self.found


def both(policy: PairLogps) -> tuple[Tensor, dict[str, Tensor]]:
    """Token log-probabilities and inputs as TRL batches them: better answers, then worse ones."""
    tokens = torch.cat([policy.chosen_tokens, policy.rejected_tokens])
    width = PROMPT + int(tokens.max())
    logps, mask = spread(torch.cat([policy.chosen, policy.rejected]), tokens, width)
    inputs = {"input_ids": torch.ones_like(mask), "attention_mask": torch.ones_like(mask)}
    return logps, {**inputs, "completion_mask": mask}


def dpo_trainer(policy: PairLogps, reference: PairLogps, loss_type: str, **settings) -> Tensor:
    from trl import DPOTrainer

    logps, inputs = both(policy)
    inputs |= {"ref_chosen_logps": reference.chosen, "ref_rejected_logps": reference.rejected}
    model = Model(logps)
    base = {"label_smoothing": 0.0, "beta": BETA, **settings}
    made = bare(
        DPOTrainer,
        model=model,
        loss_types=[loss_type],
        loss_weights=[1.0],
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        use_weighting=False,
        precompute_ref_logps=True,
        ref_model=None,
        aux_loss_enabled=False,
        _tp_size=1,
        args=SimpleNamespace(discopop_tau=0.05),
        _total_train_tokens=0,
        **base,
    )
    return made._compute_loss(model, inputs, False)


def compare(found: LossSum, theirs: Tensor, policy: PairLogps) -> None:
    """Ours as the stage divides it, against theirs, which is a mean."""
    mine = found.total / found.count
    assert abs(mine.item() - theirs.item()) < 1e-12
    pairs = zip(gradients(mine, policy), gradients(theirs, policy), strict=True)
    for ours, its in pairs:
        assert ours.any() and (ours - its).abs().max() < 1e-12


DPO: list[tuple[str, Callable[..., LossSum], dict, dict]] = [
    ("sigmoid", dpo, {}, {}),
    ("sigmoid_norm", dpo, {"length_normalised": True}, {}),
    ("ipo", ipo, {"length_normalised": True}, {}),
    ("hinge", hinge, {}, {}),
    ("robust", robust, {"label_smoothing": 0.1}, {"label_smoothing": 0.1}),
    ("robust", robust, {"label_smoothing": 0.4}, {"label_smoothing": 0.4}),
]


@pytest.mark.parametrize(("loss_type", "loss", "ours", "theirs"), DPO)
def test_dpo_trainer(trl, parts, loss_type, loss, ours: dict, theirs: dict):
    policy, reference = parts
    expected = dpo_trainer(policy, reference, loss_type, **theirs)
    compare(loss(policy, reference, beta=BETA, **ours), expected, policy)


def test_refinements_of_aries(trl):
    """Answers of one length: TRL's IPO of β·length is the square over (β·length)²."""
    policy, reference = drawn(["worse", "better"] * 6)
    tokens = torch.full((PARTS,), 7)
    policy, reference = (
        logps._replace(chosen_tokens=tokens, rejected_tokens=tokens)
        for logps in (policy, reference)
    )
    scale = BETA * 7
    theirs = 2 * scale**2 * dpo_trainer(policy, reference, "ipo", beta=scale)
    compare(aries(policy, reference, alpha=1, beta=BETA), theirs, policy)


def cpo_loss(policy: PairLogps, loss_type: str, per_token: bool, **settings) -> Tensor:
    """TRL's class without a reference; with one, log-ratios stand for its log-probabilities."""
    from trl.experimental.cpo import CPOTrainer

    base = {"alpha": 0.0, "simpo_gamma": 0.0, "label_smoothing": 0.0, "beta": BETA}
    made = bare(CPOTrainer, loss_type=loss_type, **{**base, **settings})
    chosen, rejected = policy.chosen, policy.rejected
    if per_token:
        chosen, rejected = chosen / policy.chosen_tokens, rejected / policy.rejected_tokens
    return made.cpo_loss(chosen, rejected)[0].mean()


def test_simpo(trl, parts):
    policy, _ = parts
    theirs = cpo_loss(policy, "simpo", per_token=True, beta=2.5, simpo_gamma=1.4)
    compare(simpo(policy, beta=2.5, gamma=1.4), theirs, policy)


def against(policy: PairLogps, reference: PairLogps) -> PairLogps:
    return policy._replace(
        chosen=policy.chosen - reference.chosen, rejected=policy.rejected - reference.rejected
    )


def test_smoothed_labels(trl, parts):
    policy, reference = parts
    ratios = against(policy, reference)
    theirs = cpo_loss(ratios, "sigmoid", per_token=False, label_smoothing=0.2)
    compare(dpo(policy, reference, beta=BETA, label_smoothing=0.2), theirs, policy)


def test_ipo_of_whole_answers(trl, parts):
    policy, reference = parts
    theirs = cpo_loss(against(policy, reference), "ipo", per_token=False)
    compare(ipo(policy, reference, beta=BETA), theirs, policy)


def test_orpo(trl, parts, monkeypatch):
    from trl.experimental.orpo import ORPOTrainer

    # Theirs goes down to fp32 first, where 1e-12 could not be seen.
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    policy, _ = parts
    chosen, rejected = (
        policy.chosen / policy.chosen_tokens,
        policy.rejected / policy.rejected_tokens,
    )
    made = bare(ORPOTrainer, beta=0.25)
    theirs = -chosen.mean() - made.odds_ratio_loss(chosen, rejected)[0].mean()
    compare(orpo(policy, odds_weight=0.25), theirs, policy)


@pytest.mark.parametrize("towards", [-1.0, 1.0])
def test_kto(trl, parts, towards: float):
    """With the micro-batch's own answers for those to other prompts."""
    from trl import KTOTrainer

    policy, reference = parts
    ratios = against(policy, reference)
    middle = (ratios.chosen + ratios.rejected).detach().mean() / 2
    # A mean log-ratio of 1 or -1 a pair: the point is above 0 or held at it.
    reference = reference._replace(chosen=reference.chosen + 2 * middle - towards)
    logps, inputs = both(policy)
    held = torch.cat([reference.chosen, reference.rejected])
    inputs |= {
        "label": torch.tensor([True] * PARTS + [False] * PARTS),
        "ref_logps": held,
        "ref_KL_logps": held,
    }
    made = bare(
        KTOTrainer,
        model=(model := Model(logps)),
        beta=BETA,
        loss_type="kto",
        desirable_weight=1.5,
        undesirable_weight=0.5,
        precompute_ref_logps=True,
        calculate_KL=True,
        aux_loss_enabled=False,
        _tp_size=1,
        _total_train_tokens=0,
        _compute_kl_logps=lambda *_: logps.sum(1).detach(),
    )
    theirs = made._compute_loss(model, inputs, False)
    assert (made._metrics["train"]["kl"][0] > 0) == (towards > 0)
    found = kto(policy, reference, beta=BETA, desirable_weight=1.5, undesirable_weight=0.5)
    compare(found, theirs, policy)
