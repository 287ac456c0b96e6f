"""The report's section of learning from rewards, and what else it says of such a run."""

import json
import re
from pathlib import Path
from typing import Any

from plm.report import write_report
from tests.report.conftest import metric_rows, summary, write_metrics

ALONE = ["each logged step", "median of 5"]
# By column its picture's title.
TITLES = {
    "advantage": "Size of an advantage",
    "entropy": "Entropy of the policy, nats a token",
    "kl": "Distance from the reference (k3), nats a token",
    "divergence": "Divergence taken from the reward, nats an answer",
    "cut": "Answers that were cut",
    "value_loss": "Loss of the value model, a token",
    "value_explained": "Variance of the returns that the values explain",
    "value_clip": "Values that a bound held",
    "mismatch_kl": "Distance of the trainer from the sampler, nats a token",
    "correction": "Factor for what the sampler computes otherwise, mean",
}


def _learned(folder: Path, rows: int = 40, **columns: float) -> None:
    """Columns of a run that learned from rewards, each a line up to the given value."""
    table = metric_rows(rows)
    for index, row in enumerate(table, start=1):
        row |= {f"rlvr/{name}": f"{value * index / rows:.6g}" for name, value in columns.items()}
    write_metrics(folder, table)


def _section(folder: Path, title: str = "Rewards") -> str:
    page = write_report(folder).read_text()
    found = re.search(rf"<section><h2>{title}</h2>(.*?)</section>", page, re.S)
    return "" if found is None else found.group(1)


def _pictures(section: str) -> dict[str, list[str]]:
    """Names of the curves of each picture, by title."""
    found = {}
    for part in re.findall(r"<figure.*?</figure>", section, re.S):
        title = re.search(r"<figcaption>(.*?)</figcaption>", part).group(1)
        found[title] = list(dict.fromkeys(re.findall(r'data-name="(.*?)"', part)))
    return found


def _held_out(folder: Path, **figures: float) -> None:
    """The summary of a run whose held-out prompts of `sums` have these figures afterwards."""
    told: dict[str, Any] = {**summary(), "ngrams": {}}
    told["val_before"] = {"sums": {"loss": 0.75, "reward": 0.25, "tokens": 61.0, "cut": 0.125}}
    told["val_after"] = {"sums": figures}
    (folder / "summary.json").write_text(json.dumps(told))


def test_runs_of_other_stages_have_none(run_folder: Path) -> None:
    assert _section(run_folder) == ""
    assert "Validation loss" in _section(run_folder, "In short")


def test_columns_alone_are_drawn_with_their_medians(run_folder: Path) -> None:
    _learned(run_folder, **dict.fromkeys(TITLES, 0.5))
    assert _pictures(_section(run_folder)) == dict.fromkeys(TITLES.values(), ALONE)


def test_columns_that_belong_together_share_a_picture(run_folder: Path) -> None:
    groups = {"groups_same": 0.6, "solved_all": 0.1, "solved_none": 0.5, "solved_some": 0.4}
    _learned(run_folder, **groups, length=90, length_ended=70, clip_low=0.1, clip_high=0.2)
    assert _pictures(_section(run_folder)) == {
        "Groups of answers to one prompt, median of 5": [
            "none right", "some right", "all right", "all rewards equal"
        ],
        "Tokens of an answer, median of 5": ["all", "ended by itself"],
        "Tokens that a bound held, median of 5": ["from below", "from above"],
    }  # fmt: skip


def test_groups_that_could_not_be_filled_are_drawn_where_there_are_any(run_folder: Path) -> None:
    _learned(run_folder, unfilled=0, solved_all=0.5)
    assert "kept although equal" not in _section(run_folder)
    _learned(run_folder, unfilled=0.25, solved_all=0.5)
    assert "kept although equal" in _section(run_folder)


def test_a_single_reward_is_named_and_not_drawn_twice(run_folder: Path) -> None:
    _learned(run_folder, **{"reward": 0.5, "reward/sums.right": 0.5})
    title = "Reward of the drawn answers: sums.right, median of 5"
    assert _pictures(_section(run_folder)) == {title: ["sums.right"]}


def test_several_rewards_and_their_sum(run_folder: Path) -> None:
    _learned(run_folder, **{"reward": 0.7, "reward/sums.right": 0.5, "reward/sums.<form>": 0.9})
    section = _section(run_folder)
    names = ["sums.right", "sums.&lt;form&gt;", "weighted sum"]
    assert _pictures(section) == {"Reward of the drawn answers, median of 5": names}
    assert "<form>" not in section


def test_held_out_prompts_have_a_picture(run_folder: Path) -> None:
    table = metric_rows(40)
    for row in table[::10]:
        row |= {"rlvr/entropy": 0.5, "val/sums/reward": 0.25, "val/loss": 0.75}
    write_metrics(run_folder, table)
    assert _pictures(_section(run_folder))["Reward of held-out prompts: sums"] == ["sums"]


def test_what_an_environment_counts_is_drawn_by_its_name(run_folder: Path) -> None:
    _learned(run_folder, tool_calls=3, turns=2)
    assert _pictures(_section(run_folder)) == {"Mean of tool calls": ALONE, "Mean of turns": ALONE}


def test_an_axis_is_logarithmic_where_the_values_need_it(run_folder: Path) -> None:
    _learned(run_folder, mismatch=1e-6, mismatch_max=1e-3, ratio_max=1.2, inverse_ratio_max=1.1)
    titles = list(_pictures(_section(run_folder)))
    assert "Sampler and trainer apart, nats a token, logarithmic, median of 5" in titles
    _learned(run_folder, rows=3, mismatch=0, mismatch_max=1e-3)
    assert list(_pictures(_section(run_folder))) == ["Sampler and trainer apart, nats a token"]


def test_alarms_of_the_log_are_said_once(run_folder: Path) -> None:
    _learned(run_folder, entropy=0.5)
    line = "2026-01-01 WARNING step 10: every reward has been 0 for <10> samplings\n"
    other = "2026-01-01 WARNING the disk is nearly full\n2026-01-01 INFO step 3: saved\n"
    (run_folder / "log.txt").write_text(line + other + line)
    section = _section(run_folder)
    said = '<p class="warning">step 10: every reward has been 0 for &lt;10&gt; samplings.</p>'
    assert section.count('<p class="warning">') == 1 and said in section


def test_few_rows_and_blank_cells(run_folder: Path) -> None:
    # Of the steps that one sampling is for only the first has its figures.
    table = metric_rows(4)
    table[0] |= {"rlvr/reward": 0.5, "rlvr/length": 9, "rlvr/entropy": 0.1}
    table[2] |= {"rlvr/reward": 0.75, "rlvr/length": 9}
    write_metrics(run_folder, table)
    assert _pictures(_section(run_folder)) == {
        "Reward of the drawn answers: weighted sum": ["weighted sum"],
        "Entropy of the policy, nats a token": ["each logged step"],
        "Tokens of an answer": ["all"],
    }


def test_the_table_of_held_out_prompts_says_rewards(run_folder: Path) -> None:
    _held_out(run_folder, loss=0.5, reward=0.5, tokens=70.0, cut=0.0)
    section = _section(run_folder, "Validation by source")
    cells = dict(re.findall(r'data-head="(.*?)">(.*?)<', section))
    assert cells == {
        "reward before": "0.250", "reward after": "0.500", "tokens before": "61.000",
        "tokens after": "70.000", "cut before": "0.125", "cut after": "0.000",
    }  # fmt: skip
    assert "Held-out prompts: mean reward" in section and "Nats a token" not in section


def test_the_head_says_the_reward(run_folder: Path) -> None:
    table = metric_rows(40)
    for index, row in enumerate(table):
        row.pop("val/loss", None)
        if index in (0, 39):
            row |= {"val/sums/reward": 0.25 + index / 78, "val/loss": 0.75 - index / 78}
    write_metrics(run_folder, table)
    section = _section(run_folder, "In short")
    assert "Mean reward" in section and "0.750" in section
    assert "of held-out prompts; 0.250 at the first evaluation" in section
    assert "nats a token" not in section
