"""Shared runs by hand, what is cut, the index against a slow twin, and real evaluation sets."""

import gzip
import json
import pickle
import re
from functools import partial

import pytest

from plm.data.documents import Document, is_per_document
from plm.data.steps.decontaminate import decontaminate
from plm.data.steps.evaluation_sets import make_index, shared_runs
from plm.data.tally import Tally
from plm.errors import ConfigError, DataError

QUESTION = "Tom has nine red apples, gives two of them to Ann, and eats one more. How many?"
FILLER = "A plain sentence that nobody would ever ask in an examination of any kind. " * 6
SHORT = "Which of these rivers is the longest one?"


@pytest.fixture
def sets(tmp_path):
    rows = [{"question": QUESTION, "answer": SHORT}, {"question": "Why not?", "answer": "No."}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = {"prompt": "def add_up(first, second):", "solution": "return sum([a for a in (b, c)])"}
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps(code))
    return {
        "apples": {"path": str(tmp_path / "a.jsonl"), "fields": ["question", "answer"]},
        "code": {"path": str(tmp_path / "b.jsonl.gz"), "fields": ["prompt", "solution"]},
    }


def test_by_hand(run, sets):
    words = re.findall(r"\w+", QUESTION)
    texts = [
        FILLER + QUESTION + FILLER,
        # Other case, punctuation and line ends: the same words.
        "so: TOM HAS\nnine red (apples) gives two of them -- to Ann; and eats ONE more",
        " ".join(words[3:16]),
        " ".join(words[3:15]),
        " ".join([*words[:8], "green", *words[8:]]),
        " ".join(reversed(words)),
        f"He asked: {SHORT.lower()}",
        "Why not? No. " * 5,
        "def f(b, c):\n    return sum(a for a in b, c)\n",
        FILLER,
    ]
    kept, drops = run(decontaminate, texts, against=sets)
    assert kept == [texts[i] for i in (3, 4, 5, 7, 9)]
    assert drops == {"shares words with apples": 4, "shares words with code": 1}
    kept = run(decontaminate, texts, against=sets, ngram=12)[0]
    assert kept == [texts[i] for i in (4, 5, 7, 9)]


def test_the_first_set_of_the_settings_is_named(run, sets):
    both = f"{QUESTION} return sum a for a in b c"
    turned = dict(reversed(sets.items()))
    assert run(decontaminate, [both], against=sets)[1] == {"shares words with apples": 1}
    assert run(decontaminate, [both], against=turned)[1] == {"shares words with code": 1}


def test_chinese_characters_are_words(run, tmp_path):
    asked = "小明有九个苹果，给了小红两个，还剩几个？"
    (tmp_path / "zh.txt").write_text(asked, "utf-8")
    against = {"zh": {"path": str(tmp_path / "zh.txt")}}
    texts = [f"老师问：{asked[:17]}", f"老师问：{asked[:12]}"]
    assert run(decontaminate, texts, against=against)[0] == texts[1:]


def test_cut(sets):
    before, after = "before " * 60, "after " * 60
    text = f"{before}{QUESTION} {after}{SHORT} {after}"
    tally = Tally()
    settings = {"against": sets, "cut": True, "around": 100, "min_piece": 100}
    documents = list(decontaminate(iter([Document(text, "n", "g")]), tally=tally, **settings))
    assert {d.group for d in documents} == {"g"}
    assert [d.name for d in documents] == ["n#0", "n#1", "n#2"]
    # 100 characters are 14.3 of "before " and 16.7 of "after ": whole words go.
    # 100 characters reach into the 15th "before " and the 17th "after ": whole words go.
    assert [d.text for d in documents] == [
        "before " * 44 + "before\n",
        "after " * 25 + "after\n",
        "after " * 42 + "after\n",
    ]
    assert tally.changed == {"cut out of apples": 2}
    assert not tally.dropped
    assert [e[1][:15] for e in tally.examples["cut out of apples"]] == [QUESTION[:15], SHORT[:15]]


def test_places_close_together_are_one(run, sets):
    text = f"{FILLER}{QUESTION} a word {SHORT} {QUESTION} {FILLER}"
    tally = Tally()
    kept = list(
        decontaminate(iter([Document(text, "n", "g")]), tally=tally, against=sets, cut=True)
    )
    assert len(kept) == 2
    assert all(QUESTION[:20] not in d.text and SHORT not in d.text for d in kept)
    assert tally.changed == {"cut out of apples": 1}


def test_too_much_to_cut(run, sets):
    texts = [(FILLER * 2 + QUESTION) * 3 + FILLER, "Short. " + QUESTION, QUESTION]
    settings = {"against": sets, "cut": True, "max_places": 2}
    assert run(decontaminate, texts, **settings) == (
        [],
        {"many places of apples": 1, "little beside apples": 2},
    )
    assert len(run(decontaminate, texts, **{**settings, "max_places": 3})[0]) == 4


def test_runs_in_a_worker(sets):
    step = partial(decontaminate, against=sets)
    assert is_per_document(step)
    again = pickle.loads(pickle.dumps(step))
    assert not list(again(iter([Document(QUESTION, "n", "g")]), tally=Tally()))


def test_a_dataset_in_a_folder(run, tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": QUESTION, "number": 3}) + "\n")
    (tmp_path / "train.jsonl").write_text(json.dumps({"question": FILLER, "number": 3}) + "\n")
    entry = {"dataset": str(tmp_path), "fields": ["question"]}
    texts = [QUESTION, FILLER]
    assert run(decontaminate, texts, against={"x": entry})[0] == [FILLER]
    train = {**entry, "split": "train"}
    assert run(decontaminate, texts, against={"x": train})[0] == [QUESTION]
    for changed, text in (
        ({"fields": ["answer"]}, "test: no field 'answer'; it has question, number"),
        ({"fields": ["number"]}, "test: field 'number' is not text: '3'"),
        ({"split": "validation"}, "split validation: cannot be loaded: "),
        ({"dataset": str(tmp_path / "none")}, "none, split test: no such folder"),
    ):
        with pytest.raises(DataError, match=rf"^decontaminate: against.x: .*{text}"):
            run(decontaminate, texts, against={"x": {**entry, **changed}})


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"path": "none.jsonl"}, "decontaminate: against.apples: none.jsonl: no such file or fold"),
        ({"fields": ["key"]}, r"against.apples: .*a.jsonl, row 1: field 'key' is missing; the row"),
    ],
)
def test_a_set_that_is_missing(run, sets, changed, text):
    with pytest.raises(DataError, match=text):
        run(decontaminate, ["a"], against={"apples": {**sets["apples"], **changed}})


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"against": {}}, r"decontaminate: against=\{\} names no evaluation set; give one by its"),
        ({"against": None}, "decontaminate: against=None names no evaluation set"),
        ({"against": {"a": {}}}, r"against.a=\{\} must have either path or dataset"),
        ({"against": {"a": {"path": "p", "dataset": "d"}}}, "must have either path or dataset"),
        (
            {"against": {"a": {"path": "p", "field": "f"}}},
            "against.a: unknown key field; known: pa",
        ),
        ({"against": {"a": {"path": "p", "fields": "f"}}}, "against.a.fields=f must be a list of"),
        ({"against": {"a": {"path": "p"}}, "ngram": 0}, "ngram=0 must be positive and around=200"),
        ({"against": {"a": {"path": "p"}}, "around": -1}, "around=-1 not negative"),
    ],
)
def test_settings_that_cannot_work(run, settings, text):
    with pytest.raises(ConfigError, match=text):
        run(decontaminate, ["a"], **settings)


def plain_runs(text, lengths=range(8, 14)):
    """The slow twin: runs as tuples of words."""
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[i : i + n]) for n in lengths for i in range(len(words) - n + 1)}


def plain_index(text):
    n = min(13, len(re.findall(r"[^\W_]+", text)))
    return plain_runs(text, [n]) if n >= 8 else set()


def rows(test_data, name):
    file = test_data / "gsm8k" / name
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.mark.slow
def test_gsm8k(run, test_data):
    path = str(test_data / "gsm8k" / "test.jsonl")
    against = {"gsm8k_test": {"path": path, "fields": ["question"]}}
    text = (test_data / "tinyshakespeare" / "input.txt").read_text("utf-8")
    parts = [text[i : i + 2000] for i in range(0, len(text), 2000)]
    assert run(decontaminate, parts, against=against) == (parts, {})

    questions = [row["question"] for row in rows(test_data, "test.jsonl")]
    hidden = [
        f"{parts[i % len(parts)]} {question} {parts[(i + 1) % len(parts)]}"
        for i, question in enumerate(questions)
    ]
    assert run(decontaminate, hidden, against=against) == (
        [],
        {"shares words with gsm8k_test": len(questions)},
    )
    pieces = run(decontaminate, hidden, against=against, cut=True)[0]
    assert len(pieces) == 2 * len(questions)
    known = set().union(*map(plain_index, questions))
    assert not any(known & plain_runs(piece) for piece in pieces)

    # Of the training questions only those go that share a run word by word.
    train = [row["question"] for row in rows(test_data, "train.jsonl")]
    apart = [question for question in train if not known & plain_runs(question)]
    assert 0 < len(train) - len(apart) < 10
    assert run(decontaminate, train, against=against)[0] == apart


def test_humaneval(run, test_data):
    path = test_data / "humaneval" / "HumanEval.jsonl.gz"
    against = {"humaneval": {"path": str(path), "fields": ["prompt", "canonical_solution"]}}
    with gzip.open(path, "rt") as file:
        prompts = [json.loads(line)["prompt"] for line in file]
    assert run(decontaminate, prompts, against=against)[0] == []
    index = make_index(against, 13)
    assert all(hashes[:-1].tolist() < hashes[1:].tolist() for hashes, _ in index.values())
    assert shared_runs("import os\n" * 100, index) == []
