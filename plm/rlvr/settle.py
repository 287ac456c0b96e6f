"""What learning from rewards asks of the settings, before there is a folder or a model."""

import math
from typing import Any

import torch

from plm.advantage import common as advantage
from plm.advantage.common import Scored
from plm.aggregation import common as aggregation
from plm.config import build
from plm.correction import common as correction
from plm.divergence import common as divergence
from plm.errors import ConfigError
from plm.phases import Plan
from plm.policy import common as policy
from plm.rlvr import critic, prompts
from plm.rlvr.alarms import Alarms
from plm.rlvr.sampler import Settings
from plm.rollout.vllm import imported


def settle_rlvr(settings: dict[str, Any]) -> None:
    """Refuse what cannot work; nothing, where the stage is another one.

    Raises:
        ConfigError: a setting that cannot work.
    """
    stage = settings["stage"]
    if "rollouts" not in stage:
        if prompts.wanted(settings):
            raise ConfigError("data=prompts: the model answers these in stage=rlvr alone")
        return
    if not prompts.wanted(settings):
        raise ConfigError("data: stage=rlvr answers prompts; choose data=prompts")
    others = [name for name, node in settings["losses"].items() if node]
    if others:
        raise ConfigError(
            f"losses.{others[0]}: stage=rlvr has its loss in `policy`; set losses.{others[0]}=null"
        )
    drawing = Settings(**stage["rollouts"])
    if drawing.engine == "vllm":
        _check_vllm(settings)
    Alarms(**(stage.get("alarms") or {}))
    _check_numbers(stage)
    check_choices(stage)
    _check_steps(settings, drawing)
    if not settings["data"]["sources"]:
        raise ConfigError("data.sources is empty; name a source of prompts (see configs/data)")
    for name, node in settings["data"]["sources"].items():
        if node is not None:
            prompts.built_rewards(node, f"data.sources.{name}")


def _check_vllm(settings: dict[str, Any]) -> None:
    imported(in_process=True)
    bases = {planned.phase.rope_theta for planned in Plan.read(settings["phases"]).phases}
    if len(bases) > 1:
        raise ConfigError(
            "rollouts.engine=vllm: phases differ in rope_theta, and vLLM keeps the one that it "
            "began with; take rollouts.engine=plm"
        )


def _check_numbers(stage: dict[str, Any]) -> None:
    temperature = (stage["environment"] or {}).get("temperature", 1.0)
    if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise ConfigError(
            f"environment.temperature={temperature} must be above 0: equal answers teach nothing"
        )
    if stage["divergence_in"] not in ("loss", "reward"):
        raise ConfigError(f"stage.divergence_in={stage['divergence_in']} is not loss or reward")
    for name in ("divergence_weight", "entropy_weight"):
        if not isinstance(stage[name], int | float) or not math.isfinite(stage[name]):
            raise ConfigError(f"stage.{name}={stage[name]} must be a number; 0 switches it off")
    if stage["divergence_weight"] and not stage["divergence"]:
        raise ConfigError(
            f"stage.divergence_weight={stage['divergence_weight']} has no effect: choose an "
            "estimate, +divergence@stage.divergence=k3"
        )
    for name in ("policy", "advantage", "aggregation", "environment"):
        if not stage[name]:
            raise ConfigError(f"{name} is missing: choose one of configs/{name}")


def _check_steps(settings: dict[str, Any], drawing: Settings) -> None:
    trainer = settings["trainer"]
    processes = int(trainer["devices"]) * int(trainer["num_nodes"])
    for planned in Plan.read(settings["phases"]).phases:
        where = f"phases.{planned.phase.name}.global_batch_tokens"
        for number, what in (
            (drawing.group, f"are no whole groups of rollouts.group={drawing.group}"),
            (processes, f"are what {processes} processes cannot share evenly"),
        ):
            if planned.rows % number:
                size = planned.phase.seq_len * math.lcm(drawing.group, processes)
                raise ConfigError(
                    f"{where} gives {planned.rows} rollouts a step, which {what}; use a multiple "
                    f"of {size}"
                )


def check_choices(stage: dict[str, Any]) -> None:
    """Build the choices, so that a setting that one does not take is said at once.

    Raises:
        ConfigError: it names the choice and the setting.
    """
    groups = {
        "policy": policy,
        "advantage": advantage,
        "aggregation": aggregation,
        "divergence": divergence,
        "correction": correction,
    }
    for name, group in groups.items():
        if stage[name]:
            group.check(build(stage[name]))
    build(stage["environment"])
    node = stage.get("critic")
    if node is not None:
        try:
            critic.Settings(**node)
        except TypeError as error:
            raise ConfigError(f"stage.critic: {str(error).partition(' ')[2]}") from error
    if advantage.needs_values(build(stage["advantage"])) == (node is None):
        raise ConfigError(
            "advantage: it needs a value model, which +rlvr=ppo brings (stage.critic)"
            if node is None
            else "stage.critic: nothing looks at its values; take advantage=gae, or "
            "stage.critic=null"
        )
    if stage["rollouts"]["group"] == 1 and node is None:
        _check_alone(stage)


def _check_alone(stage: dict[str, Any]) -> None:
    """Refuse groups of one where an answer is worth something beside the others alone."""
    wide = {"dtype": torch.float64}
    two = Scored(torch.tensor([[1.0], [0.0]], **wide), torch.ones(1, **wide), torch.arange(2))
    if not build(stage["advantage"])(two).any():
        raise ConfigError(
            "rollouts.group=1: the advantage compares an answer with the others to its prompt, of "
            "which there are none; take more, +rlvr=ppo, or advantage=batch advantage.baseline=none"
        )
