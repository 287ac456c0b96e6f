import pytest
import torch

from plm.batch import IGNORE_INDEX
from plm.model.context import Context
from plm.pairs.logps import pair_logps, subset
from plm.preference.common import SHOWN, PairLogps
from tests.model.common import tiny
from tests.pairs.made import SIZE, Drawn, documents, drawn, one_by_one, whole, write


def packed(model, batch, kernels: str = "auto") -> PairLogps:
    """Through the model, as the stage calls it."""

    def loss(hidden, head_weight, labels):
        return pair_logps(
            hidden,
            head_weight,
            labels,
            doc_ids=batch.doc_ids,
            parts=batch.extras["parts"],
            shown=batch.extras["shown"],
            kernels=kernels,
        )

    given = {"context": Context.of(batch), "labels": batch.labels, "losses": {"x": loss}}
    return model(batch.tokens, **given).losses["x"]


def of_logits(batch, logits) -> PairLogps:
    """From logits [B, T, V] that stand for the model's."""
    head = torch.eye(logits.shape[-1], dtype=logits.dtype)
    extras = {name: batch.extras[name] for name in ("parts", "shown")}
    return pair_logps(logits, head, batch.labels, doc_ids=batch.doc_ids, **extras)


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_packed_windows_give_what_each_sequence_gives_alone(tmp_path, dtype, near, kernels):
    pairs = drawn(7)
    stream, model = write(tmp_path, pairs), tiny(dtype=dtype)
    batch = whole(stream)
    many = (batch.extras["parts"] >= 0).sum(1)
    # Windows with a place for a part that is empty, and windows that are filled up, are among them.
    assert set(many.tolist()) == {2, 3} and stream.most_parts == 3
    assert (batch.doc_ids.amax(1) == 2 * many).any()
    with torch.no_grad():
        found, expected = packed(model, batch, kernels), one_by_one(model, pairs)
    numbers = batch.extras["parts"][batch.extras["parts"] >= 0]
    wanted = subset(expected, documents(stream, numbers))
    for name in ("chosen", "rejected"):
        assert getattr(found, name).dtype == dtype
        torch.testing.assert_close(
            getattr(found, name), getattr(wanted, name), rtol=near, atol=near
        )
    for name in ("chosen_tokens", "rejected_tokens", "shown"):
        assert torch.equal(getattr(found, name), getattr(wanted, name))


def test_a_window_without_a_place_to_spare(tmp_path):
    # The answers' last token fills the window up to its last place, and no document follows.
    prompt, size = [9, 10, 11], 2 * (3 + 2 + 1)
    pairs = [Drawn([prompt] * 3, [12, 13], [14, 15]) for _ in range(2)]
    stream, model = write(tmp_path, pairs, SHOWN[:1], size), tiny()
    batch = whole(stream)
    assert batch.doc_ids.unique().tolist() == [0, 1] and stream.most_parts == 1
    with torch.no_grad():
        found, expected = packed(model, batch), one_by_one(model, pairs, SHOWN[:1])
    torch.testing.assert_close(found.chosen, expected.chosen, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.rejected, expected.rejected, rtol=1e-12, atol=0)
    assert found.rejected_tokens.tolist() == [2, 2]


def test_filled_places_do_not_matter(tmp_path):
    stream, model = write(tmp_path, drawn(7)), tiny()
    batch = whole(stream)
    many = (batch.extras["parts"] >= 0).sum(1)[:, None]
    filled = batch.doc_ids >= 2 * many
    assert filled.any() and (batch.labels[filled] == IGNORE_INDEX).all()
    with torch.no_grad():
        before = packed(model, batch)
        batch.tokens[filled] = (batch.tokens[filled] + 5) % 37
        after = packed(model, batch)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_rows_without_a_part(tmp_path):
    batch = whole(write(tmp_path, drawn(3)))
    for name in ("parts", "shown"):
        batch.extras[name].fill_(-1)
    logits = torch.randn(*batch.tokens.shape, 37, requires_grad=True)
    found = of_logits(batch, logits)
    assert [len(column) for column in found] == [0] * 5
    found.chosen.sum().backward()
    assert not logits.grad.any()


def test_a_places_gradient_goes_to_the_answer_that_it_is_of(tmp_path):
    stream = write(tmp_path, drawn(7))
    batch = whole(stream)
    logits = torch.randn(*batch.tokens.shape, 37, requires_grad=True)
    found = of_logits(batch, logits)
    row, place = (batch.extras["parts"] >= 0).nonzero()[-1].tolist()
    assert place > 0
    for side, document in (("chosen", 2 * place), ("rejected", 2 * place + 1)):
        (grad,) = torch.autograd.grad(getattr(found, side)[-1], logits, retain_graph=True)
        own = (batch.doc_ids == document) & (batch.labels != IGNORE_INDEX)
        own[:row] = own[row + 1 :] = False
        assert own.any() and torch.equal(grad.abs().sum(-1) > 0, own)


def test_a_subset_by_mask_or_index():
    logps = PairLogps(*torch.arange(15).view(5, 3))
    by_mask = subset(logps, torch.tensor([True, False, True]))
    assert [column.tolist() for column in by_mask] == [[i, i + 2] for i in range(0, 15, 3)]
    by_index = subset(logps, torch.tensor([2, 0]))
    assert [column.tolist() for column in by_index] == [[i + 2, i] for i in range(0, 15, 3)]


def test_what_the_tests_here_stand_on(tmp_path):
    """Made-up windows have labels of the answers alone, and all of those."""
    pairs = drawn(7)
    stream = write(tmp_path, pairs)
    batch = whole(stream)
    assert batch.tokens.shape[1] == SIZE
    kept = batch.labels[batch.labels != IGNORE_INDEX]
    assert len(kept) == 3 * sum(len(p.chosen) + len(p.rejected) for p in pairs)
