import pytest
import torch

from plm.errors import ConfigError
from plm.preference.aries import aries, shows
from plm.preference.common import SHOWN, margins
from plm.preference.dpo import dpo
from plm.preference.ipo import ipo
from tests.preference.common import at, drawn, exchanged, gradients, part

ANCHOR = 0.5386294361119891


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.7, 3.0])
def test_where_policy_and_reference_agree(beta: float):
    policy, reference = at([0.0] * 6, SHOWN * 2)
    total, count = aries(policy, reference, alpha=0.8, beta=beta)
    assert (total / count).item() == pytest.approx(ANCHOR, abs=1e-15) and count == 6


@pytest.mark.parametrize("alpha", [0.3, 0.8])
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_gradients_where_policy_and_reference_agree(alpha: float, beta: float):
    policy, reference = at([0.0] * 3, SHOWN)
    total, count = aries(policy, reference, alpha=alpha, beta=beta)
    chosen, rejected = gradients(total / count, policy)
    direct, refined = (1 - alpha) * beta / 2, alpha * beta
    assert chosen.tolist() == pytest.approx([-direct, -refined, -refined], abs=1e-15)
    assert torch.equal(rejected, -chosen)


def test_by_hand():
    policy, reference = at([2.0, 1.0, -1.0], SHOWN)
    total, count = aries(policy, reference, alpha=0.25, beta=0.5, refine_beta=0.1)
    direct = torch.tensor(1.0, dtype=torch.float64).exp().reciprocal().log1p().item()
    assert (total / count).item() == pytest.approx(
        0.75 * direct + 0.25 * (0.4**2 + 0.6**2), abs=1e-15
    )


@pytest.mark.parametrize("kind", ["worse", "better"])
def test_a_refinement_is_pulled_back_beyond_its_distance_and_the_direct_answer_is_not(kind):
    rest = 1 / (2 * 0.1)
    distances = [rest - 1, rest, rest + 1]
    policy, reference = at(distances, [kind] * 3)
    chosen, _ = gradients(aries(policy, reference).total, policy)
    assert chosen[0] < 0 < chosen[2] and chosen[1] == 0
    policy, reference = at(distances, ["nothing"] * 3)
    assert (gradients(aries(policy, reference).total, policy)[0] < 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_refinement_it_is_dpo_bit_for_bit(dtype):
    kinds = [kind for kind in SHOWN if kind in shows(alpha=0)] * 100
    policy, reference = drawn(kinds, dtype)
    mine, its = aries(policy, reference, alpha=0, beta=0.3), dpo(policy, reference, beta=0.3)
    assert torch.equal(mine.total, its.total) and mine.total.dtype == dtype
    assert torch.equal(mine.count, its.count)
    pairs = zip(gradients(mine.total, policy), gradients(its.total, policy), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_refinement_alone_does_not_move_with_the_direct_answers():
    policy, reference = drawn(SHOWN * 4)
    total = aries(policy, reference, alpha=1).total
    for gradient in gradients(total, policy):
        assert not gradient[policy.shown == 0].any() and gradient[policy.shown > 0].all()
    moved = policy._replace(chosen=torch.where(policy.shown == 0, policy.chosen - 5, policy.chosen))
    assert torch.equal(aries(moved, reference, alpha=1).total, total)


@pytest.mark.parametrize("kind", SHOWN)
def test_exchanging_the_answers_turns_the_pull(kind: str):
    policy, reference = at([1.0], [kind])
    assert (margins(policy, reference) == -margins(exchanged(policy), exchanged(reference))).all()
    near, _ = gradients(aries(policy, reference).total, policy)
    other = exchanged(policy)
    _, far = gradients(aries(other, exchanged(reference)).total, other)
    assert near < 0 < far and near.abs() < far


def test_total_by_count_is_the_papers_where_kinds_are_as_many():
    policy, reference = drawn(SHOWN * 5)
    distance = margins(policy, reference).view(5, 3)
    for alpha, kinds in ((0.0, [0]), (0.4, [0, 1, 2]), (1.0, [1, 2])):
        kept = torch.tensor([shown in kinds for shown in policy.shown.tolist()])
        total, count = aries(part(policy, kept), part(reference, kept), alpha=alpha, beta=0.2)
        direct = -torch.nn.functional.logsigmoid(0.2 * distance[:, 0]).mean()
        refined = (0.5 - 0.2 * distance[:, 1:]).square().sum(1).mean()
        expected = (1 - alpha) * direct + alpha * refined
        assert (total / count).item() == pytest.approx(expected.item(), rel=1e-14)
        assert count == kept.sum()


def test_the_square_is_ipos():
    policy, reference = drawn(["worse", "better"] * 4)
    mine = aries(policy, reference, alpha=1, beta=0.3)
    its = ipo(policy, reference, beta=0.3)
    # Twice: one kind of part for each shown answer, as many of each, and the mean over both.
    assert mine.total.item() == pytest.approx(2 * 0.3**2 * its.total.item(), rel=1e-14)


def test_the_square_is_ipos_a_token_where_answers_are_as_long():
    policy, reference = drawn(["worse", "better"] * 4)
    tokens = torch.full((8,), 7)
    policy, reference = (
        logps._replace(chosen_tokens=tokens, rejected_tokens=tokens)
        for logps in (policy, reference)
    )
    mine = aries(policy, reference, alpha=1, beta=0.3)
    its = ipo(policy, reference, beta=0.3 * 7, length_normalised=True)
    assert mine.total.item() == pytest.approx(2 * (0.3 * 7) ** 2 * its.total.item(), rel=1e-13)


def test_which_kinds_it_wants():
    assert shows(alpha=0) == ("nothing",)
    assert shows(alpha=1, beta=0.3) == ("worse", "better")
    assert shows(alpha=0.8) == shows() == SHOWN


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"alpha": 1.1},
            r"preference\.alpha=1\.1 must be from 0, which is DPO on the question, to",
        ),
        ({"alpha": None}, r"preference\.alpha=None must be from 0"),
        ({"beta": 0}, r"preference\.beta=0 must be a number above 0"),
        ({"refine_beta": -1}, r"preference\.refine_beta=-1 must be a number above 0"),
    ],
)
def test_errors(settings: dict, line: str):
    with pytest.raises(ConfigError, match=line):
        aries(*drawn(SHOWN), **settings)
