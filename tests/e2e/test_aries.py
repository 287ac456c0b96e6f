"""Rounds of preference learning: sampled, trained, killed, gone on with, and refused."""

import json
import random
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from plm import config
from plm.checkpoint import read_meta
from plm.rounds.round import places
from scripts.evaluate import main as evaluate
from tests.e2e.conftest import WORDS, Trainer, last_weights, metrics, reopened
from tests.e2e.test_bad_input import told
from tests.e2e.test_resume import kill_at, same
from train import main

LAB = Path(__file__).resolve().parents[1] / "contracts"
BY_HASH = (f"hydra.searchpath=[file://{LAB}/mylab/configs]", "trust=[mylab]", "reward=by_hash")
# Most answers of a model that has learnt nothing are cut.
ROUND = (
    *BY_HASH, "prompts=rows", "pairing.drop_cut=false", "refinement=short",
    "candidates.max_new_tokens=12", "round.prompts=80", "round.compiled=false",
    "validation.windows=100", "checkpoint.every_tokens=1024", "checkpoint.keep_last=30",
)  # fmt: skip
START = 0.5386294361119891
"""The loss where policy and reference are one, whatever beta is."""


def written(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with conversations, prompts and pairs."""
    draw, folder = random.Random(0), tmp_path_factory.mktemp("aries")
    asked = [" ".join(draw.choice(WORDS) for _ in range(4)) + f" {n}?" for n in range(100)]
    right = [f"{question.split()[1]} {n}." for n, question in enumerate(asked)]
    both = list(zip(asked, right, strict=True))
    written(folder / "chats.jsonl", [{"prompt": q, "completion": a} for q, a in both])
    written(folder / "prompts.jsonl", [{"prompt": question} for question in asked])
    scores = {"score_chosen": 8.0, "score_rejected": 3.0}
    pairs = [
        {
            "prompt": question,
            **{
                key: [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
                for key, said in (("chosen", answer), ("rejected", "rain"))
            },
            **scores,
        }
        for question, answer in both
    ]
    written(folder / "pairs.jsonl", pairs)
    one = {"prompt": asked[0], "chosen": "book", "rejected": "rain", **scores}
    bad = {
        "equal": {**one, "rejected": "book"},
        "empty": {**one, "chosen": " "},
        "long": {**one, "chosen": "the book " * 200},
        "nan": {**one, "score_chosen": float("nan")},
    }
    for name, row in bad.items():
        rows = [{**row, "prompt": question} for question in asked[:5]]
        written(folder / f"{name}.jsonl", rows)
    written(folder / "some_bad.jsonl", [*pairs, *bad.values()])
    return folder


@pytest.fixture(scope="session")
def tuned(
    whole: Path, files: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run that knows conversations, and little else."""
    trainer = Trainer(files / "chats.jsonl", data_dir, tmp_path_factory.mktemp("tuned"), "plm_sft")
    trainer.run("name=tuned", f"init_from={whole}", "scale.tokens.sft=4096")
    return trainer.runs / "tuned"


def aries(tuned: Path, files: Path, data_dir: Path, runs: Path) -> Trainer:
    """Rounds that begin from the tuned run."""
    made = Trainer(files / "pairs.jsonl", data_dir, runs, "plm_aries")
    plain = made.arguments

    def arguments(*overrides: str) -> list[str]:
        own = [word for word in plain() if not word.startswith("data.path=")]
        given = ROUND if made.experiment in ("plm_aries", "plm_refine") else ()
        if given and "prompts=exercises" not in overrides:
            given = (f"prompts.path={files}/prompts.jsonl", *given)
        return [*own, f"init_from={tuned}", *given, *overrides]

    made.arguments = arguments
    return made


@pytest.fixture(scope="session")
def done(
    tuned: Path, files: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An undisturbed round."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(LAB))
        trainer = aries(tuned, files, data_dir, tmp_path_factory.mktemp("rounds"))
        trainer.run("name=done")
    return trainer.runs / "done"


@pytest.fixture
def rounds(
    tuned: Path, files: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Trainer:
    monkeypatch.setenv("PYTHONPATH", str(LAB))
    return aries(tuned, files, data_dir, tmp_path / "runs")


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("tokens-*"))


def noted(run: Path, name: str = "samples.jsonl") -> list[dict]:
    lines = (run / "round" / name).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def test_a_whole_round(done: Path) -> None:
    stats = json.loads((done / "round/statistics.json").read_text())
    samples, pairs = noted(done), noted(done, "pairs.jsonl")
    assert [row["index"] for row in samples] == list(range(80))
    assert stats["prompts"] == 80 and stats["pairs"]["kept"] == len(pairs) > 40
    assert len(pairs) + sum(stats["pairs"]["dropped"].values()) == 80
    turns = [[answer["turn"] for answer in row["answers"]] for row in samples]
    assert turns == [[0, 1]] * 80
    assert "<script" in (done / "round/chains.html").read_text()
    last = checkpoints(done)[-1]
    assert {"round.samples.jsonl", "reference.safetensors"} <= {p.name for p in last.iterdir()}
    stored = (last / "round.samples.jsonl").read_bytes()
    assert stored == (done / "round/samples.jsonl").read_bytes()
    meta = read_meta(last)
    assert meta["stage"] == "preference" and meta["tokens_seen"] == 8192
    assert meta["round"] == json.loads((done / "round/round.json").read_text())
    assert (meta["round"]["first"], meta["round"]["next"]) == (0, 80)
    assert len(meta["round"]["prompts"]) == len(meta["round"]["samples"]) == 64
    assert meta["refinement"]["text"].startswith("{question}\nShown answer:")
    assert len(meta["refinement"]["sha256"]) == 64
    assert "<h2>Round" in (done / "report.html").read_text()


def test_the_first_step_is_at_the_reference(done: Path) -> None:
    found = read_meta(checkpoints(done)[0])["val_before"]["pairs"]
    assert found["loss"] == pytest.approx(START, abs=1e-6)
    assert found["margin"] == found["accuracy"] == 0
    first, *later = [row for row in metrics(done) if row.get("loss")]
    names = {name.removeprefix("pref/") for name in first if name.startswith("pref/")}
    kinds = ("nothing", "worse", "better")
    assert names == {
        "accuracy", "margin", "kl", "beta_d_worse", "beta_d_better",
        *(f"{name}_{kind}" for name in ("d", "accuracy") for kind in kinds),
        *(f"{side}_{name}" for side in ("chosen", "rejected") for name in ("logp", "tokens")),
    }  # fmt: skip
    assert float(first["pref/margin"]) == float(first["pref/kl"]) == 0
    # Parts of a kind lie unevenly in a step: their own losses are what is fixed.
    assert 0.4 < float(first["loss"]) < 0.62
    assert all(float(row["pref/margin"]) and float(row["pref/kl"]) for row in later)


def test_evaluation_shows_answers_as_they_were_trained(done: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "figures.json"
    settings = ["tasks=[exercises]", "n=1", "refine=1", "temperature=1.0", "max_new_tokens=4"]
    assert evaluate([f"run={done}", f"out={out}", *settings]) == 0
    assert "refinement text: the checkpoint's own" in capsys.readouterr().out
    trained = read_meta(checkpoints(done)[-1])["refinement"]
    asked = json.loads(out.read_text())["tasks"]["exercises"]
    assert asked["settings"]["refinement"] == trained["sha256"]


def test_the_next_round_goes_on_behind_its_prompts(rounds: Trainer, done: Path) -> None:
    few = ("round.prompts=15", "scale.tokens.preference=1024")
    out = rounds.run("name=next", f"init_from={done}", *few)
    said = json.loads((rounds.runs / "next/round/round.json").read_text())
    before = read_meta(checkpoints(done)[-1])["round"]
    assert (said["first"], said["next"]) == (before["next"], 95)
    assert said["prompts"] == before["prompts"] and "weights from" in out
    names = {row["name"] for row in noted(done)} | {
        row["name"] for row in noted(rounds.runs / "next")
    }
    assert len(names) == 95 == len(set(places(100, 0, 95, 0)))
    # It begins where the first one ended, which is its reference now.
    row = metrics(rounds.runs / "next")[0]
    assert float(row["val/pairs/loss"]) == pytest.approx(START, abs=1e-6)


@pytest.mark.slow
def test_other_prompts_begin_at_their_first_and_unknown_scores_are_counted(
    rounds: Trainer, done: Path, files: Path, tmp_path: Path
) -> None:
    lines = (files / "prompts.jsonl").read_text().splitlines()[:50]
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(lines))
    few = ("round.prompts=20", "scale.tokens.preference=1024", "reward.unknown=30")
    out = rounds.run("name=other", f"init_from={done}", f"prompts.path={other}", *few)
    said = json.loads((rounds.runs / "other/round/round.json").read_text())
    assert (said["first"], said["next"]) == (0, 20) and "other prompts than those" in out
    stats = json.loads((rounds.runs / "other/round/statistics.json").read_text())["pairs"]
    assert stats["unused"]["no score"] > 3 and stats["kept"] > 3
    assert stats["kept"] + sum(stats["dropped"].values()) == 20


@pytest.mark.slow
def test_killed_equals_undisturbed(
    rounds: Trainer, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = rounds.runs / "killed"
    # Within the second portion of prompts; two answers each.
    monkeypatch.setenv("MYLAB_KILLED_AT", "100")
    rounds.run("name=killed", code=-signal.SIGKILL)
    monkeypatch.delenv("MYLAB_KILLED_AT")
    (journal,) = (run / "round").glob("*.part")
    assert len(journal.read_text().split("\n")[:-1]) == 32
    process = rounds.start("name=killed")
    assert kill_at(process, run, 4, signal.SIGKILL) == -signal.SIGKILL
    assert (run / "round/samples.jsonl").read_bytes() == (done / "round/samples.jsonl").read_bytes()
    # Samples that are drawn a second time would end the process.
    monkeypatch.setenv("MYLAB_KILLED_AT", "1")
    assert checkpoints(run)
    process = rounds.start("name=killed")
    assert kill_at(process, run, 6, signal.SIGKILL) == -signal.SIGKILL
    shutil.rmtree(run / "round")
    assert "going on at" in rounds.run("name=killed")
    assert same(last_weights(done), last_weights(run))
    assert metrics(done) == metrics(run)
    for name in ("samples.jsonl", "pairs.jsonl", "round.json", "statistics.json"):
        assert (run / "round" / name).read_bytes() == (done / "round" / name).read_bytes()


@pytest.mark.slow
def test_a_copy_without_its_round_goes_on(rounds: Trainer, done: Path) -> None:
    again = reopened(done, rounds.runs / "again", keep=3)
    shutil.rmtree(again / "round")
    rounds.run("name=again")
    assert same(last_weights(done), last_weights(again)) and metrics(done) == metrics(again)


@pytest.mark.slow
def test_two_processes_sample_what_one_does(
    rounds: Trainer, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = ("trainer=ddp", "trainer.devices=2")
    run = rounds.runs / "two"
    # The one with two portions of prompts dies, the other has nothing left to wait for.
    monkeypatch.setenv("MYLAB_KILLED_AT", "65")
    rounds.run("name=two", *two, code=128 + signal.SIGKILL)
    assert len(list((run / "round").glob("*.part"))) == 2
    monkeypatch.delenv("MYLAB_KILLED_AT")
    rounds.run("name=two", *two)
    for name in ("samples.jsonl", "pairs.jsonl", "round.json"):
        assert (run / "round" / name).read_bytes() == (done / "round" / name).read_bytes()
    losses = [[float(row["loss"]) for row in metrics(r) if row.get("loss")] for r in (done, run)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    # A figure of a kind of part is one of both processes, whether or not both have such parts.
    columns = [{n for n in metrics(r)[-1] if n.startswith("pref/")} for r in (done, run)]
    assert columns[0] == columns[1]


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "start"), [("dpo", 0.6931472), ("simpo", None), ("kto", 0.5)])
def test_pairs_that_are_there(rounds: Trainer, files: Path, loss: str, start: float | None) -> None:
    rounds.experiment = "plm_preference"
    few = (
        "scale.tokens.preference=4096",
        "validation.windows=100",
        "scale.peak_lr.preference=5e-3",
    )
    path = f"data.path={files}/some_bad.jsonl"
    rounds.run(f"name={loss}", f"preference={loss}", path, *few)
    run = rounds.runs / loss
    manifest = json.loads((run / "manifest.json").read_text())["sources"]["pairs"]["steps"]
    assert sum(manifest["read"]["dropped"].values()) == 3
    assert manifest["encoding"]["dropped"] == {"longer than block_tokens": 1}
    needs = start is not None
    last = checkpoints(run)[-1]
    assert (last / "reference.safetensors").is_file() == needs
    assert not (run / "round").exists() and "round" not in read_meta(last)
    rows = [row for row in metrics(run) if row.get("val/pairs/loss")]
    if needs:
        assert float(rows[0]["val/pairs/loss"]) == pytest.approx(start, abs=1e-6)
    assert float(rows[-1]["val/pairs/loss"]) < float(rows[0]["val/pairs/loss"])
    assert float(rows[-1]["val/pairs/margin"]) > float(rows[0]["val/pairs/margin"])


@pytest.mark.slow
def test_refinements_are_learnt_first(rounds: Trainer) -> None:
    rounds.experiment = "plm_refine"
    few = ("round.prompts=40", "scale.tokens.refinements=2048")
    out = rounds.run("name=refine", *few, code=2)
    assert "round.solutions=true, but the prompts have none" in out
    rounds.run("name=refine", *few, "round.solutions=false")
    run = rounds.runs / "refine"
    meta = read_meta(checkpoints(run)[-1])
    assert meta["stage"] == "sft" and meta["round"]["next"] == 40
    assert meta["refinement"]["text"].startswith("{question}\nShown answer:")
    rows = [row for row in metrics(run) if row.get("loss")]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


@pytest.mark.slow
def test_a_reward_model_scores_exercises(rounds: Trainer, tuned: Path, tmp_path: Path) -> None:
    import torch
    from transformers import (
        LlamaConfig,
        LlamaForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    kind = {"num_attention_heads": 2, "num_labels": 1, "pad_token_id": 0}
    LlamaForSequenceClassification(LlamaConfig(vocab_size=512, **sizes, **kind)).save_pretrained(
        tmp_path / "judge"
    )
    file = str(checkpoints(tuned)[-1] / "tokenizer.json")
    PreTrainedTokenizerFast(tokenizer_file=file).save_pretrained(tmp_path / "judge")
    rounds.run(
        "name=judged", "reward=reward_model", f"reward.model={tmp_path / 'judge'}",
        "prompts=exercises", "prompts.n=10", "round.prompts=32",
        "candidates.answers=4", "candidates.turns=0", "scale.tokens.preference=1024",
        "preference=dpo",
    )  # fmt: skip
    stats = json.loads((rounds.runs / "judged/round/statistics.json").read_text())
    scores = [a["score"] for row in noted(rounds.runs / "judged") for a in row["answers"]]
    # What was cut has 0 unasked.
    assert stats["pairs"]["kept"] > 0 and len({score for score in scores if score}) > 3
    assert all(0 <= score < 1 for score in scores)


BAD = {
    "a template without the question": (
        ["refinement.text='Better than {answer}'"], ["refinement has no place {question}"]
    ),
    "no template": (["refinement.text=null"], ["refinement=None is no text", "{answer}"]),
    "no beta": (["preference.beta=0"], ["preference.beta=0 must be a number above 0"]),
    "pairs that are there": (
        ["data.path=pairs.jsonl"], ["data.path=pairs.jsonl", "+experiment=plm_preference"]
    ),
    "nothing to begin from": (["init_from=null"], ["needs init_from=<run"]),
    "no model there": (["init_from=nowhere"], ["init_from=nowhere does not exist"]),
    "a model without conversations": (
        ["init_from={whole}"], ["knows no conversations", "+experiment=plm_sft"]
    ),
    "no reference there": (["reference=nowhere"], ["reference=nowhere does not exist"]),
    "a verifier without grades": (
        ["reward=verifier"], ["reward=verifier", "reward=reward_model or reward=rule"]
    ),
    "no prompts": (["prompts.path=null"], ["prompts.path is missing"]),
    "no file of prompts": (["prompts.path=nowhere.jsonl"], ["nowhere.jsonl cannot be read"]),
    "another loss beside": (
        ["+loss@losses.z_loss=z_loss"], ["losses.z_loss", "set losses.z_loss=null"]
    ),
    "a loss for tokens": (
        ["losses.cross_entropy={_target_:plm.loss.cross_entropy.cross_entropy,_partial_:true}"],
        ["losses.cross_entropy: stage=preference has its loss in `preference`"],
    ),
    "a loss that is not known": (
        ["preference=dop"], ["preference=dop is not a choice; did you mean dpo"]
    ),
    "windows of another length": (
        ["phases.pairs.seq_len=128"], ["phases.pairs", "set seq_len=256"]
    ),
    "more processes than windows": (
        ["trainer=ddp", "trainer.devices=3"], ["3 processes cannot share evenly"]
    ),
    "fewer answers than must agree": (
        ["pairing=agreeing"], ["pairing.turns=3", "candidates.turns=3"]
    ),
    "a number of prompts that is none": (["round.prompts=many"], ["round.prompts=many must be"]),
    "a setting that a choice does not take": (
        ["+pairing.foo=1"], ["pairing: best_worst", "'foo'"]
    ),
}  # fmt: skip


@pytest.fixture
def refused(rounds: Trainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    """Runs train.py in this process; the one line that it says."""
    monkeypatch.syspath_prepend(str(LAB))
    monkeypatch.setattr(config, "_TRUSTED", ["plm"])

    def call(*overrides: str) -> str:
        monkeypatch.setattr(sys, "argv", rounds.arguments(*overrides))
        try:
            code = main()
        except SystemExit as error:
            code = error.code
        said = capsys.readouterr()
        assert code == 2, said
        assert not rounds.runs.exists() or not list(rounds.runs.iterdir())
        return told(said.out + said.err)

    return call


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_line(refused, whole: Path, case: str) -> None:
    overrides, words = BAD[case]
    line = refused(*(word.replace("{whole}", str(whole)) for word in overrides))
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("equal", ["equal answers 5", "equal.jsonl, row 1"]),
        ("empty", ["empty answer 5", "chosen says nothing"]),
        ("long", ["longer than block_tokens 5", "long.jsonl, row"]),
        ("nan", ["score is not a number 5", "nan.jsonl, row 1"]),
    ],
)
def test_pairs_of_no_use(refused, rounds: Trainer, files: Path, name: str, words: list) -> None:
    rounds.experiment = "plm_preference"
    line = refused(f"data.path={files / name}.jsonl")
    assert line.startswith("source pairs") and all(word in line for word in words), line


def test_no_pair_is_left(rounds: Trainer) -> None:
    cut = ("pairing.drop_cut=true", "candidates.max_new_tokens=4", "round.prompts=4")
    out = rounds.run("name=none", *cut, code=2).splitlines()
    assert "round: no pair is left of 4 prompts (4 no usable answer; their answers:" in out[-1]
    assert out[-1].endswith("raise candidates.max_new_tokens, or fine-tune longer")
    # What was sampled took long, and says what was wrong; nothing else is there.
    assert not (rounds.runs / "none/checkpoints").exists()
    assert not (rounds.runs / "none/round/pairs.jsonl").exists()
    assert len(noted(rounds.runs / "none")) == 4
    assert rounds.run("name=none", *cut, code=2).splitlines()[-1] == out[-1]
