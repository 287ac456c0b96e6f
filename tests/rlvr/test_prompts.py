"""The sources of a run's prompts, read from its settings."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from plm.config import trust
from plm.data.tokenizer import END_OF_TEXT, save
from plm.errors import ConfigError
from plm.handoff import Start
from plm.rlvr.prompts import PromptSet, open_prompts, wanted
from tests.rlvr.made import phase
from tests.rollout.common import tokenizer

RULE = {"_target_": "plm.reward.rule.rule", "_partial_": True}
FORM = {"_target_": "plm.reward.format.well_formed", "_partial_": True, "form": "boxed"}
VERIFIER = {"_target_": "plm.reward.verifier.verifier", "_partial_": True}


@pytest.fixture
def open_(tmp_path: Path) -> partial[PromptSet]:
    save(tokenizer(), tmp_path / "tokenizer.json")
    words = ["the cat", "the dog ran", "the mat " * 40]
    rows = "".join(f'{{"prompt": "{text}"}}\n' for text in words)
    (tmp_path / "prompts.jsonl").write_text(rows)
    return partial(_opened, tmp_path)


def _opened(folder: Path, phases: Any = None, **sources: Any) -> PromptSet:
    prompts = {"_target_": "plm.rounds.prompts.rows", "path": str(folder / "prompts.jsonl")}
    data = {
        "tokenizer": str(folder / "tokenizer.json"),
        "chat_template": None,
        "end_of_text": END_OF_TEXT,
        "vocab_size": 300,
        "sources": {
            name: None if node is None else {"prompts": prompts, "rewards": {"rule": RULE}, **node}
            for name, node in sources.items()
        },
    }
    phases = phases or {"one": phase(dict.fromkeys(sources, 1))}
    return open_prompts({"data": data, "phases": phases}, Start(), resumed=False)


@pytest.fixture(autouse=True)
def _no_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plm.handoff.chat_template", lambda start: None)


def test_prompts_are_what_the_tokenizer_makes_of_the_texts(open_: Any) -> None:
    found = open_(rows={"rewards": {"rule": RULE, "form": FORM}, "weights": {"form": 0.5}})
    source = found.sources["rows"]
    assert [tokenizer().decode(ids) for ids in source.prompts] == [i.text for i in source.items]
    assert list(source.weights.items()) == [("rule", 1.0), ("form", 0.5)]
    assert source.n_tokens == 2 and source.held_out is None
    assert found.block_tokens == 64 and found.streams is found.held_out is found.sources
    said = "rows 2 prompts (1 left out, longer than seq_len), rewarded for rule x 1, form x 0.5"
    assert found.describe() == said


def test_what_leaves_no_room_for_an_answer_is_left_out_and_counted(open_: Any) -> None:
    found = open_(rows={})
    assert found.manifest["sources"]["rows"]["prompts"] == 2
    assert found.manifest["sources"]["rows"]["too_long"] == 1
    assert all(len(ids) < 64 for ids in found.sources["rows"].prompts)


def test_the_shortest_phase_of_a_source_decides(open_: Any) -> None:
    short = {"tokens": 32, "seq_len": 4, "global_batch_tokens": 32}
    phases = {"long": phase({"a": 1, "b": 1}), "short": {**phase({"b": 1}), **short}}
    found = open_(phases, a={}, b={})
    counts = {name: len(source.items) for name, source in found.sources.items()}
    assert counts["a"] == 2 and counts["b"] < 2


def test_sources_that_no_phase_names_are_not_opened(open_: Any) -> None:
    phases = {"one": phase({"a": 1})}
    assert set(open_(phases, a={}, b={"prompts": None}, c=None).sources) == {"a"}
    with pytest.raises(ConfigError, match=r"^phases: no mixture names one of data\.sources \(b\)"):
        open_(phases, b={})


def test_some_prompts_alone(open_: Any) -> None:
    found = open_(words={"only": ["row 2"]}).sources["words"]
    assert [item.question for item in found.items] == ["the dog ran"]
    assert len(open_(words={"only": []}).sources["words"].items) == 2
    with pytest.raises(
        ConfigError, match=r"data\.sources\.words\.only: there is no prompt 'row 9'"
    ):
        open_(words={"only": ["row 1", "row 9"]})


def test_the_fingerprint_is_the_prompts(open_: Any, tmp_path: Path) -> None:
    before = open_(rows={}).fingerprint
    assert open_(rows={}).fingerprint == before
    text = (tmp_path / "prompts.jsonl").read_text()
    (tmp_path / "prompts.jsonl").write_text(text.replace("dog", "mat"))
    assert open_(rows={}).fingerprint != before


@pytest.mark.parametrize(
    ("node", "line"),
    [
        ({"prompts": None}, r"^data\.sources\.rows\.prompts is missing: choose one"),
        ({"rewards": {}}, r"^data\.sources\.rows\.rewards is empty; choose one"),
        ({"rewards": {"rule": None}}, r"^data\.sources\.rows\.rewards is empty"),
        ({"weights": {"form": 1}}, r"^data\.sources\.rows\.weights\.form: there is no such reward; "
         "there are rule"),
        ({"weights": {"rule": "x"}}, r"^data\.sources\.rows\.weights\.rule=.* must be a number"),
        ({"weights": {"rule": None}}, r"^data\.sources\.rows\.weights\.rule=.* must be a number"),
        ({"weights": {"rule": float("nan")}}, r"weights\.rule=nan must be a number"),
        ({"rewards": {"right": VERIFIER}}, r"^reward=verifier: the prompts come from no task"),
    ],
)  # fmt: skip
def test_a_source_that_cannot_work(open_: Any, node: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        open_(rows=node)


def test_prompts_that_are_all_too_long(open_: Any) -> None:
    short = {"tokens": 8, "seq_len": 1, "global_batch_tokens": 8}
    line = r"^data\.sources\.rows: all 3 prompts are longer than the phase's seq_len=1, .*raise"
    with pytest.raises(ConfigError, match=line):
        open_({"one": {**phase({"rows": 1}), **short}}, rows={})


def test_a_reward_of_ones_own_that_fails_counts_as_0(
    open_: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.rlvr import made

    trust(["tests"])
    monkeypatch.setattr(made, "right", made.short)
    found = open_(rows={"rewards": {"bad": {"_target_": "tests.rlvr.made.right", "_partial_": 1}}})
    reward = found.sources["rows"].rewards["bad"]
    # Without an example there is nothing that it could look at.
    assert reward("a", None) == 0.0 and reward.failures == {"raised": 1}


def test_whether_a_runs_data_are_prompts() -> None:
    assert wanted({"data": {"sources": {}}}) and not wanted({"data": {"path": "x"}})
