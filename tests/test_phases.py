"""Phases: what is refused, how budgets round, where a step stands."""

import pytest

from plm.errors import ConfigError
from plm.phases import Plan, read_phase

RATE = {"shape": "hold", "to": 1.0}
GOOD = {"tokens": 100, "seq_len": 8, "global_batch_tokens": 32, "mixture": {"a": 1}, "rate": RATE}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"tokens": 0}, "phases.x.tokens=0 must be a whole number"),
        ({"tokens": None}, "phases.x.tokens is missing"),
        ({"global_batch_tokens": 30}, "not a multiple of seq_len=8; nearest: 24, 32"),
        ({"mixture": {"a": 0}}, "phases.x.mixture sums to nothing"),
        ({"mixture": {"a": -1}}, "phases.x.mixture.a=-1 must be a number from 0 up"),
        ({"mixture": {"a": 1, "b": "tokens"}}, "mixture.b='tokens' must be a number from 0 up, o"),
        ({"mixture_to": {"a": "x"}}, "phases.x.mixture_to.a='x' must be a number from 0 up"),
        ({"mixture_to": {"a": 0}}, "phases.x.mixture_to sums to nothing"),
        ({"mixture": {"a": "tokens"}, "mixture_to": {"a": 1}}, "mixture_to needs numbers in"),
        ({"mixture": "prose"}, "phases.x.mixture='prose' must be a mapping"),
        ({"rate": "hold"}, "phases.x.rate='hold' must be a mapping"),
        ({"temperature": 2.0}, "phases.x.temperature=2.0 needs the weights tokens"),
        ({"temperature": 0}, "phases.x.temperature=0 must be a number above 0"),
        ({"seq_length": 8}, "phases.x.seq_length is not a setting of a phase; did you mean"),
        ({"rate": {"shap": "hold"}}, "phases.x.rate.shap is not a setting of a phase"),
    ],
)
def test_errors(change: dict, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_phase("x", {**GOOD, **change})
    assert text in str(error.value)


def test_no_phase_at_all() -> None:
    with pytest.raises(ConfigError, match="phases is empty"):
        Plan.read({"x": None})


def test_budgets_round_up_to_whole_batches() -> None:
    plan = Plan.read({"x": GOOD, "y": {**GOOD, "tokens": 65}})
    assert [planned.steps for planned in plan.phases] == [4, 3]
    assert (plan.total_steps, plan.total_tokens) == (7, 224)
    assert plan.at(3).phase.name == "x"
    assert plan.at(4).phase.name == "y"
    assert plan.tokens_before(5) == 160
    for step in range(8):
        assert plan.step_at(plan.tokens_before(step) if step < 7 else plan.end_tokens) == step
    with pytest.raises(ConfigError, match="no step of these phases begins at 33"):
        plan.step_at(33)
