"""Stages as runs: what each is started with, and that a mistake stops all before the first."""

import pytest

from plm.errors import ConfigError
from plm.pipeline import steps

SETTINGS = {
    "runs_dir": "runs",
    "name": "plm",
    "init": "auto",
    "stages": {"pretrain": ["+experiment=plm_pretrain"], "sft": ["+experiment=plm_sft"]},
}


def commands(settings: dict, overrides: list[str]) -> dict[str, list[str]]:
    return {name: step.words for name, step in steps(settings, overrides).items()}


def test_each_stage_begins_where_the_one_before_ended():
    found = commands(SETTINGS, ["+experiment=plm_pipeline", "scale=nano", "seed=3"])
    assert found == {
        "pretrain": [
            "scale=nano", "seed=3", "name=plm-pretrain", "init=auto", "+experiment=plm_pretrain"
        ],
        "sft": [
            "scale=nano", "seed=3", "name=plm-sft", "init_from=runs/plm-pretrain",
            "+experiment=plm_sft",
        ],
    }  # fmt: skip


def test_names_and_the_pipelines_own_start():
    given = {**SETTINGS, "name": "mine", "init_from": "base", "init": "weights"}
    found = commands(given, ["name=mine", "init_from=base", "stages.sft=null", "stage=pipeline"])
    assert found["pretrain"] == [
        "name=mine-pretrain", "init_from=base", "init=weights", "+experiment=plm_pretrain"
    ]  # fmt: skip
    # Only the first stage begins where the pipeline was told to.
    assert "init=weights" not in found["sft"]
    named = {"pretrain": ["+experiment=plm_pretrain", "name=first"], "sft": ["init_from=other"]}
    found = commands({**SETTINGS, "stages": named}, [])
    assert "init_from=runs/first" not in found["sft"] and "init_from=other" in found["sft"]
    named["sft"] = ["+experiment=plm_sft"]
    named["pretrain"].append("runs_dir=elsewhere")
    assert "init_from=elsewhere/first" in commands({**SETTINGS, "stages": named}, [])["sft"]
    named["pretrain"].pop()
    assert "init_from=runs/first" in commands({**SETTINGS, "stages": named}, [])["sft"]


def test_without_a_name_other_settings_have_other_folders():
    given = {**SETTINGS, "name": None, "experiment_name": "plm"}
    folders = [steps(given, ["seed=1"])["sft"].folder, steps(given, ["seed=2"])["sft"].folder]
    assert folders[0] != folders[1] and folders[0] == steps(given, ["seed=1"])["sft"].folder
    assert folders[0].name.startswith("plm-") and folders[0].name.endswith("-sft")


def test_a_new_folder_is_refused():
    with pytest.raises(ConfigError, match=r"resume=never is for one run.*another name="):
        steps({**SETTINGS, "resume": "never"}, [])


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
