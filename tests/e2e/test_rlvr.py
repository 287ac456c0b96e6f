"""Runs that learn from rewards: sampled, trained, killed, gone on with, and refused."""

import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

from plm import checkpoint, config
from plm.checkpoint import read_meta
from tests.e2e.conftest import WORDS, Trainer, last_weights, metrics, reopened
from tests.e2e.test_aries import checkpoints, written
from tests.e2e.test_bad_input import told
from tests.e2e.test_resume import kill_at, same
from train import main

LAB = Path(__file__).resolve().parents[1] / "contracts"
STANDIN = Path(__file__).resolve().parents[1] / "rlvr" / "standin"
OUTCOME = "data.sources.outcome"
ROLLOUTS = (
    f"hydra.searchpath=[file://{LAB}/mylab/configs]", "trust=[mylab]",
    f"reward@{OUTCOME}.rewards.right=by_hash", f"prompts@{OUTCOME}.prompts=rows",
    f"~task@{OUTCOME}.held_out", "rollouts.group=4", "rollouts.compiled=false",
    "environment.temperature=1.0", "checkpoint.every_tokens=1024", "checkpoint.keep_last=30",
)  # fmt: skip
TWO_OF_EACH = ("rollouts.updates=2", "rollouts.epochs=2", "scale.tokens.rlvr=8192")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw, folder = random.Random(0), tmp_path_factory.mktemp("rlvr")
    asked = [" ".join(draw.choice(WORDS) for _ in range(4)) + f" {n}?" for n in range(60)]
    right = [f"{question.split()[1]} {n}." for n, question in enumerate(asked)]
    rows = [{"prompt": q, "completion": a} for q, a in zip(asked, right, strict=True)]
    written(folder / "chats.jsonl", rows)
    written(folder / "prompts.jsonl", [{"prompt": question} for question in asked])
    written(folder / "long.jsonl", [{"prompt": "the book " * 200}])
    return folder


@pytest.fixture(scope="session")
def tuned(
    whole: Path, files: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    trainer = Trainer(files / "chats.jsonl", data_dir, tmp_path_factory.mktemp("tuned"), "plm_sft")
    trainer.run("name=tuned", f"init_from={whole}", "scale.tokens.sft=4096")
    return trainer.runs / "tuned"


def rlvr(tuned: Path, files: Path, data_dir: Path, runs: Path) -> Trainer:
    made = Trainer(files / "prompts.jsonl", data_dir, runs, "plm_rlvr")
    plain = made.arguments

    def arguments(*overrides: str) -> list[str]:
        own = [word for word in plain() if not word.startswith("data.")]
        prompts = f"{OUTCOME}.prompts.path={files}/prompts.jsonl"
        return [*own, f"init_from={tuned}", *ROLLOUTS, prompts, *overrides]

    made.arguments = arguments
    return made


@pytest.fixture
def runs(
    tuned: Path, files: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Trainer:
    monkeypatch.setenv("PYTHONPATH", str(LAB))
    return rlvr(tuned, files, data_dir, tmp_path / "runs")


@pytest.fixture(scope="session")
def done(
    tuned: Path, files: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An undisturbed run, each sampling of which is for four steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(LAB))
        trainer = rlvr(tuned, files, data_dir, tmp_path_factory.mktemp("rlvr"))
        trainer.run("name=done", *TWO_OF_EACH)
    return trainer.runs / "done"


def test_a_whole_run(done: Path) -> None:
    rows = [row for row in metrics(done) if row.get("loss")]
    assert len(rows) == 8
    meta = read_meta(checkpoints(done)[-1])
    # Eight rollouts a step make two groups; four steps share the rollouts of two.
    assert meta["stage"] == "rlvr" and meta["cursors"] == {"outcome": 8}
    assert {"rlvr/reward/outcome.right", "rlvr/entropy", "rlvr/mismatch", "rlvr/groups_same"} <= (
        set(rows[0])
    )
    # Of the steps that a sampling is for only the first has its figures, at a ratio of 1.
    assert [bool(row["rlvr/reward"]) for row in rows] == [True, False, False, False] * 2
    assert float(rows[0]["rlvr/ratio_max"]) == pytest.approx(1, abs=1e-4)
    assert float(rows[3]["rlvr/ratio_max"]) > 1.001
    assert all(float(row["rlvr/mismatch"]) < 1e-4 for row in rows)
    assert (done / "report.html").exists()


@pytest.mark.slow
def test_killed_in_the_middle_of_a_batch_equals_undisturbed(runs: Trainer, done: Path) -> None:
    killed = runs.runs / "killed"
    for rows in (2, 5):
        process = runs.start("name=killed", *TWO_OF_EACH)
        assert kill_at(process, killed, rows, signal.SIGKILL) == -signal.SIGKILL
    runs.run("name=killed", *TWO_OF_EACH)
    assert same(last_weights(done), last_weights(killed))
    assert metrics(done) == metrics(killed)
    left, right = (json.loads((checkpoints(run)[-1] / "rollouts.json").read_text())
                   for run in (done, killed))  # fmt: skip
    assert left == right


@pytest.mark.slow
@pytest.mark.parametrize("keep", [1, 2, 4, 7])
def test_every_checkpoint_is_enough(runs: Trainer, done: Path, keep: int) -> None:
    reopened(done, runs.runs / "again", keep)
    runs.run("name=again", *TWO_OF_EACH)
    assert same(last_weights(done), last_weights(runs.runs / "again"))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "deepspeed_zero2"])
def test_two_processes_draw_what_one_draws(runs: Trainer, done: Path, strategy: str) -> None:
    two = (f"trainer={strategy}", "trainer.devices=2", "optimizer=adamw")
    runs.run("name=two", *two, *TWO_OF_EACH)
    first, second = metrics(done), metrics(runs.runs / "two")
    # The first sampling is by the same weights; what follows differs by rounding.
    names = ("rlvr/reward", "rlvr/length", "rlvr/groups_same", "rlvr/cut", "rlvr/advantage")
    one, other = (next(r for r in rows if r.get("loss")) for rows in (first, second))
    assert all(float(one[name]) == float(other[name]) for name in names)
    assert float(one["loss"]) == pytest.approx(float(other["loss"]), abs=1e-5)


@pytest.mark.slow
def test_a_reference_is_kept_near(runs: Trainer) -> None:
    kept = ("+divergence@stage.divergence=k3", "stage.divergence_weight=0.1")
    runs.run("name=loss", *kept, *TWO_OF_EACH)
    runs.run("name=reward", *kept, "stage.divergence_in=reward", *TWO_OF_EACH)
    rows = [row for row in metrics(runs.runs / "loss") if row.get("loss")]
    assert (
        float(rows[0]["rlvr/kl"]) == pytest.approx(0, abs=1e-6) and float(rows[-1]["rlvr/kl"]) > 0
    )
    assert not same(last_weights(runs.runs / "loss"), last_weights(runs.runs / "reward"))
    again = reopened(runs.runs / "loss", runs.runs / "again", 5)
    runs.run("name=again", *kept, *TWO_OF_EACH)
    assert same(last_weights(runs.runs / "loss"), last_weights(again))
    shutil.rmtree(again)
    again = reopened(runs.runs / "loss", runs.runs / "again", 5)
    (again / "reference.safetensors").unlink()
    runs.run("name=again", *kept, *TWO_OF_EACH)
    assert same(last_weights(runs.runs / "loss"), last_weights(again))


VLLM = ("rollouts.engine=vllm", "rollouts.max_new_tokens=12", "scale.tokens.rlvr=4096",
        "environment.temperature=0.8")  # fmt: skip


@pytest.mark.slow
def test_vllm_draws_by_the_weights_as_they_are(
    runs: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{LAB}{os.pathsep}{STANDIN}")
    runs.run("name=drawn", *VLLM, "peak_lr=0.01")
    rows = [row for row in metrics(runs.runs / "drawn") if row.get("loss")]
    assert len(rows) == 4
    # The trainer's log-probabilities of the stand-in's tokens, at its temperature: of other weights
    # they would be others.
    assert all(float(row["rlvr/mismatch_max"]) < 1e-4 for row in rows)
    again = reopened(runs.runs / "drawn", runs.runs / "again", 2)
    runs.run("name=again", *VLLM, "peak_lr=0.01")
    assert same(last_weights(runs.runs / "drawn"), last_weights(again))
    said = runs.run("name=refused", *VLLM, "+rollouts.vllm.nonsense=1", code=2)
    assert "vllm refuses" in said and "unexpected keyword argument 'nonsense'" in said


PPO = ("+rlvr=ppo", *TWO_OF_EACH, "stage.critic.peak_lr=1e-3")


@pytest.fixture(scope="session")
def valued(
    tuned: Path, files: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An undisturbed run with a value model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(LAB))
        trainer = rlvr(tuned, files, data_dir, tmp_path_factory.mktemp("valued"))
        trainer.run("name=ppo", *PPO)
    return trainer.runs / "ppo"


@pytest.mark.slow
def test_values_are_fitted_and_kept(runs: Trainer, valued: Path) -> None:
    rows = [row for row in metrics(valued) if row.get("loss")]
    # Before it is fitted it says 0 of every token, which explains nothing.
    first, second = (float(rows[place]["rlvr/value_explained"]) for place in (0, 4))
    assert first == pytest.approx(0, abs=1e-9) and abs(second) > 1e-6
    assert float(rows[0]["rlvr/value_loss"]) > 0
    rollouts = json.loads((checkpoints(valued)[-1] / "rollouts.json").read_text())
    assert all(len(one["values"]) == len(one["tokens"]) for one in rollouts["rollouts"])
    again = reopened(valued, runs.runs / "again", 3)
    runs.run("name=again", *PPO)
    assert same(last_weights(valued), last_weights(again))
    one, other = (checkpoints(run)[-1] / "critic.safetensors" for run in (valued, again))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_two_processes_go_on_amid_the_steps_of_a_sampling(runs: Trainer) -> None:
    """Between two logged steps, one of them without a sampling: the ranks' figures stay in step."""
    two = ("trainer=ddp", "trainer.devices=2", "optimizer=adamw", *PPO, "log_every_steps=3",
           "validation.every_tokens=0")  # fmt: skip
    runs.run("name=two", *two)
    again = reopened(runs.runs / "two", runs.runs / "again", 5)
    runs.run("name=again", *two)
    assert same(last_weights(runs.runs / "two"), last_weights(again))
    assert metrics(runs.runs / "two") == metrics(again)


@pytest.mark.slow
def test_a_fork_takes_the_values_along(runs: Trainer, valued: Path) -> None:
    runs.run("name=fork", *PPO, f"init_from={valued}", "scale.tokens.rlvr=4096")
    rows = [row for row in metrics(runs.runs / "fork") if row.get("loss")]
    assert abs(float(rows[0]["rlvr/value_explained"])) > 1e-6


@pytest.mark.slow
def test_while_values_alone_are_fitted_the_policy_stays(runs: Trainer, tuned: Path) -> None:
    runs.run("name=fitting", *PPO, "stage.critic.warmup_steps=4", "optimizer.weight_decay=0.5")
    kept = checkpoints(runs.runs / "fitting")
    weights = [checkpoint.read_weights(path) for path in kept]
    begun = checkpoint.read_weights(checkpoints(tuned)[-1])
    assert len(kept) == 8 and all(same(begun, one) for one in weights[:4])
    assert not same(begun, weights[4])
    fitted = [checkpoint.read_weights(path, "critic") for path in kept[:2]]
    assert not same(*fitted)


@pytest.mark.slow
def test_two_processes_fit_the_values_that_one_fits(runs: Trainer) -> None:
    few = (*PPO, "optimizer=adamw", "scale.tokens.rlvr=4096")
    runs.run("name=one", *few)
    runs.run("name=two", "trainer=fsdp", "trainer.devices=2", *few)
    one, two = (
        checkpoint.read_weights(checkpoints(runs.runs / name)[-1], "critic")
        for name in ("one", "two")
    )
    parts = [name for name in one if name.startswith("parts.")]
    assert parts and all(torch.allclose(one[n], two[n], atol=1e-3) for n in parts)
    first, second = (
        [r for r in metrics(runs.runs / name) if r.get("loss")] for name in ("one", "two")
    )
    losses = [[float(row["rlvr/value_loss"]) for row in rows] for rows in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


@pytest.mark.slow
def test_dynamic_sampling_keeps_its_cursor(runs: Trainer) -> None:
    few = ("rollouts.dynamic=true", "rollouts.tries=3", "scale.tokens.rlvr=8192",
           "environment.temperature=0.05")  # fmt: skip
    runs.run("name=dynamic", *few)
    drawn = read_meta(checkpoints(runs.runs / "dynamic")[-1])["cursors"]["outcome"]
    assert drawn > 16
    again = reopened(runs.runs / "dynamic", runs.runs / "again", 4)
    runs.run("name=again", *few)
    assert same(last_weights(runs.runs / "dynamic"), last_weights(again))
    assert read_meta(checkpoints(again)[-1])["cursors"]["outcome"] == drawn


BAD = {
    "no whole groups": (["rollouts.group=3"], ["no whole groups of rollouts.group=3"]),
    "groups of none": (["rollouts.group=0"], ["rollouts.group=0 must be a whole number from 1"]),
    "prompts without room": (
        [f"{OUTCOME}.prompts.path={{files}}/long.jsonl"], [f"{OUTCOME}: all 1 prompts", "seq_len"]
    ),
    "a verifier without grades": (
        [f"reward@{OUTCOME}.rewards.right=verifier"], ["reward=verifier", "no task that grades"]
    ),
    "no rewards": ([f"{OUTCOME}.rewards.right=null"], [f"{OUTCOME}.rewards is empty"]),
    "a weight of no reward": (
        [f"+{OUTCOME}.weights.left=2"], [f"{OUTCOME}.weights.left: there is no such reward"]
    ),
    "greedy answers": (["environment.temperature=0"], ["environment.temperature=0 must be"]),
    "another loss beside": (["+loss@losses.z_loss=z_loss"], ["losses.z_loss: stage=rlvr"]),
    "a source that is not there": (
        ["+phases.outcome.mixture.sums=1"], ["phases.outcome.mixture.sums is not a source"]
    ),
    "more processes than groups": (
        ["trainer=ddp", "trainer.devices=3"], ["3 processes cannot share evenly"]
    ),
    "a key beside one's own choices": (["rollouts.grop=3"], ["in rollouts did you mean group"]),
    "vLLM that is not there": (["rollouts.engine=vllm"], ["vllm cannot be imported", "pip inst"]),
    "vLLM's settings without it": (["+rollouts.vllm.a=1"], ["rollouts.vllm has no effect"]),
    "another sampler": (["rollouts.engine=hf"], ["rollouts.engine='hf' must be one of: plm, vllm"]),
    "an alarm that does nothing": (["stage.alarms.action=no"], ["alarms.action=no is not one"]),
}  # fmt: skip


@pytest.fixture
def refused(runs: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.syspath_prepend(str(LAB))
    monkeypatch.setattr(config, "_TRUSTED", ["plm"])

    def call(*overrides: str) -> str:
        monkeypatch.setattr(sys, "argv", runs.arguments(*overrides))
        try:
            code = main()
        except SystemExit as error:
            code = error.code
        said = capsys.readouterr()
        assert code == 2, said
        assert not runs.runs.exists() or not list(runs.runs.iterdir())
        return told(said.out + said.err)

    return call


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_line(refused, files: Path, case: str) -> None:
    overrides, words = BAD[case]
    line = refused(*(word.replace("{files}", str(files)) for word in overrides))
    assert all(word in line for word in words), line
