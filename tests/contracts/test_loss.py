"""What every choice of configs/loss must hold."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from plm.batch import IGNORE_INDEX
from plm.config import build

CHOICES = sorted((Path(__file__).parents[2] / "configs/loss").glob("*.yaml"))


@pytest.fixture(params=CHOICES, ids=lambda path: path.stem)
def loss(request):
    return build(OmegaConf.load(request.param))


@pytest.fixture
def data():
    hidden = torch.randn(4, 9, 8, dtype=torch.float64, requires_grad=True)
    head = torch.randn(13, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 13, (4, 9))
    labels[torch.rand(4, 9) < 0.3] = IGNORE_INDEX
    return hidden, head, labels


def test_there_are_choices():
    assert CHOICES


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_all_masked_gives_count_0_and_no_gradient(loss, data, kernels: str):
    hidden, head, labels = data
    total, count = loss(hidden, head, torch.full_like(labels, IGNORE_INDEX), kernels=kernels)
    total.backward()
    assert total.item() == 0 and count.item() == 0 and count.dtype == torch.int64
    assert not hidden.grad.any() and not head.grad.any()


@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_a_split_batch_adds_up_to_the_whole(loss, data, kernels: str):
    hidden, head, labels = data
    whole = loss(hidden, head, labels, kernels=kernels)
    whole.total.backward()
    expected = hidden.grad.clone(), head.grad.clone()
    hidden.grad = head.grad = None
    parts = [
        loss(hidden[rows], head, labels[rows], kernels=kernels)
        for rows in (slice(0, 1), slice(1, 4))
    ]
    sum(part.total for part in parts).backward()
    torch.testing.assert_close(parts[0].total + parts[1].total, whole.total)
    assert parts[0].count + parts[1].count == whole.count == (labels != IGNORE_INDEX).sum()
    torch.testing.assert_close((hidden.grad, head.grad), expected, rtol=1e-12, atol=1e-12)


def test_the_fast_form_equals_the_reference(loss, data):
    hidden, head, labels = data
    grads = []
    for kernels in ("auto", "reference"):
        hidden.grad = head.grad = None
        total, _ = loss(hidden, head, labels, kernels=kernels)
        total.backward()
        grads.append((total.detach(), hidden.grad, head.grad))
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)
