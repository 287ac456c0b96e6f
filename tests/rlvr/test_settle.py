"""What is refused before there is a folder or a model."""

import copy
import sys
from types import ModuleType
from typing import Any

import pytest

from plm.errors import ConfigError
from plm.rlvr.settle import settle_rlvr
from tests.model.common import compose


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    return compose("+experiment=plm_rlvr", "scale=test", "init_from=a_run")


@pytest.fixture
def settings(composed: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(composed)


def _set(settings: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for name in path:
        settings = settings[name]
    settings[last] = value


def test_the_experiment_as_it_is(settings: dict[str, Any]) -> None:
    before = copy.deepcopy(settings)
    settle_rlvr(settings)
    assert settings == before


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("data", {"path": "x"}, r"^data: stage=rlvr answers prompts; choose data=prompts"),
        ("losses.cross_entropy", {"x": 1}, r"^losses\.cross_entropy: stage=rlvr has its loss in"),
        ("stage.rollouts.group", 0, r"^rollouts\.group=0 must be a whole number"),
        ("stage.rollouts.group", 3, r"^phases\.outcome\.global_batch_tokens gives 8 rollouts a "
         r"step, which are no whole groups of rollouts\.group=3; use a multiple of 384$"),
        ("trainer.devices", 3, r"which are what 3 processes cannot share evenly; .* of 3072$"),
        ("stage.alarms.action", "shout", r"^alarms\.action=shout"),
        ("stage.environment.temperature", 0, r"^environment\.temperature=0 must be above 0"),
        ("stage.environment.temperature", float("inf"), r"temperature=inf must be above 0"),
        ("stage.environment.temperature", "hot", r"temperature=hot must be above 0"),
        ("stage.divergence_in", "both", r"^stage\.divergence_in=both is not loss or reward"),
        ("stage.divergence_weight", "x", r"^stage\.divergence_weight=x must be a number"),
        ("stage.entropy_weight", float("nan"), r"^stage\.entropy_weight=nan must be a number"),
        ("stage.divergence_weight", 0.1, r"^stage\.divergence_weight=0\.1 has no effect"),
        ("stage.policy", None, r"^policy is missing: choose one of configs/policy"),
        ("stage.advantage", None, r"^advantage is missing"),
        ("stage.aggregation", None, r"^aggregation is missing"),
        ("stage.environment", None, r"^environment is missing"),
        ("stage.policy.clip_low", -1, r"^policy\.clip_low=-1 must be a number from 0 on"),
        ("stage.policy.nonsense", 1, r"^policy=clip: .*unexpected keyword argument 'nonsense'"),
        ("stage.advantage.eps", 0, r"^advantage\.eps=0 must be a number above 0"),
        ("data.sources", {}, r"^data\.sources is empty"),
        ("data.sources.outcome.rewards", {}, r"^data\.sources\.outcome\.rewards is empty"),
        ("data.sources.outcome.rewards.right", None, r"rewards is empty; choose one, for example"),
    ],
)  # fmt: skip
def test_what_cannot_work(settings: dict[str, Any], key: str, value: Any, line: str) -> None:
    _set(settings, key, value)
    with pytest.raises(ConfigError, match=line):
        settle_rlvr(settings)


def _choice(target: str, **more: Any) -> dict[str, Any]:
    return {"_target_": f"plm.{target}", "_partial_": True, **more}


def test_an_advantage_of_a_value_model(settings: dict[str, Any]) -> None:
    settings["stage"]["advantage"] = _choice("advantage.gae.gae")
    with pytest.raises(ConfigError, match=r"^advantage: it needs a value model, which \+rlvr=ppo"):
        settle_rlvr(settings)
    settings["stage"]["critic"] = {}
    settle_rlvr(settings)
    settings["stage"]["critic"] = {"rate": 1}
    with pytest.raises(ConfigError, match=r"^stage\.critic: .*unexpected keyword argument 'rate'"):
        settle_rlvr(settings)
    settings["stage"]["critic"] = {"clip": -1}
    with pytest.raises(ConfigError, match=r"^stage\.critic\.clip=-1 must be a number above 0"):
        settle_rlvr(settings)


def test_vllm_keeps_one_rotary_base(settings: dict[str, Any], monkeypatch) -> None:
    settings["stage"]["rollouts"]["engine"] = "vllm"
    with pytest.raises(ConfigError, match=r"^vllm cannot be imported"):
        settle_rlvr(settings)
    monkeypatch.setitem(sys.modules, "vllm", ModuleType("vllm"))
    settle_rlvr(settings)
    ((name, phase),) = settings["phases"].items()
    settings["phases"] = {name: phase, "longer": {**phase, "rope_theta": 1e6}}
    with pytest.raises(ConfigError, match=r"^rollouts\.engine=vllm: phases differ in rope_theta"):
        settle_rlvr(settings)


@pytest.mark.parametrize("name", ["group", "centred", "leave_one_out", "decoupled"])
def test_an_answer_alone_is_compared_with_nothing(settings: dict[str, Any], name: str) -> None:
    settings["stage"]["rollouts"]["group"] = 1
    settings["stage"]["advantage"] = _choice(f"advantage.{name}.{name}")
    with pytest.raises(ConfigError, match=r"^rollouts\.group=1: the advantage compares an answer"):
        settle_rlvr(settings)


def test_an_answer_alone_is_compared_with_the_batch_or_with_values(
    settings: dict[str, Any],
) -> None:
    settings["stage"]["rollouts"]["group"] = 1
    settings["stage"]["advantage"] = _choice("advantage.batch.batch", baseline="none")
    settle_rlvr(settings)
    settings["stage"]["advantage"] = _choice("advantage.gae.gae")
    settings["stage"]["critic"] = {}
    settle_rlvr(settings)


def test_values_that_nothing_looks_at(settings: dict[str, Any]) -> None:
    settings["stage"]["critic"] = {}
    with pytest.raises(ConfigError, match=r"^stage\.critic: nothing looks at its values"):
        settle_rlvr(settings)


def test_choices_that_are_off_by_default_are_checked_too(settings: dict[str, Any]) -> None:
    settings["stage"]["divergence"] = _choice("divergence.k3.k3")
    settings["stage"]["correction"] = _choice("correction.truncated.truncated", low=2.0)
    with pytest.raises(ConfigError, match=r"^correction\.low=2\.0"):
        settle_rlvr(settings)
    settings["stage"]["correction"]["low"] = 0.5
    settings["stage"]["divergence_weight"] = 0.1
    settle_rlvr(settings)


def test_a_source_that_is_switched_off_is_not_looked_at(settings: dict[str, Any]) -> None:
    settings["data"]["sources"]["other"] = None
    settle_rlvr(settings)


def test_other_stages_are_left_alone_unless_they_are_given_prompts() -> None:
    other = {"stage": {"_target_": "plm.stages.sft.SFT"}, "data": {"path": "x"}}
    settle_rlvr(other)
    other["data"] = {"sources": {}}
    with pytest.raises(ConfigError, match=r"^data=prompts: .* in stage=rlvr alone"):
        settle_rlvr(other)
