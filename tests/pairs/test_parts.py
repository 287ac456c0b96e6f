"""Parts of pairs by the stage: over micro-batches, and what takes no part in the loss."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm.batch import IGNORE_INDEX
from plm.pairs.logps import pair_logps
from plm.pairs.reference import Reference
from plm.preference.aries import aries
from plm.preference.common import NOTHING, SHOWN, PairLogps
from plm.preference.dpo import dpo
from tests.model.common import plain_context, tiny
from tests.pairs.made import (
    Drawn,
    batches,
    documents,
    drawn,
    fitted,
    one_by_one,
    plan_of,
    stage_of,
    whole,
    write,
)

ARIES = [
    {"alpha": 0.8, "beta": 0.1},
    {"alpha": 0.3, "beta": 0.2, "refine_beta": 0.05},
    {"alpha": 1.0, "beta": 0.1},
]


def reference_and_policy() -> tuple[nn.Module, nn.Module]:
    """Two models in fp64, apart from each other."""
    reference = tiny()
    policy = copy.deepcopy(reference)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
            weight.add_(0.05 * noise)
    return reference, policy


def stored(model: nn.Module, stream, pairs: list[Drawn], kinds=SHOWN) -> Reference:
    """What the reference gives, without rounding to fp32."""
    with torch.no_grad():
        found = one_by_one(model, pairs, kinds)
    order = documents(stream, torch.arange(stream.n_parts))
    table = torch.stack((found.chosen, found.rejected), -1)[order]
    return Reference({"x/train": table, "x/val": table[:0]}, ["x"])


def at_once(model: nn.Module, pairs: list[Drawn]) -> Tensor:
    """[N, 3, 2]: all six sequences of all pairs, padded behind to the longest, in one forward."""
    flat = [
        (prompt, answer)
        for pair in pairs
        for prompt in pair.prompts
        for answer in (pair.chosen, pair.rejected)
    ]
    longest = max(len(prompt) + len(answer) for prompt, answer in flat)
    tokens = torch.zeros(len(flat), longest, dtype=torch.int64)
    of_answer = torch.zeros_like(tokens)
    for row, (prompt, answer) in enumerate(flat):
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor([*prompt, *answer])
        of_answer[row, len(prompt) : end] = 1
    logits = model(tokens, context=plain_context(*tokens.shape)).logits
    logps = F.log_softmax(logits[:, :-1], -1).gather(-1, tokens[:, 1:, None])[..., 0]
    return (logps * of_answer[:, 1:]).sum(-1).view(-1, 3, 2)


def by_hand(reference, policy, pairs, *, alpha, beta, refine_beta=None, sft_weight=0.0) -> Tensor:
    """The objective, as it is written in the papers."""
    with torch.no_grad():
        base = at_once(reference, pairs)
    ours = at_once(policy, pairs)
    ratio = ours - base
    direct, worse, better = (ratio[..., 0] - ratio[..., 1]).unbind(-1)
    refine = beta if refine_beta is None else refine_beta
    answering = -torch.log(torch.sigmoid(beta * direct))
    refining = (0.5 - refine * worse) ** 2 + (0.5 - refine * better) ** 2
    lengths = torch.tensor([len(pair.chosen) for pair in pairs])
    # Of the parts that there are: none behind the question alone where it has no weight.
    nll = -(ours[..., 0] / lengths[:, None])[:, int(alpha == 1) :].mean()
    return ((1 - alpha) * answering + alpha * refining).mean() + sft_weight * nll


def gradients(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    names, weights = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, weights), strict=True))


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To fp64's tolerance, each as a share of its largest element."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        largest = value.abs().max()
        assert largest > 0
        assert (found[name] - value).abs().max() < 1e-12 * largest, name


def step(policy: nn.Module, stream, reference: Reference, micro: int, **settings) -> dict:
    """Gradients of the stage's one step, in micro-batches of so many windows."""
    stage = stage_of(copy.deepcopy(policy), plan_of({"x": stream}), **settings)
    stage.reference = reference
    (found,) = fitted(stage, batches({"x": stream}, micro))
    return {name.removeprefix("model."): value for name, value in found.items()}


@pytest.mark.parametrize("sft_weight", [0.0, 0.3])
@pytest.mark.parametrize("settings", ARIES, ids=str)
def test_a_step_is_the_objective_written_out(tmp_path, settings, sft_weight):
    pairs, (reference, policy) = drawn(7), reference_and_policy()
    kinds = aries.shows(**settings)
    stream = write(tmp_path, pairs, kinds)
    of_reference = stored(reference, stream, pairs, kinds)
    given = {"preference": partial(aries, **settings)}
    found = step(policy, stream, of_reference, 1, sft_weight=sft_weight, **given)
    loss = by_hand(reference, policy, pairs, sft_weight=sft_weight, **settings)
    assert_near(found, gradients(loss, policy))


def test_micro_batches_add_up_to_all_at_once(tmp_path):
    pairs, (reference, policy) = drawn(7), reference_and_policy()
    stream = write(tmp_path, pairs)
    of_reference = stored(reference, stream, pairs)
    many = (whole(stream).extras["parts"] >= 0).sum(1)
    # A mean of the micro-batches' means would be another one.
    assert len(many.unique()) > 1 and stream.n_windows % 3
    found = {n: step(policy, stream, of_reference, n) for n in (1, 3, stream.n_windows)}
    for n in (1, 3):
        assert_near(found[n], found[stream.n_windows])


def test_without_refinement_it_is_dpo(tmp_path):
    pairs, (reference, policy) = drawn(7), reference_and_policy()
    stream = write(tmp_path, pairs, SHOWN[:1])
    of_reference = stored(reference, stream, pairs, SHOWN[:1])
    losses = partial(aries, alpha=0.0, beta=0.3), partial(dpo, beta=0.3)
    a, b = (step(policy, stream, of_reference, 1, preference=loss) for loss in losses)
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert_near(b, gradients(by_hand(reference, policy, pairs, alpha=0.0, beta=0.3), policy))


def of_logits(batch, logits: Tensor, reference: Reference, **settings) -> Tensor:
    """The loss of all parts where these are the logits, [B, T, V]."""
    head = torch.eye(logits.shape[-1], dtype=logits.dtype)
    extras = {name: batch.extras[name] for name in ("parts", "shown")}
    policy = pair_logps(logits, head, batch.labels, doc_ids=batch.doc_ids, **extras)
    better, worse = reference.of(batch.extras["parts"], batch.source_ids).unbind(-1)
    return aries(policy, policy._replace(chosen=better, rejected=worse), **settings).total


def answers(batch, pairs: list[Drawn], stream) -> Tensor:
    """[B, T] bool: which places predict a token of an answer, by the pairs alone."""
    found = torch.zeros_like(batch.tokens, dtype=torch.bool)
    for row, column in (batch.extras["parts"] >= 0).nonzero().tolist():
        written = int(documents(stream, batch.extras["parts"][row, column]))
        pair, shown = pairs[written // 3], written % 3
        for side, answer in enumerate((pair.chosen, pair.rejected)):
            begin = int((batch.doc_ids[row] == 2 * column + side).nonzero()[0])
            first = begin + len(pair.prompts[shown]) - 1
            found[row, first : first + len(answer)] = True
    return found


def without_prompts(pairs: list[Drawn]) -> list[Drawn]:
    """The same answers behind prompts of as many other tokens: question, template, answer shown."""
    return [
        pair._replace(prompts=[[(ids + 11) % 29 + 8 for ids in prompt] for prompt in pair.prompts])
        for pair in pairs
    ]


def test_neither_template_nor_shown_answer_is_learnt(tmp_path):
    pairs = drawn(7)
    stream, other = (
        write(tmp_path / name, some) for name, some in (("a", pairs), ("b", without_prompts(pairs)))
    )
    batch, changed = whole(stream), whole(other)
    inside = answers(batch, pairs, stream)
    # So the labels themselves: other tokens stand at these places, and none of them is one.
    assert not torch.equal(batch.tokens, changed.tokens)
    assert torch.equal(batch.labels, changed.labels)
    assert torch.equal(batch.labels != IGNORE_INDEX, inside)
    reference = Reference({"x/train": -torch.rand(stream.n_parts, 2).double()}, ["x"])
    logits = torch.randn(*batch.tokens.shape, 37, dtype=torch.float64, requires_grad=True)
    losses = [of_logits(one, logits, reference) for one in (batch, changed)]
    assert torch.equal(*losses)
    for loss in losses:
        (grad,) = torch.autograd.grad(loss, logits)
        assert torch.equal((grad != 0).any(-1), inside)
    # An answer's label matters, so that the above says something.
    row, place = inside.nonzero()[0].tolist()
    changed.labels[row, place] = (changed.labels[row, place] + 1) % 37
    assert of_logits(changed, logits, reference) != losses[0]


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_other_prompts_tokens_get_no_gradient(tmp_path, alpha):
    pairs = drawn(7)
    stream = write(tmp_path, pairs)
    batch = whole(stream)
    reference = Reference({"x/train": -torch.rand(stream.n_parts, 2).double()}, ["x"])
    logits = torch.randn(*batch.tokens.shape, 37, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(of_logits(batch, logits, reference, alpha=alpha), logits)
    places = batch.doc_ids.div(2, rounding_mode="floor").clamp(max=stream.most_parts - 1)
    direct = batch.extras["shown"].gather(1, places) == NOTHING
    inside = answers(batch, pairs, stream)
    learnt = inside & (~direct if alpha else direct)
    assert learnt.any() and learnt.sum() < inside.sum()
    assert torch.equal((grad != 0).any(-1), learnt)


def test_what_is_logged_of_the_parts(tmp_path):
    pairs, (reference, policy) = drawn(7), reference_and_policy()
    stream = write(tmp_path, pairs)
    stage = stage_of(policy, plan_of({"x": stream}), partial(aries, beta=0.1, refine_beta=0.025))
    stage.reference = stored(reference, stream, pairs)
    with torch.no_grad():
        base, ours = at_once(reference, pairs), at_once(policy, pairs)
        for batch in batches({"x": stream}, 2).step(0):
            stage.compute(batch)
    found, ratio = stage.sums.means(), ours - base
    margins = ratio[..., 0] - ratio[..., 1]
    expected = {
        "margin": margins.mean(),
        "accuracy": (margins > 0).double().mean(),
        "kl": ratio.mean(),
        "chosen_logp": ours[..., 0].mean(),
        "rejected_logp": ours[..., 1].mean(),
        "chosen_tokens": sum(len(pair.chosen) for pair in pairs) / len(pairs),
        "rejected_tokens": sum(len(pair.rejected) for pair in pairs) / len(pairs),
    }
    for number, shown in enumerate(SHOWN):
        expected[f"d_{shown}"] = margins[:, number].mean()
        expected[f"accuracy_{shown}"] = (margins[:, number] > 0).double().mean()
        if number:
            expected[f"beta_d_{shown}"] = 0.025 * margins[:, number].mean()
    assert found == {f"pref/{n}": pytest.approx(float(v), rel=1e-11) for n, v in expected.items()}


def test_the_reference_of_a_loss_without_one_is_not_made(tmp_path):
    stream = write(tmp_path, drawn(3))
    seen = []

    def free(policy: PairLogps, reference: PairLogps | None):
        seen.append(reference)
        return dpo(policy, policy._replace(chosen=policy.chosen * 0, rejected=policy.rejected * 0))

    free.reference_free = True
    stage = stage_of(tiny(), plan_of({"x": stream}), free)
    stage.open(job=None)
    (batch,) = batches({"x": stream}, stream.n_windows).step(0)
    loss = stage.compute(batch)["preference"]
    assert seen == [None] and stage.reference is None and loss.count == 9
    assert "pref/kl" not in stage.sums.means()
