"""Evaluating leaves modes, generators, gradients and the environment as they were."""

import os
import random

import numpy as np
import torch

from plm.evaluation.common import Part, Share
from plm.evaluation.runner import evaluate, undisturbed


class Rude:
    """A task that touches all that it should not."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, bool, Share]] = []

    def run(self, subject, share):
        self.seen.append((subject.model.training, torch.is_grad_enabled(), share))
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)
        os.environ["PLM_RUDE"] = "1"
        os.environ["PLM_THERE"] = "changed"
        subject.model.train()
        return Part([{"index": share.rank}])

    def result(self, subject, parts):
        return [r["index"] for part in parts for r in part.records]


def test_undisturbed(subject, monkeypatch):
    monkeypatch.setenv("PLM_THERE", "kept")
    model = subject.model
    model.train()
    model.layers[1].eval()
    weight = next(model.parameters())
    weight.grad = torch.ones_like(weight)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    task = Rude()
    found = evaluate(
        subject, {"a": task}, share=Share(1, 3), gather=lambda part: [Part([{"index": 0}]), part]
    )
    assert found == {"a": [0, 1]} and task.seen == [(False, False, Share(1, 3))]
    assert model.training and not model.layers[1].training and model.layers[0].training
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2] and torch.equal(before[2], after[2])
    assert torch.equal(weight.grad, torch.ones_like(weight)) and torch.is_grad_enabled()
    assert all(torch.equal(state[n], v) for n, v in model.state_dict().items())
    assert "PLM_RUDE" not in os.environ and os.environ["PLM_THERE"] == "kept"


def test_an_error_does_not_leave_the_model_in_evaluation_mode(subject):
    subject.model.train()
    try:
        with undisturbed(subject.model):
            raise KeyError
    except KeyError:
        pass
    assert subject.model.training
