"""The batch of a step on the terminal: head, rows, documents, colours, one-line mistakes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from plm.data.open import open_data
from plm.data.prepare import prepare
from plm.data.recipe import load_recipe
from scripts.inspect_batch import choose_rows, harmless, main

ROOT = Path(__file__).resolve().parents[2]
EVIL = "clear \x1b[2J\x1b]0;title\x07 \u202e \x9b1m here\n"


def settings_of(recipe: Path, text: Path, data: Path) -> dict:
    shared = {"global_batch_tokens": 512, "seq_len": 64}
    stable = {**shared, "tokens": 1024, "mixture": {"text": 1, "evil": 1}}
    joined = {**shared, "tokens": 512, "mixture": {"text": 1}, "isolate_documents": False}
    return {
        "stage": {"_target_": "plm.stages.pretrain.Pretrain"},
        "model": {"hidden_size": 32},
        "optimizer": {"_target_": "plm.optimizer.adamw.adamw"},
        "schedule": {"_target_": "plm.schedule.wsdc.wsdc", "_partial_": True},
        "scaling": {"_target_": "plm.scaling.sqrt_batch.sqrt_batch", "_partial_": True},
        "scale": {"base_batch_tokens": 128},
        "phases": {
            "stable": {**stable, "rate": {"shape": "hold", "to": 1.0, "warmup_tokens": 1024}},
            "joined": {**joined, "rate": {"shape": "linear", "to": 0.5}},
        },
        "data": {
            "recipe": str(recipe), "path": str(text), "dir": str(data), "vocab_size": 300,
            "block_tokens": 64, "seed": 0, "workers": 1, "allow_changed": False,
        },
        "seed": 0, "peak_lr": 0.01, "init_from": None, "init": "auto",
    }  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(settings, fingerprint): short documents, of which one has escape sequences in its text."""
    folder = tmp_path_factory.mktemp("inspect")
    text = folder / "text"
    text.mkdir()
    for i in range(40):
        (text / f"note{i}.txt").write_text(f"{i} green bottles on the wall {EVIL}" * (1 + i % 3))
    origin = {"_target_": "plm.data.sources.files.files", "path": "$path"}
    source = {"origin": origin, "licence": "none", "revision": "1"}
    source["split"] = {"by": "group", "val_share": 0.1}
    recipe = folder / "tiny.yaml"
    content = {"sources": {"text": source, "evil": source}, "tokenizer": {"sample_bytes": 50_000}}
    recipe.write_text(yaml.safe_dump(content))
    prepared = prepare(
        load_recipe(recipe), data_dir=folder / "data", vocab_size=300, block_tokens=64, workers=1,
        path=str(text),
    )  # fmt: skip
    return settings_of(recipe, text, folder / "data"), prepared.fingerprint


@pytest.fixture
def run(made, tmp_path):
    """`run(fingerprint=None, **settings)`: a run folder, with a manifest if a print is given."""

    def make(fingerprint: str | None = None, **change) -> str:
        (tmp_path / "config.yaml").write_text(
            yaml.safe_dump({**made[0], **change}, sort_keys=False)
        )
        if fingerprint:
            (tmp_path / "manifest.json").write_text(json.dumps({"fingerprint": fingerprint}))
        return f"run={tmp_path}"

    return make


def test_head_and_rows(run, made, capsys):
    assert main([run(made[1]), "step=1", "rows=0-1,7"]) == 0
    out = capsys.readouterr().out
    head = dict(re.findall(r"^(\w+) +(.*)", out, re.MULTILINE)[:8])
    assert head["step"] == "1 of 0 to 2; row 2 of metrics.csv"
    assert head["phase"] == "stable: its step 1 of 0 to 1; documents isolated"
    assert head["tokens_seen"] == "512 before the step, 1,024 after it, 1,536 at the end"
    # Warmed up at the end of this step, and twice the peak for a batch four times the base's.
    assert head["rate"] == "1.0000 of the peak times 2 for the batch: 0.02"
    assert head["batch"] == "8 rows of 64 tokens: text 4, evil 4"
    assert re.findall(r"^row (\d+): (\w+), epoch 0, token", out, re.MULTILINE) == [
        ("0", "text"), ("1", "evil"), ("7", "evil"),
    ]  # fmt: skip
    assert "green bottles on the wall" in out


def test_documents_are_named_and_dropped_labels_counted(run, capsys):
    assert main([run(), "step=0", "rows=all"]) == 0
    out = capsys.readouterr().out
    head, *rows = out.split("\nrow ")
    total = int(re.search(r"labels +\d+ kept, (\d+) dropped", head)[1])
    assert total == sum(int(re.search(r"; labels dropped: (\d+)", row)[1]) for row in rows) > 0
    for row in rows:
        dropped = int(re.search(r"; labels dropped: (\d+)", row)[1])
        documents = re.findall(r"^  note\d+\.txt, tokens ([\d,]+) to ", row, re.MULTILINE)
        inside = len(re.findall(r"^  ---- boundary at position", row, re.MULTILINE))
        assert inside == len(documents) - 1
        assert set(documents[1:]) <= {"0"}
        assert dropped == inside + row.count("---- boundary after the window")


def test_documents_that_are_not_isolated_have_no_boundary(run, capsys):
    assert main([run(), "step=2", "rows=all"]) == 0
    out = capsys.readouterr().out
    assert "joined: its step 0 of 0 to 0; documents not isolated" in out
    assert "512 kept, 0 dropped" in out
    assert "boundary" not in out
    assert len(re.findall(r"^  note\d+\.txt, tokens", out, re.MULTILINE)) > 8


def test_only_the_rows_of_a_source(run, capsys):
    assert main([run(), "step=0", "source=evil"]) == 0
    assert set(re.findall(r"^row \d+: (\w+)", capsys.readouterr().out, re.MULTILINE)) == {"evil"}
    assert main([run(), "step=0", "rows=0", "source=evil"]) == 0
    assert "none of these rows is of evil" in capsys.readouterr().out


def test_more_rows_than_the_first_are_said(run, made, capsys):
    phases = {"one": {**made[0]["phases"]["joined"], "tokens": 1024, "global_batch_tokens": 1024}}
    assert main([run(phases=phases), "step=0"]) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"^row \d+:", out, re.MULTILINE)) == 8
    assert out.endswith("\n8 more rows; rows=all shows them\n")


def test_colors_only_where_they_are_wanted(run, capsys, monkeypatch):
    folder = run()

    def shown(*more: str) -> str:
        assert main([folder, "step=0", "rows=all", *more]) == 0
        return capsys.readouterr().out

    assert "\x1b" not in shown()
    colored = shown("color=always")
    # Two documents next to each other differ.
    assert {"36", "33"} <= set(re.findall(r"\x1b\[(\d\d)m", colored))
    assert re.sub(r"\x1b\[[\d;]+m", "", colored) == shown("color=never")
    # With no line inside an escape: a pager ends colours at the end of a line.
    assert all(line.count("\x1b[0m") * 2 == line.count("\x1b") for line in colored.split("\n"))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" in shown()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in shown()


def test_nothing_of_the_text_reaches_the_terminal_raw(run, capsys):
    assert main([run(), "step=0", "rows=all", "color=never"]) == 0
    out = capsys.readouterr().out
    assert r"\x1b[2J\x1b]0;title\x07 \u202e \x9b1m here" in out
    assert all(char == "\n" or char.isprintable() for char in out)
    assert harmless("a\tb\r\n\x1b\x7f\u2028\u200d\U000e0001 ñ 好\u3000é ½") == (
        "a\tb\\r\n\\x1b\\x7f\\u2028\\u200d\\U000e0001 ñ 好\u3000é ½"
    )


def test_a_run_forked_at_tokens_seen_goes_on_from_there(run, made, tmp_path, capsys):
    origin = {"path": "x", "tokens_seen": 4096, "cursors": {"text": 128, "evil": 0}}
    folder = tmp_path / "checkpoints" / f"tokens-{4608:015d}"
    folder.mkdir(parents=True)
    meta = {"format": 1, "files": {}, "origin": origin, "fingerprint": made[1]}
    (folder / "meta.json").write_text(json.dumps(meta))
    # The recipe may be gone: the checkpoint says which data it was.
    data = {**made[0]["data"], "recipe": "nothing_of_this_name"}
    assert main([run(data=data), "step=1"]) == 0
    out = capsys.readouterr().out
    assert "4,608 before the step, 5,120 after it, 5,632 at the end" in out


MISTAKES = [
    (["step=3"], "step=3 is past the end: this run has 3 steps, from 0"),
    (["step=last"], "step=last is not a whole number from 0 up"),
    (["step=0", "rows=8"], "rows=8: this step has the rows 0 to 7"),
    (["step=0", "rows=3-1"], "rows=3-1: this step has the rows 0 to 7"),
    (["step=0", "rows=x"], "rows=x: 'x' is not like 3 or 0-3; all shows every row"),
    (["step=0", "source=web"], "source=web is not in phase stable: text, evil"),
    (["step=0", "color=yes"], "color=yes is not auto, always or never"),
    (["step=0", "row=1"], "'row=1' is not one of run=…, step=…, rows=…"),
    ([], "step=… is missing"),
]


@pytest.mark.parametrize(("arguments", "text"), MISTAKES)
def test_a_mistake_is_one_line(arguments, text, run, capsys):
    assert main([run(), *arguments]) == 2
    shown = capsys.readouterr()
    assert text in shown.err
    assert shown.err.count("\n") == 1
    assert not shown.out


def test_what_is_not_there_is_one_line(run, made, tmp_path, capsys):
    def error(*arguments: str) -> str:
        assert main([*arguments, "step=0"]) == 2
        shown = capsys.readouterr()
        assert shown.err.count("\n") == 1
        return shown.err

    assert "is not a run folder" in error(f"run={tmp_path / 'none'}")
    here, other = made[1][:12], "0" * 64
    assert f"has fingerprint {here}" in error(run(other))
    assert f"has {other[:12]}: a step would name other text" in error(run(other))
    moved = {**made[0]["data"], "dir": str(tmp_path / "nowhere")}
    assert "no prepared data with fingerprint 000000000000, as " in error(run(data=moved))
    (tmp_path / "manifest.json").unlink()
    assert "nowhere: no prepared data; prepare this run's data again" in error(run(data=moved))
    assert "its config.yaml has no phases" in error(run(phases={}))
    (tmp_path / "config.yaml").write_text("a: [\n")
    assert "config.yaml is not YAML" in error(f"run={tmp_path}")


def test_rows():
    assert choose_rows("", 3) == choose_rows("all", 3) == [0, 1, 2]
    assert choose_rows("5,0-2,1", 6) == [0, 1, 2, 5]


def test_weights_by_the_sources_own_sizes(run, made, capsys):
    by_size = {"text": "tokens", "evil": "tokens"}
    phases = {"one": {**made[0]["phases"]["stable"], "mixture": by_size}}
    assert main([run(made[1], phases=phases), "step=0"]) == 0
    assert "text 4, evil 4" in capsys.readouterr().out


def test_pairs(made, tmp_path, capsys):
    rows = [
        {"prompt": f"{i} + 2?", "chosen": f"{i + 2}.", "rejected": f"{i + 3}."} for i in range(60)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {**made[0]["data"], "recipe": "pairs", "path": str(tmp_path / "pairs.jsonl")}
    data |= {"shown": ["worse"], "refinement": "{question} Not {answer}", "block_tokens": 128}
    open_data(data)
    rate = {"shape": "hold", "to": 1.0}
    phase = {"tokens": 512, "global_batch_tokens": 256, "seq_len": 128, "mixture": {"pairs": 1}}
    settings = {**made[0], "data": data, "phases": {"one": {**phase, "rate": rate}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    assert main([f"run={tmp_path}", "step=0"]) == 0
    out = capsys.readouterr().out
    number = int(re.search(r"^pairs +(\d+) parts, each", out, re.MULTILINE)[1])
    said = re.findall(
        r"^  pairs\.jsonl \(worse shown\):(\d+), (\w+) answer, tokens 0 to", out, re.MULTILINE
    )
    assert [side for _, side in said] == ["better", "worse"] * number
    assert [row for row, _ in said[::2]] == [row for row, _ in said[1::2]]
    for (row, side), text in zip(said, re.findall(r"^  > (.*)", out, re.MULTILINE), strict=True):
        answer = rows[int(row) - 1]["chosen" if side == "better" else "rejected"]
        assert text == f"{answer}<|im_end|>"
    assert f"  | {rows[int(said[0][0]) - 1]['prompt']} Not " in out


def test_piped_it_is_plain_and_lightning_is_not_imported(run, made):
    code = (
        "import sys; sys.path.insert(0, '.'); from scripts.inspect_batch import main;"
        "code = main(sys.argv[1:]); sys.exit(code or int('lightning' in sys.modules))"
    )
    arguments = [sys.executable, "-c", code, run(made[1]), "step=0"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\x1b" not in done.stdout


def test_help(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"{key}=" in out for key in ("run", "step", "rows", "source", "color"))
