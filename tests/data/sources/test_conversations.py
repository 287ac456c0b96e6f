"""Conversations from files of each kind, and what is counted of them."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from plm.data.conversations import Conversation
from plm.data.prepare import is_prepared
from plm.data.recipe import load_recipe
from plm.data.sources.conversations import conversations, hub_conversations
from plm.data.tally import Tally
from plm.errors import ConfigError, DataError, Unfinished


def row(number):
    return {
        "messages": [
            {"role": "user", "content": f"Question {number}?\nSay."},
            {"role": "assistant", "content": f"Answer {number}."},
        ]
    }


GOOD = [row(number) for number in range(7)]
BAD = [
    (b'{"messages": [', "unreadable row", "not JSON: Expecting value at column"),
    (b'{"messages": "\xff"}', "unreadable row", "not UTF-8 at byte 14 (0xff)"),
    (json.dumps({"text": "a"}).encode(), "no conversation", "it has text"),
    (json.dumps({"messages": row(1)["messages"][1:]}).encode(), "does not alternate", "message 0"),
    (
        json.dumps({"prompt": "a", "completion": ""}).encode(),
        "empty answer",
        "message 1: the assistant says nothing",
    ),
]


def write(path, rows=GOOD, opened=open):
    lines = [r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows]
    with opened(path, "wb") as file:
        file.write(b"\n".join(lines) + b"\n")


def read(origin):
    tally = Tally()
    found = [d for item in origin.items for d in origin.read(item, tally)]
    return found, tally


PACKED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, "": open}


@pytest.mark.parametrize("end", PACKED)
def test_lines_plain_and_compressed(tmp_path, end):
    write(tmp_path / f"a.jsonl{end}", opened=PACKED[end])
    (tmp_path / "README.md").write_text("Not looked at.")
    found, tally = read(conversations(str(tmp_path)))
    assert [d.name for d in found] == [f"a.jsonl{end}:{i}" for i in range(1, 8)]
    assert [Conversation.from_text(d.text).messages for d in found] == [r["messages"] for r in GOOD]
    assert not tally
    # Equal questions are on one side of the split, whatever the answers are.
    assert len({d.group for d in found}) == 7


def test_parts_of_a_file_go_on_counting(tmp_path, monkeypatch):
    monkeypatch.setattr("plm.data.sources.files._PART", 300)
    write(tmp_path / "a.jsonl")
    origin = conversations(str(tmp_path / "a.jsonl"))
    assert len(list(origin.items)) > 1
    assert [d.name for d in read(origin)[0]] == [f"a.jsonl:{i}" for i in range(1, 8)]


@pytest.mark.parametrize("end", ["", ".gz"])
def test_parquet(tmp_path, end, monkeypatch):
    monkeypatch.setattr("plm.data.sources.files._GROUP_PART", 500)
    # A table gives each call the arguments of all calls.
    calls = [{"function": {"name": "f", "arguments": {name: 1}}} for name in "ab"]
    rows = [
        {
            "messages": [
                {"role": "user", "content": "Ask."},
                {"role": "assistant", "content": "", "tool_calls": [call]},
            ]
        }
        for call in calls
    ]
    path = tmp_path / f"a.parquet{end}"
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([*GOOD, *rows]), sink, row_group_size=4)
    with PACKED[end](path, "wb") as file:
        file.write(sink.getvalue().to_pybytes())
    found, tally = read(conversations(str(tmp_path)))
    assert not tally
    assert [d.name for d in found] == [f"a.parquet{end}:{i}" for i in range(1, 10)]
    talks = [Conversation.from_text(d.text) for d in found]
    assert [t.messages for t in talks[:7]] == [r["messages"] for r in GOOD]
    assert [t.messages[1]["tool_calls"][0]["function"] for t in talks[7:]] == [
        c["function"] for c in calls
    ]
    assert found[7].group == found[8].group


def test_fields_are_named(tmp_path):
    write(tmp_path / "a.jsonl", [{"question": "a?", "answer": "b.", "prompt": 3}])
    named = {"prompt": "question", "completion": "answer"}
    (found,), _ = read(conversations(str(tmp_path), kind="prompt_completion", fields=named))
    assert Conversation.from_text(found.text).messages == [
        {"role": "user", "content": "a?"},
        {"role": "assistant", "content": "b."},
    ]


def test_bad_rows_are_counted_with_their_numbers(tmp_path):
    write(tmp_path / "a.jsonl", [GOOD[0], *(line for line, _, _ in BAD), GOOD[1]])
    found, tally = read(conversations(str(tmp_path)))
    assert [d.name for d in found] == ["a.jsonl:1", "a.jsonl:7"]
    reasons = [reason for _, reason, _ in BAD]
    assert tally.dropped == {reason: reasons.count(reason) for reason in reasons}
    shown = [example for examples in tally.examples.values() for example in examples]
    assert sorted(name for name, _ in shown) == [f"a.jsonl:{i}" for i in range(2, 7)]
    for (_, reason, text), number in zip(BAD, range(2, 7), strict=True):
        assert any(n == f"a.jsonl:{number}" and text in t for n, t in tally.examples[reason])


@pytest.mark.parametrize(("line", "reason", "error"), BAD)
def test_a_bad_row_as_an_error(tmp_path, line, reason, error):
    write(tmp_path / "a.jsonl", [GOOD[0], b"", line])
    with pytest.raises(DataError) as caught:
        read(conversations(str(tmp_path), bad_rows="error"))
    assert str(caught.value).startswith(f"{tmp_path}/a.jsonl, row 3: ")
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"bad_rows": "drop"}, "bad_rows=drop: one of skip, error"),
        ({"kind": "chatml"}, "kind=chatml: one of auto, messages"),
        ({"fields": ["question"]}, "fields=.'question'. must say what a row calls it"),
    ],
)
def test_settings(tmp_path, settings, error):
    with pytest.raises(ConfigError, match=error):
        conversations(str(tmp_path), **settings)
    with pytest.raises(ConfigError, match=error):
        hub_conversations("a/b", revision="main", max_bytes=1, **settings)


def test_no_file(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(
        DataError, match=r"no file with conversations or pairs; known: \.jsonl, \.parquet"
    ):
        conversations(str(tmp_path))
    with pytest.raises(
        DataError, match=r"a\.txt: no file with conversations or pairs; known: \.jsonl, \.par"
    ):
        conversations(str(tmp_path / "a.txt"))
    (tmp_path / "a.csv").write_text("a,b\n")
    # Asked before the origin is, since what lies there is part of what decides the data.
    for path in (tmp_path / "a.csv", tmp_path):
        with pytest.raises(
            DataError, match=r"no file with conversations or pairs; known: \.jsonl, \.parquet"
        ):
            is_prepared(
                load_recipe("conversations"),
                data_dir=tmp_path,
                vocab_size=300,
                block_tokens=64,
                path=str(path),
            )
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(DataError, match=r"a\.jsonl: empty; there is no row"):
        conversations(str(tmp_path))


def test_a_set_of_the_hub(tmp_path):
    bad = {"messages": row(1)["messages"][:1]}
    write(tmp_path / "train.jsonl", [*GOOD[:2], bad, *GOOD[2:]])
    where = {"dataset": str(tmp_path), "revision": "main"}
    origin = hub_conversations(**where, max_bytes=10_000)
    found, tally = read(origin)
    assert [Conversation.from_text(d.text).messages for d in found] == [r["messages"] for r in GOOD]
    assert found[2].name == f"{tmp_path}/train/3"
    assert tally.dropped == {"does not alternate": 1}
    assert origin.facts["conversations"] is True
    assert 1 < len(read(hub_conversations(**where, max_bytes=250))[0]) < 7
    with pytest.raises(DataError, match=", row 2: message 0: the last word is not the assistant's"):
        read(hub_conversations(**where, max_bytes=10_000, bad_rows="error"))
    with pytest.raises(Unfinished, match="cannot be streamed"):
        read(hub_conversations(str(tmp_path / "none"), revision="main", max_bytes=9))
