"""Who trains and who validates, and the leak between them, by hand."""

import pytest

from plm.data.documents import Document
from plm.data.recipe import Split
from plm.data.split import check_groups, leaks, resolve, split_pieces, validation_groups
from plm.data.textstore import Entry, TextStore
from plm.errors import DataError


def store(tmp_path, name, documents):
    made = TextStore(tmp_path / f"{name}.text")
    made.fill((Document(text, title, group) for text, title, group in documents), dict)
    return made


def test_groups_stay_whole_and_near_the_goal():
    sizes = {"code": {f"p{i}": 10 + i % 7 for i in range(200)}}
    total = sum(sizes["code"].values())
    held = validation_groups(sizes, {"code": 0.05}, seed=0)
    share = sum(sizes["code"][group] for group in held) / total
    assert 0.04 < share < 0.075
    assert held == validation_groups(sizes, {"code": 0.05}, seed=0)
    assert held != validation_groups(sizes, {"code": 0.05}, seed=1)


def test_another_group_moves_few():
    sizes = {f"p{i}": 10 for i in range(200)}
    before = validation_groups({"code": sizes}, {"code": 0.05}, seed=0)
    after = validation_groups({"code": {**sizes, "new": 10}}, {"code": 0.05}, seed=0)
    assert len(before ^ after) <= 3


def test_a_group_is_on_one_side_in_every_source():
    sizes = {
        "prose": {"torch": 500, "numpy": 450, "small": 50, "other": 40},
        "code": {"torch": 900, "small": 60, "tiny": 40},
    }
    held = validation_groups(sizes, {"prose": 0.05, "code": 0.05}, seed=3)
    assert held
    assert not held & {"torch", "numpy"}
    for groups in sizes.values():
        assert held & set(groups)
        assert set(groups) - held


@pytest.mark.parametrize(
    ("entries", "kind", "error"),
    [
        (
            ["one.jsonl:1"],
            "conversation",
            r"source code has one conversation only \(d/one\.jsonl, row 1\); to train and to "
            r"validate it needs two or more: give it more$",
        ),
        (
            ["one.jsonl:1", "one.jsonl:2"],
            "conversation",
            r"all its 2 conversations begin with the same question \(the first is d/one\.jsonl, "
            r"row 1\), and a group is never divided .*: give it others$",
        ),
        (
            ["a.txt"],
            "document",
            r"has one document only \(d/a\.txt\); .* or let split\.by=pieces cut it$",
        ),
        (
            ["a", "b"],
            "document",
            r"all its 2 documents are of the group torch \(the first is d/a\)",
        ),
    ],
)
def test_one_group_cannot_be_split(entries, kind, error):
    with pytest.raises(DataError, match=error):
        check_groups("code", [Entry(0, 5, name, "torch") for name in entries], "d", kind)


def test_two_groups_can_be_split():
    check_groups("code", [Entry(0, 5, name, name) for name in "ab"], "d", "conversation")


def test_pieces_are_spread_and_nothing_is_lost(tmp_path):
    lines = [f"line {i} of the book\n" for i in range(20_000)]
    text = "".join(lines)
    made = store(tmp_path, "book", [(text, "book.txt", "book.txt")])
    train, val = split_pieces(made, 0.05)
    assert len(val) == 2
    parts = sorted(train + val)
    assert "".join(made.texts(parts)) == text
    assert all(part.endswith("\n") for part in made.texts(parts))
    assert 0.04 < sum(e.length for e in val) / made.n_bytes < 0.06
    assert 0.15 < val[0].start / made.n_bytes < 0.35
    assert 0.65 < val[1].start / made.n_bytes < 0.85
    assert [e.name for e in parts] == [f"book.txt#{i}" for i in range(5)]


def test_pieces_without_lines_cut_between_characters(tmp_path):
    made = store(tmp_path, "one", [("é" * 5000, "a", "a"), ("x" * 5000, "b", "b")])
    train, val = split_pieces(made, 0.1)
    assert "".join(made.texts(sorted(train + val))) == "é" * 5000 + "x" * 5000


def test_auto(tmp_path):
    few = store(tmp_path, "few", [("x" * 100, f"{i}", f"{i}") for i in range(5)])
    many = store(tmp_path, "many", [("x" * 100, f"{i}", f"{i}") for i in range(200)])
    large = [("x" * 100, f"{i}", f"{i}") for i in range(200)] + [("y" * 9000, "z", "z")]
    assert resolve(Split(by="auto", val_share=0.05), few) == "pieces"
    assert resolve(Split(by="auto", val_share=0.05), many) == "group"
    assert resolve(Split(by="auto", val_share=0.05), store(tmp_path, "l", large)) == "pieces"
    assert resolve(Split(by="group"), few) == "group"


def test_leak_by_hand(tmp_path):
    long = [f"{letter * 45}" for letter in "abcdef"]
    other = store(tmp_path, "prose", [(f"{long[5]}\n", "p1", "p1")])
    made = store(
        tmp_path,
        "code",
        [
            (f"{long[0]}\nshort\n{long[1]}\n", "t1", "t"),
            (f"   {long[0]}\nshort\n{long[2]}\n{long[0]}\n", "v1", "v"),
            (f"{long[5]}\n", "v2", "v"),
            ("short\n", "v3", "v"),
        ],
    )
    train = {"code": made.entries[:1], "prose": other.entries}
    found = leaks({"code": made, "prose": other}, train, {"code": made.entries[1:], "prose": []})
    assert found["prose"] == []
    assert [tuple(leak) for leak in found["code"]] == [(3, 2), (1, 1), (0, 0)]
    assert found["code"][0].share == pytest.approx(2 / 3)
    assert found["code"][2].share == 0
