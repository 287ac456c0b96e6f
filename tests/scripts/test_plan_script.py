"""scripts/plan.py: its own keys, the configuration's, JSON, and one line for each mistake."""

import json
import socket
import sys
from pathlib import Path

import pytest

from plm import plan
from scripts.plan import main


@pytest.fixture(autouse=True)
def own_arguments(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["plan.py"])


def test_the_tables_hold_the_figures(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    arguments = ["+experiment=plm_pretrain", "scale=test", "gpus=2", "price=2.5"]
    # Where nothing is prepared, so that only what is told is known.
    arguments += [f"data.dir={tmp_path}", "tokens_of=prose:20k,code:1M"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for part in ("Model (exact)", "Phases: ", "Sources ", "(estimate)", "Cost: ", "2 x H100"):
        assert part in text
    row = next(line for line in text.splitlines() if line.split()[:2] == ["stable", "prose"])
    tokens = int(row.split()[2].replace(",", ""))
    assert row.split()[3:] == [f"{tokens / 20_000:.2f}"] * 2
    row = next(line for line in text.splitlines() if line.split()[:2] == ["stable", "math"])
    assert row.split()[3:] == ["-", "-"]
    row = next(line for line in text.splitlines() if line.split()[:1] == ["prose"])
    assert row.split()[2:4] == ["20.0k", "told"]
    assert "tokens_of=name:1.3T" in text


def test_the_paper_s_plan_over_the_hub_needs_no_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def refuse(*arguments: object) -> None:
        raise AssertionError("the plan asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    known, memory = [], plan.memory
    monkeypatch.setattr(plan, "memory", lambda *a, **k: known.append(memory(*a, **k)) or known[0])
    arguments = ["+experiment=plm_pretrain", "scale=1_8b", "data=plm_hub", "phases=plm_hub"]
    assert main([*arguments, f"data.dir={tmp_path}"]) == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert rows["web"][1:3] == ["1.30T", "published"]
    assert rows["code"][1:] == ["-", "-", "-"]
    assert "read past data.max_epochs" not in text
    assert "the recipe streams only max_bytes of each source" in text
    # The memory is the same, and takes ten seconds to work out.
    monkeypatch.setattr(plan, "memory", lambda *given, **also: known[0])
    assert main([*arguments, f"data.dir={tmp_path}", "tokens_of=code:50B,math:14.7B"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "read past data.max_epochs: code 7.6 times (limit 4), math 8.6 times (limit 4)." in said


def test_json_holds_the_same_and_takes_overrides(capsys: pytest.CaptureFixture[str]):
    arguments = ["+experiment=plm_pretrain", "scale=test", "phases.stable.tokens=2048"]
    assert main([*arguments, "precision=bf16", "json=true", "gpu=a100"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["phases"][0]["tokens"] == 2048
    assert plan["time"]["gpu"] == "A100"
    assert plan["memory"]["precision"] == "mixed"
    assert plan["time"]["cost"] is None


def test_help_names_the_own_keys(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(key in text for key in ("gpu=", "gpus=", "mfu=", "price=", "tokens_of=", "json="))


RUN = "+experiment=plm_pretrain"
MISTAKES = [
    ([RUN, "scal=nano", "gpu=H100"], "scal is not a setting; in the configuration did you mean"),
    ([RUN, "scale=nanno"], "scale=nanno is not a choice; did you mean nano?"),
    ([RUN, "scale=null"], "scale=null: a group takes the name of a choice; ~scale leaves it out"),
    ([RUN, "gpu=H300", "scale=test"], "gpu=H300 is not in the table of GPUs; nearest: "),
    ([RUN, "gpus=many"], "gpus=many is not a number"),
    ([RUN, "json=yes"], "json=yes is not true or false"),
    ([RUN, "tokens_of=prose"], "tokens_of=prose: 'prose' is not like prose:1.3T"),
    ([RUN, "tokens_of=prose:xT"], "tokens_of: prose=x is not a number"),
    ([RUN, "scale=test", "phases.stable.tokens=0"], "phases.stable.tokens=0"),
    ([RUN, "scale=test", "mfu=0"], "mfu=0.0"),
]


@pytest.mark.parametrize(("arguments", "text"), MISTAKES)
def test_a_mistake_is_one_line(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert text in shown.err
    assert shown.err.count("\n") == 1
    assert not shown.out
