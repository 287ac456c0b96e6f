"""What would stop a run only once its pairs are there, said before."""

import json
from pathlib import Path
from typing import Any

import pytest

from plm.checkpoint import FORMAT
from plm.errors import ConfigError
from plm.pairs.settle import settle_pairs


@pytest.fixture
def settings() -> dict[str, Any]:
    """Preference learning on pairs that are there."""
    loss = {"_target_": "plm.preference.aries.aries", "_partial_": True, "alpha": 0.8}
    return {
        "stage": {"preference": loss, "sft_weight": 0.0},
        "losses": {"cross_entropy": None},
        "data": {"path": "pairs.jsonl", "shown": None},
        "reference": None,
    }


def checkpoint(folder: Path, **meta: str) -> None:
    """What tells a folder is a checkpoint."""
    text = json.dumps({"format": FORMAT, "files": {}, **meta})
    (folder / "meta.json").write_text(text, encoding="utf-8")


def phase(**changed: Any) -> dict[str, Any]:
    rate = {"shape": "hold", "to": 1.0}
    own = {"tokens": 4096, "seq_len": 256, "global_batch_tokens": 1024, "mixture": {"pairs": 1.0}}
    return {**own, "rate": rate, **changed}


@pytest.fixture
def round_settings(settings: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A round, from a checkpoint that knows conversations."""
    checkpoint(tmp_path, chat_template="{{ messages }}")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "why?"}\n')
    path = str(tmp_path / "prompts.jsonl")
    parts = {
        name: {"_target_": f"plm.{target}", "_partial_": True}
        for name, target in (
            ("candidates", "candidates.chain.chain"),
            ("reward", "reward.rule.rule"),
            ("pairing", "pairing.best_worst.best_worst"),
        )
    }
    return {
        **settings,
        **parts,
        "init_from": str(tmp_path),
        "prompts": {"_target_": "plm.rounds.prompts.rows", "path": path},
        "refinement": {"text": "{question}{answer}"},
        "round": {"solutions": False, "prompts": 3, "rows": 2, "seed": 1, "compiled": False},
        "data": {"path": None, "shown": None, "block_tokens": 256},
        "phases": {"pairs": phase()},
        "trainer": {"devices": 1, "num_nodes": 1},
    }


@pytest.mark.parametrize(
    ("alpha", "shown"),
    [(0.8, ["nothing", "worse", "better"]), (0.0, ["nothing"]), (1.0, ["worse", "better"])],
)
def test_the_loss_says_what_prompts_show(
    settings: dict[str, Any], alpha: float, shown: list[str]
) -> None:
    settings["stage"]["preference"]["alpha"] = alpha
    settle_pairs(settings)
    assert settings["data"]["shown"] == shown


def test_what_the_user_says_stays(settings: dict[str, Any]) -> None:
    settings["data"]["shown"] = ["worse"]
    settle_pairs(settings)
    assert settings["data"]["shown"] == ["worse"]


def test_other_stages_have_none() -> None:
    settings = {"stage": {"_target_": "plm.stages.sft.SFT"}}
    settle_pairs(settings)
    assert settings == {"stage": {"_target_": "plm.stages.sft.SFT"}}


@pytest.mark.parametrize(
    ("key", "name", "value", "line"),
    [
        ("stage", "preference", None, "preference is missing"),
        ("stage", "sft_weight", -1, r"stage\.sft_weight=-1 is negative"),
        ("losses", "z_loss", {"weight": 1}, r"losses\.z_loss: stage=preference has its loss"),
    ],
)
def test_what_the_stage_would_refuse(
    settings: dict[str, Any], key: str, name: str, value: Any, line: str
) -> None:
    settings[key][name] = value
    with pytest.raises(ConfigError, match=line):
        settle_pairs(settings)


def test_a_reference_that_is_not_there(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^reference=nowhere does not exist"):
        settle_pairs({**settings, "reference": "nowhere"})


def test_a_round(round_settings: dict[str, Any]) -> None:
    settle_pairs(round_settings)
    assert round_settings["data"]["shown"] == ["nothing", "worse", "better"]


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("phases", {"pairs": phase(seq_len=128)}, r"phases\.pairs: .*set seq_len=256"),
        (
            "phases",
            {"pairs": phase(isolate_documents=False)},
            r"phases\.pairs: .*isolate_documents=true",
        ),
        ("trainer", {"devices": 3, "num_nodes": 1}, "3 processes cannot share .* multiple of 768"),
        ("trainer", {"devices": 4, "num_nodes": 2}, "8 processes cannot share .* multiple of 2048"),
        ("data", {"path": "pairs.jsonl"}, r"data\.path=pairs.jsonl.*experiment=plm_preference"),
    ],
)
def test_a_round_that_would_sample_for_nothing(
    round_settings: dict[str, Any], key: str, value: Any, line: str
) -> None:
    round_settings[key] = {**round_settings[key], **value}
    with pytest.raises(ConfigError, match=line):
        settle_pairs(round_settings)


def test_a_round_of_a_model_without_conversations(round_settings: dict[str, Any]) -> None:
    checkpoint(Path(round_settings["init_from"]))
    with pytest.raises(ConfigError, match="knows no conversations"):
        settle_pairs(round_settings)


def test_pairs_for_fine_tuning_have_an_experiment(round_settings: dict[str, Any]) -> None:
    changed = {"stage": {}, "data": {"path": "pairs.jsonl"}}
    with pytest.raises(ConfigError, match="plm_sft init=weights data=refinements phases="):
        settle_pairs({**round_settings, **changed})
