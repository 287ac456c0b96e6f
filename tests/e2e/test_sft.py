"""Fine-tuning on conversations: a base run learns to answer; killed, adapted, shared out."""

import json
import random
import re
import signal
from pathlib import Path

import pytest
import torch

from plm.checkpoint import read_meta
from plm.data import tokenizer as bpe
from plm.formats.chat import Chat
from plm.model.linear.lora import LoRA
from plm.pretrained import load
from plm.rollout.engine import Engine
from plm.rollout.sampling import Sampling
from scripts.inspect_batch import main as inspect_batch
from tests.e2e.conftest import CHECKPOINTS, WORDS, Trainer, last_weights, metrics
from tests.e2e.test_resume import kill_at, same


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions whose answer is the question's second word; some rows are of no use."""
    draw, lines = random.Random(0), []
    for number in range(600):
        words = [draw.choice(WORDS) for _ in range(4)]
        lines.append({"prompt": " ".join(words) + f" {number}?", "completion": f"{words[1]}."})
    lines += [
        {"prompt": "nothing?", "completion": " "},
        {"messages": [{"role": "assistant", "content": "I begin."}]},
        {"messages": [{"role": "bard", "content": "Sing."}]},
        {"prompt": "a long one", "completion": "the book " * 200},
    ]
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def tuner(whole: Path, chats: Path, data_dir: Path, tmp_path: Path) -> Trainer:
    made = Trainer(chats, data_dir, tmp_path / "runs", "plm_sft")
    plain = made.arguments
    made.arguments = lambda *overrides: plain(f"init_from={whole}", *overrides)
    return made


def test_a_base_model_learns_to_answer(tuner: Trainer, whole: Path, capsys) -> None:
    # Long enough for the loss to fall, not for the task to be learnt.
    out = tuner.run("name=sft", "samples.number=2")
    run = tuner.runs / "sft"
    rows = [row for row in metrics(run) if row.get("loss")]
    assert {row["phase"] for row in rows} == {"general", "special"}
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    meta = read_meta(sorted((run / "checkpoints").glob("tokens-*"))[-1])
    assert meta["stage"] == "sft" and meta["tokens_seen"] == 17408
    assert meta["origin"]["path"].startswith(str(whole))
    assert "[conversations]" in out
    # No n-grams are counted of conversations: no head for them.
    assert "held-out" in out and "n-grams" not in out
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    steps = manifest["sources"]["conversations"]["steps"]
    assert steps["read"]["dropped"] == {
        "empty answer": 1, "does not alternate": 1, "unknown role": 1
    }  # fmt: skip
    assert steps["encoding"]["dropped"] == {"longer than block_tokens": 1}
    found = load(run)
    assert found.chat_template == meta["chat_template"] and "im_start" in found.chat_template
    prompt = Chat.of(found).prompt([{"role": "user", "content": "the old town reads 7?"}])
    (answer,) = Engine.of(found).generate([prompt], Sampling(max_new_tokens=8))
    assert 1 <= len(answer.tokens) <= 8
    assert inspect_batch([f"run={run}", "step=0"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  > ")]
    # What is trained on is an answer to its end, and nothing else.
    assert lines and all(re.fullmatch(r"  > \w+\.<\|im_end\|>", line) for line in lines)


def test_the_schedule_starts_anew_in_each_phase(tuner: Trainer) -> None:
    tuner.run("name=rates")
    rows = [row for row in metrics(tuner.runs / "rates") if row.get("lr")]
    for phase in ("general", "special"):
        rates = [float(row["lr"]) for row in rows if row["phase"] == phase]
        assert max(rates) == pytest.approx(2e-3, rel=0.2) and rates[-1] < 1e-6 < rates[0]


@pytest.mark.slow
def test_killed_equals_undisturbed(tuner: Trainer) -> None:
    settings = (CHECKPOINTS, "+callbacks@callbacks.neftune=neftune")
    tuner.run("name=whole", *settings)
    process = tuner.start("name=killed", *settings)
    assert kill_at(process, tuner.runs / "killed", 7, signal.SIGKILL) == -signal.SIGKILL
    tuner.run("name=killed", *settings)
    whole, killed = tuner.runs / "whole", tuner.runs / "killed"
    assert same(last_weights(whole), last_weights(killed))
    assert metrics(whole) == metrics(killed)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_learn_as_one(tuner: Trainer, strategy: str) -> None:
    noise = "+callbacks@callbacks.neftune=neftune"
    tuner.run("name=one", noise)
    tuner.run("name=two", noise, f"trainer={strategy}", "trainer.devices=2")
    one, two = last_weights(tuner.runs / "one"), last_weights(tuner.runs / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-2, atol=1e-3)
    # The noise of a row is the same whichever process has it.
    losses = [
        [float(row["loss"]) for row in metrics(tuner.runs / name) if row.get("loss")]
        for name in ("one", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_adapters_learn_and_the_rest_stays(tuner: Trainer, whole: Path) -> None:
    tuner.experiment = "plm_sft_lora"
    tuner.run("name=lora", "scale.peak_lr.sft=5e-3")
    run, base = tuner.runs / "lora", last_weights(whole)
    found = last_weights(run)
    adapters = {name for name in found if ".lora_" in name}
    assert adapters and set(found) - adapters == set(base)
    assert all(torch.equal(found[name], value) for name, value in base.items())
    assert all(found[name].any() for name in adapters if name.endswith("lora_b"))
    rows = [row for row in metrics(run) if row.get("loss")]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    # What is loaded is plain: it can be exported, and says what the adapted one says.
    merged = load(run).model
    assert not any(isinstance(part, LoRA) for part in merged.modules())
    part, name = merged.layers[0].mlp.up_proj, "layers.0.mlp.up_proj"
    update = found[f"{name}.lora_b"] @ found[f"{name}.lora_a"] * 2.0
    torch.testing.assert_close(part.weight, base[f"{name}.weight"] + update)


@pytest.mark.slow
def test_adapters_on_two_processes_go_on_where_they_were_stopped(tuner: Trainer) -> None:
    tuner.experiment = "plm_sft_lora"
    both = ("trainer=fsdp", "trainer.devices=2", CHECKPOINTS)
    tuner.run("name=one", "trainer=fsdp", "trainer.devices=2")
    process = tuner.start("name=stopped", *both)
    assert kill_at(process, tuner.runs / "stopped", 9, signal.SIGTERM) == 75
    tuner.run("name=stopped", *both)
    assert same(last_weights(tuner.runs / "one"), last_weights(tuner.runs / "stopped"))


@pytest.mark.slow
def test_a_run_with_adapters_is_gone_on_from_without_them(tuner: Trainer) -> None:
    tuner.experiment = "plm_sft_lora"
    tuner.run("name=lora")
    tuner.experiment = "plm_sft"
    out = tuner.run("name=on", f"init_from={tuner.runs / 'lora'}", "init=weights")
    lora, on = load(tuner.runs / "lora").model, load(tuner.runs / "on").model
    assert "weights from" in out
    names = {name for name, _ in on.named_parameters()}
    assert names == {name for name, _ in lora.named_parameters()}
    rows = [row for row in metrics(tuner.runs / "on") if row.get("loss")]
    before = [row for row in metrics(tuner.runs / "lora") if row.get("loss")]
    assert float(rows[0]["loss"]) < float(before[0]["loss"])


def test_noise_makes_it_another_run(tuner: Trainer) -> None:
    from plm.run import RunFolder

    def folder(callbacks: dict) -> str:
        settings = {"runs_dir": "runs", "experiment_name": "x", "callbacks": callbacks}
        return RunFolder.choose(settings).path.name

    def noise(alpha: float) -> dict:
        return {"neftune": {"_target_": "plm.callbacks.neftune.NEFTune", "alpha": alpha}}

    watched = {"profiler": {"_target_": "plm.callbacks.profiler.Profiler"}}
    assert folder({}) == folder(watched)
    assert len({folder({}), folder(noise(5.0)), folder(noise(6.0))}) == 3


BAD = {
    "nothing to begin from": (["init_from=null"], ["model=init_from", "needs init_from="]),
    "no conversations": (["data.path={text}"], ["book.txt", "no file with conversations"]),
    "windows of another length": (
        ["phases.special.seq_len=64", "phases.special.global_batch_tokens=1024"],
        ["phases.special", "packed in windows of 128", "seq_len=128"],
    ),
    "a template that does not parse": (
        ["data.chat_template={template}"], ["data.chat_template=", "broken.jinja does not parse"]
    ),
    "another model's tokenizer": (
        ["data.tokenizer={tokenizer}"],
        ["the data's tokenizer is not that of init_from=", "data.tokenizer=init_from takes it"],
    ),
    "what cannot become of a bad row": (
        ["data.bad_rows=keep"], ["data.bad_rows=keep: one of skip, error"]
    ),
    "a pattern that names nothing": (
        ["+phases.special.trainable=['*.lora_a']"],
        ["phases.special.trainable=*.lora_a matches no parameter"],
    ),
    "an adapter of no rank": (
        ["+model/linear=lora", "model.linear.rank=0"], ["model.linear.rank=0"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_line(tuner: Trainer, text: Path, case: str, capsys, monkeypatch) -> None:
    import sys

    from tests.e2e.test_bad_input import told
    from train import main

    overrides, words = BAD[case]
    template, other = tuner.runs.parent / "broken.jinja", tuner.runs.parent / "other.json"
    template.write_text("{% if %}", encoding="utf-8")
    bpe.save(bpe.train(["other words"], vocab_size=300, special_tokens=["<|e|>"]), other)
    overrides = [o.replace("{text}", str(text)).replace("{template}", str(template))
                 .replace("{tokenizer}", str(other)) for o in overrides]  # fmt: skip
    monkeypatch.setattr(sys, "argv", tuner.arguments(*overrides))
    try:
        code = main()
    except SystemExit as error:
        code = error.code
    said = capsys.readouterr()
    line = told(said.out + said.err)
    assert code == 2 and all(word in line for word in words), line
    assert not tuner.runs.exists() or not list(tuner.runs.iterdir())
