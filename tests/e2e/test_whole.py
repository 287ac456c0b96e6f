"""PLM's whole training at scale=test: each stage begins where the one before ended."""

import json
from pathlib import Path

import pytest

from plm.checkpoint import read_meta
from plm.pretrained import load
from scripts.evaluate import main as evaluate
from tests.e2e.conftest import Trainer, metrics
from tests.e2e.test_aries import LAB, checkpoints
from tests.e2e.test_rlvr import OUTCOME, files

__all__ = ["files"]

pytestmark = pytest.mark.slow

LEARNT = ("pretrain", "sft", "refine", "aries", "rlvr")


def stages(text: Path, files: Path) -> list[str]:
    """What each stage is given: few tokens, and prompts without an answer, rewarded by a hash."""
    lab = [f"hydra.searchpath=[file://{LAB}/mylab/configs]", "trust=[mylab]"]
    rows = ["prompts=rows", f"prompts.path={files}/prompts.jsonl", "reward=by_hash"]
    drawn = [
        *lab, *rows, "refinement=short", "round.prompts=60", "round.compiled=false",
        "pairing.drop_cut=false", "candidates.max_new_tokens=12",
    ]  # fmt: skip
    given = {
        "pretrain": [f"data.path={text}", "scale.tokens.pretrain=8192"],
        "sft": [f"data.path={files}/chats.jsonl", "scale.tokens.sft=4096"],
        "refine": [*drawn, "round.solutions=false", "scale.tokens.refinements=2048"],
        "aries": [*drawn, "scale.tokens.preference=2048"],
        "rlvr": [
            *lab, f"reward@{OUTCOME}.rewards.right=by_hash", f"prompts@{OUTCOME}.prompts=rows",
            f"{OUTCOME}.prompts.path={files}/prompts.jsonl", f"~task@{OUTCOME}.held_out",
            "rollouts.group=4", "rollouts.compiled=false", "scale.tokens.rlvr=2048",
        ],
    }  # fmt: skip
    return [
        f"stages.{name}=['+experiment=plm_{name}'," + ",".join(f"'{o}'" for o in own) + "]"
        for name, own in given.items()
    ]


def test_from_text_to_rewards(
    text: Path, files: Path, data_dir: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(LAB))
    trainer = Trainer(text, data_dir, tmp_path / "runs", "plm_whole")
    plain = trainer.arguments
    # The first stage alone reads the text.
    trainer.arguments = lambda *overrides: [
        word for word in plain(*overrides) if not word.startswith("data.path=")
    ]
    out = trainer.run("name=plm", *stages(text, files))
    assert all(f"stage {n} of 5: {name}" in out for n, name in enumerate(LEARNT, start=1))
    runs = [trainer.runs / f"plm-{name}" for name in LEARNT]
    metas = [read_meta(checkpoints(run)[-1]) for run in runs]
    assert [meta["stage"] for meta in metas] == ["pretrain", "sft", "sft", "preference", "rlvr"]
    for before, meta in zip(runs, metas[1:], strict=False):
        assert meta["origin"]["path"].startswith(str(before))
    # The template that showed answers goes on to the last stage, and so does the chat's.
    assert metas[4]["refinement"] == metas[2]["refinement"]
    assert load(runs[4]).chat_template == load(runs[1]).chat_template is not None
    assert any(float(row["rlvr/groups_same"] or 1) < 1 for row in metrics(runs[4])[1:])
    said = json.loads((runs[4] / "summary.json").read_text())
    assert said["stage"] == "rlvr" and said["sources"]["outcome"]["prompts_drawn"] == 4
    settings = ["tasks=[exercises]", "n=1", "refine=1", "temperature=1.0", "max_new_tokens=4"]
    assert evaluate([f"run={runs[4]}", f"out={tmp_path / 'figures.json'}", *settings]) == 0
    assert "refinement text: the checkpoint's own" in capsys.readouterr().out
