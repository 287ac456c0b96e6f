"""Pairs from files and the hub, and the conversations that lead to their better answers."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plm.data.conversations import Conversation
from plm.data.pairs import Pair
from plm.data.prepare import is_prepared
from plm.data.recipe import load_recipe
from plm.data.sources.pairs import hub_pairs, pairs, refinements
from plm.data.tally import Tally
from plm.errors import ConfigError, DataError
from plm.rounds.template import default_text

GOOD = [
    {"prompt": f"Question {i // 2}?", "chosen": f"Right {i}.", "rejected": f"Wrong {i}."}
    for i in range(6)
]
EQUAL = {"prompt": "a", "chosen": "b", "rejected": "b"}


def write(path, rows=GOOD):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(origin):
    tally = Tally()
    return [d for item in origin.items for d in origin.read(item, tally)], tally


def test_lines(tmp_path):
    origin = pairs(write(tmp_path / "a.jsonl"))
    found, tally = read(origin)
    assert [d.name for d in found] == [f"a.jsonl:{i}" for i in range(1, 7)]
    assert [Pair.from_text(d.text).chosen for d in found] == [row["chosen"] for row in GOOD]
    # The same question, whatever is answered: on one side of the split.
    assert len({d.group for d in found}) == 3
    assert not tally
    assert origin.facts["pairs"] is True and "conversations" not in origin.facts


def test_parquet_and_fields(tmp_path):
    rows = [{"question": "Q?", "right": "a", "wrong": "b", "score": None, "prompt": 3}] * 2
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    fields = {"prompt": "question", "chosen": "right", "rejected": "wrong"}
    found, _ = read(pairs(str(tmp_path), fields=fields))
    assert [d.name for d in found] == ["a.parquet:1", "a.parquet:2"]
    assert Pair.from_text(found[0].text) == Pair([{"role": "user", "content": "Q?"}], "a", "b")


def test_bad_rows(tmp_path):
    file = tmp_path / "a.jsonl"
    write(file, [GOOD[0], EQUAL, {"prompt": "a"}, {**GOOD[1], "chosen": ""}])
    with file.open("a") as lines:
        lines.write(
            '{"prompt": \n{"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": NaN}'
        )
    found, tally = read(pairs(str(tmp_path)))
    assert [d.name for d in found] == ["a.jsonl:1"]
    assert tally.dropped == {
        "equal answers": 1,
        "no pair": 1,
        "empty answer": 1,
        "unreadable row": 1,
        "score is not a number": 1,
    }
    assert tally.examples["equal answers"][0][0] == "a.jsonl:2"
    with pytest.raises(DataError, match=r"a\.jsonl, row 2: chosen and rejected are the same text$"):
        read(pairs(str(tmp_path), bad_rows="error"))


def test_a_set_of_the_hub(tmp_path):
    write(tmp_path / "train.jsonl", [*GOOD[:2], EQUAL, *GOOD[2:]])
    origin = hub_pairs(str(tmp_path), revision="main", max_bytes=10_000)
    found, tally = read(origin)
    assert [Pair.from_text(d.text).rejected for d in found] == [row["rejected"] for row in GOOD]
    assert found[2].name == f"{tmp_path}/train/3"
    assert tally.dropped == {"equal answers": 1}
    assert origin.facts["pairs"] is True and origin.facts["revision"] == "main"


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"bad_rows": "drop"}, "pairs: bad_rows=drop: one of skip, error"),
        ({"kind": "dpo"}, "pairs: kind=dpo: one of auto, pair, completions"),
        ({"fields": "a"}, "pairs: fields=a must say what a row calls it, such as {prompt: quest"),
    ],
)
def test_settings(tmp_path, settings, error):
    for origin in (pairs, refinements):
        with pytest.raises(ConfigError, match=error):
            origin(str(tmp_path), **settings)
    with pytest.raises(ConfigError, match=error):
        hub_pairs("a/b", revision="main", max_bytes=1, **settings)


def test_no_file(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(DataError, match=r"no file with conversations or pairs; known: \.jsonl, "):
        pairs(str(tmp_path))
    with pytest.raises(DataError, match=r"no file with conversations or pairs; known: \.jsonl, "):
        is_prepared(
            load_recipe("pairs"),
            data_dir=tmp_path,
            vocab_size=300,
            block_tokens=64,
            path=str(tmp_path),
        )


def test_refinements(tmp_path):
    path = write(tmp_path / "a.jsonl", [*GOOD[:1], EQUAL])
    template = "Q: {question} A: {answer}"
    found, tally = read(refinements(path, template=template, shown=["better", "worse", "nothing"]))
    asked = ["Question 0?", "Q: Question 0? A: Wrong 0.", "Q: Question 0? A: Right 0."]
    assert [Conversation.from_text(d.text).messages for d in found] == [
        [{"role": "user", "content": text}, {"role": "assistant", "content": "Right 0."}]
        for text in asked
    ]
    names = ["a.jsonl:1", "a.jsonl (worse shown):1", "a.jsonl (better shown):1"]
    assert [d.name for d in found] == names
    assert len({d.group for d in found}) == 1
    assert tally.dropped == {"equal answers": 1}


def test_refinements_by_default(tmp_path):
    origin = refinements(write(tmp_path / "a.jsonl"))
    assert [d.name for d in read(origin)[0]][:2] == ["a.jsonl:1", "a.jsonl (worse shown):1"]
    assert origin.facts["conversations"] is True
    assert origin.facts["shown"] == ["nothing", "worse"]
    assert origin.facts["refinement"] == default_text()
    assert "refinement" not in refinements(str(tmp_path), shown=["nothing"]).facts


def test_an_answer_in_a_prompt_is_given(tmp_path):
    prompt = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    path = write(tmp_path / "a.jsonl", [{**GOOD[0], "prompt": prompt}])
    assert [Conversation.from_text(d.text).given for d in read(refinements(path))[0]] == [3, 3]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"shown": []}, r"refinements: shown=\[\] must be a list of one or more of nothing, worse"),
        ({"template": "{question}"}, r"refinement has no place \{answer\}"),
    ],
)
def test_settings_of_refinements(tmp_path, settings, error):
    with pytest.raises(ConfigError, match=error):
        refinements(write(tmp_path / "a.jsonl"), **settings)
