"""What preference learning and a round ask of the settings, before anything is sampled or read."""

from typing import Any

from plm import handoff
from plm.config import build
from plm.errors import CheckpointError, ConfigError
from plm.phases import Plan


def settle_pairs(settings: dict[str, Any]) -> None:
    """Which prompts a preference loss wants its pairs behind; and whether it, and a round, can be.

    Raises:
        ConfigError: a setting of either that cannot work.
    """
    if "preference" in settings["stage"]:
        _settle_preference(settings)
    if settings.get("candidates"):
        from plm.rounds.parts import Parts

        if settings["data"].get("path"):
            learns = "preference" in settings["stage"]
            plain = "plm_sft init=weights data=refinements phases=refinements"
            other = "plm_preference" if learns else plain
            raise ConfigError(
                f"data.path={settings['data']['path']}: this run samples its own pairs; take "
                f"+experiment={other} for pairs that are there already"
            )
        Parts.of(settings)
        if handoff.chat_template(handoff.find(settings["init_from"], "weights", "")) is None:
            raise ConfigError(
                f"init_from={settings['init_from']} knows no conversations, and a round samples "
                "answers to what a user says: begin from a run of +experiment=plm_sft"
            )
        _check_windows(settings)


def _settle_preference(settings: dict[str, Any]) -> None:
    """What the stage would refuse once the pairs are there, which may take hours to sample."""
    from plm.preference.common import check, shown_by
    from plm.stages.preference import refuse

    node = settings["stage"]["preference"]
    if node is None:
        raise ConfigError("preference is missing: choose a loss, for example preference=aries")
    loss = build(node)
    check(loss)
    if settings["data"].get("shown") is None:
        settings["data"]["shown"] = list(shown_by(loss))
    others = {name: node for name, node in settings["losses"].items() if node}
    refuse(settings["stage"].get("sft_weight", 0.0), others)
    if settings.get("reference"):
        try:
            handoff.find(settings["reference"], "weights", "")
        except CheckpointError as error:
            said = str(error).replace("init_from=", "reference=")
            raise ConfigError(said) from error


def _check_windows(settings: dict[str, Any]) -> None:
    """What would be found wrong with the phases once the pairs are there."""
    size, trainer = settings["data"]["block_tokens"], settings["trainer"]
    processes = int(trainer["devices"]) * int(trainer["num_nodes"])
    for planned in Plan.read(settings["phases"]).phases:
        phase = planned.phase
        where = f"phases.{phase.name}"
        if phase.seq_len != size or not phase.isolate_documents:
            raise ConfigError(
                f"{where}: pairs are packed in windows of data.block_tokens={size}, each answer by "
                f"itself; set seq_len={size} and isolate_documents=true there"
            )
        if planned.rows % processes:
            raise ConfigError(
                f"{where}.global_batch_tokens gives {planned.rows} windows a step, which "
                f"{processes} processes cannot share evenly; use a multiple of {processes * size}"
            )
