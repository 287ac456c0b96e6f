"""From text to a model that answers by one command, which goes on where it was stopped."""

import json
import signal
import time
from pathlib import Path

import pytest

from plm.checkpoint import read_meta
from plm.pretrained import load
from tests.e2e.conftest import Trainer
from tests.e2e.test_sft import chats

__all__ = ["chats"]

pytestmark = pytest.mark.slow


def stages(text: Path, chats: Path) -> list[str]:
    return [
        f"stages.pretrain=['+experiment=plm_pretrain','data.path={text}',"
        "'scale.tokens.pretrain=8192','scale.warmup_tokens=1024']",
        f"stages.sft=['+experiment=plm_sft','data.path={chats}']",
    ]


@pytest.fixture
def piped(text: Path, chats: Path, data_dir: Path, tmp_path: Path) -> Trainer:
    made = Trainer(text, data_dir, tmp_path / "runs", "plm_pipeline")
    plain = made.arguments
    made.arguments = lambda *overrides: [
        word
        for word in plain(*stages(text, chats), *overrides)
        if not word.startswith("data.path=")
    ]
    return made


def test_both_stages_and_the_same_command_again(piped: Trainer) -> None:
    out = piped.run("name=plm")
    assert "stage 1 of 2: pretrain" in out and "stage 2 of 2: sft" in out
    sft = piped.runs / "plm-sft"
    meta = read_meta(sorted((sft / "checkpoints").glob("tokens-*"))[-1])
    assert meta["origin"]["path"].startswith(str(piped.runs / "plm-pretrain"))
    assert load(sft).chat_template is not None
    again = piped.run("name=plm")
    assert again.count("is finished") == 2


def test_a_stop_is_passed_on_and_the_same_command_goes_on(piped: Trainer) -> None:
    process = piped.start("name=stopped")
    status = piped.runs / "stopped-sft" / "status.json"
    end = time.monotonic() + 120
    while not (piped.runs / "stopped-sft" / "metrics.csv").exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75, out
    assert json.loads(status.read_text())["status"] == "interrupted"
    assert "the same command goes on" in out
    piped.run("name=stopped")
    assert json.loads(status.read_text())["status"] == "done"


def test_a_mistake_in_a_later_stage_stops_before_the_first(piped: Trainer) -> None:
    out = piped.run("stages.sft=['+experiment=plm_sft','phases.special.tokns=3']", code=2)
    assert "stages.sft: " in out and "tokns" in out
    assert not piped.runs.exists()
    out = piped.run("stages.sft=['+experiment=plm_sft','phases.special.seq_len=100']", code=2)
    assert "stages.sft: phases.special.global_batch_tokens=1024 is not a multiple" in out
    assert not piped.runs.exists()
