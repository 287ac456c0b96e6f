"""Stages as runs: what each is started with, and that a mistake stops all before the first."""

import pytest

from plm.errors import ConfigError
from plm.pipeline import commands

SETTINGS = {
    "runs_dir": "runs",
    "experiment_name": "plm",
    "stages": {"pretrain": ["+experiment=plm_pretrain"], "sft": ["+experiment=plm_sft"]},
}


def test_each_stage_begins_where_the_one_before_ended():
    found = commands(SETTINGS, ["+experiment=plm_pipeline", "scale=nano", "seed=3"])
    assert found == {
        "pretrain": ["scale=nano", "seed=3", "name=plm-pretrain", "+experiment=plm_pretrain"],
        "sft": [
            "scale=nano", "seed=3", "name=plm-sft", "init_from=runs/plm-pretrain",
            "+experiment=plm_sft",
        ],
    }  # fmt: skip


def test_names_and_the_pipelines_own_start():
    given = {**SETTINGS, "name": "mine", "init_from": "base"}
    found = commands(given, ["name=mine", "init_from=base", "stages.sft=null", "stage=pipeline"])
    assert found["pretrain"] == ["name=mine-pretrain", "init_from=base", "+experiment=plm_pretrain"]
    named = {"pretrain": ["+experiment=plm_pretrain", "name=first"], "sft": ["init_from=other"]}
    found = commands({**SETTINGS, "stages": named}, [])
    assert "init_from=runs/first" not in found["sft"] and "init_from=other" in found["sft"]
    named["sft"] = ["+experiment=plm_sft"]
    assert "init_from=runs/first" in commands({**SETTINGS, "stages": named}, [])["sft"]


def test_a_stage_that_is_null_is_left_out():
    stages = {**SETTINGS["stages"], "sft": None}
    assert list(commands({**SETTINGS, "stages": stages}, [])) == ["pretrain"]


@pytest.mark.parametrize("stages", [{}, {"sft": None}])
def test_no_stage_is_refused(stages: dict):
    with pytest.raises(ConfigError, match="stage=pipeline needs stages"):
        commands({**SETTINGS, "stages": stages}, [])


def test_a_stage_that_is_no_list_is_refused():
    with pytest.raises(ConfigError, match=r"stages.sft='x' is not a list of overrides"):
        commands({**SETTINGS, "stages": {"sft": "x"}}, [])
