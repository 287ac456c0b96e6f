"""Arms are compared at their own best rates, seed by seed."""

import math

import pytest

from plm.errors import ConfigError
from scripts import compare as script

RATES = [1e-3, 2e-3, 4e-3]


class Trainer:
    """Losses by a formula: least at the arm's best rate, and moved by the seed alike for all."""

    def __init__(self, best: dict[str, float], better: dict[str, float]) -> None:
        self.best, self.better = best, better
        self.made: list[script.Trial] = []

    def __call__(self, trials: list[script.Trial]) -> dict[script.Trial, script.Losses]:
        self.made += [trial for trial in trials if trial not in self.made]
        return {trial: self.losses(*trial) for trial in trials}

    def losses(self, arm: str, rate: float, seed: int) -> script.Losses:
        loss = 4 + math.log2(rate / self.best[arm]) ** 2 - self.better[arm] * (1 + seed / 10) + seed
        return {"prose": loss, script.MEAN: loss}


def test_difference_is_paired_and_at_each_arms_best_rate() -> None:
    trainer = Trainer({"a": 2e-3, "b": 2e-3}, {"a": 0.0, "b": 0.5})
    result = script.compare(["a", "b"], RATES, [0, 1, 2], 100, trainer)
    assert {arm: row["rate"] for arm, row in result.items()} == {"a": 2e-3, "b": 2e-3}
    prose = result["b"]["sources"]["prose"]
    # Seeds move the losses by one nat each, the differences by a twentieth.
    assert prose["deviation"] > 0.9
    assert prose["difference"] == pytest.approx(-0.55)
    assert prose["half_width"] == pytest.approx(4.303 * 0.05 / math.sqrt(3))
    assert not result["b"]["at_the_end_of_the_list"]
    assert all((arm, 2e-3, seed) in trainer.made for arm in "ab" for seed in (0, 1, 2, 100))


def test_best_rate_at_an_end_asks_for_further_ones() -> None:
    trainer = Trainer({"a": 8e-3, "b": 5e-4, "far": 1.0}, dict.fromkeys(["a", "b", "far"], 0.0))
    result = script.compare(["a", "b", "far"], RATES, [0, 1], 100, trainer)
    assert result["a"]["rate"] == pytest.approx(8e-3) and not result["a"]["at_the_end_of_the_list"]
    assert result["b"]["rate"] == pytest.approx(5e-4) and not result["b"]["at_the_end_of_the_list"]
    assert result["far"]["rate"] == pytest.approx(16e-3) and result["far"]["at_the_end_of_the_list"]
    assert len(result["far"]["tuning"]) == len(RATES) + script.FURTHER_RATES


def test_diverged_rate_is_not_the_best() -> None:
    class Diverging(Trainer):
        def losses(self, arm: str, rate: float, seed: int) -> script.Losses:
            found = super().losses(arm, rate, seed)
            return {script.MEAN: math.inf} if rate > 1e-3 else found

    result = script.compare(
        ["a", "b"], RATES, [0, 1], 100, Diverging({"a": 4e-3, "b": 1e-3}, {"a": 0.0, "b": 0.0})
    )
    assert result["a"]["rate"] == 1e-3


def test_table_leaves_the_first_arms_difference_out() -> None:
    trainer = Trainer({"a": 2e-3, "b": 2e-3}, {"a": 0.0, "b": 0.5})
    lines = script.table(script.compare(["a", "b"], RATES, [0, 1], 100, trainer))
    assert lines[2].count("±") == 2 and lines[3].count("±") == 4
    assert all(line.count("|") == lines[0].count("|") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["arm.a=", "arm.b="], "study="),
        (["study=x", "arm.a="], "two arms"),
    ],
)
def test_what_is_missing_is_named(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        script.read_arguments(arguments)


@pytest.mark.parametrize(("seeds", "tune"), [([0], 100), ([0, 0], 100), ([0, 100], 100)])
def test_seeds_that_cannot_be_paired(seeds: list[int], tune: int) -> None:
    with pytest.raises(ConfigError, match="two to 10"):
        script.compare(["a", "b"], RATES, seeds, tune, Trainer({}, {}))


def test_settings_and_overrides_are_told_apart() -> None:
    settings, arms, rest = script.read_arguments(
        ["study=x", "arm.a=", "arm.b=schedule=cosine schedule.final=0", "rates=1,2", "scale=test"]
    )
    assert settings["rates"] == "1,2"
    assert arms == {"a": [], "b": ["schedule=cosine", "schedule.final=0"]}
    assert rest == ["+experiment=plm_pretrain", "scale=test"]
    with pytest.raises(ConfigError, match="rates=1,x"):
        script.numbers({"rates": "1,x"}, "rates", float)
