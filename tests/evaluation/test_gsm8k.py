"""GSM8K: the file's own solutions score everything, degenerate answers nothing."""

import json
from pathlib import Path

import pytest

from plm.errors import ConfigError, DataError
from plm.evaluation.gsm8k import grade, gsm8k, worked

ROWS = [
    {"question": "Two and two?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"},
    {"question": "Price of 10 at $100?", "answer": "#### 1,000"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in (("test", ROWS), ("train", ROWS[::-1] * 3)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return tmp_path


def marks(item, *texts: str, cut: bool = False) -> list[bool]:
    return [ok for ok, _ in grade([(item, text, cut) for text in texts])]


def test_items(folder: Path):
    first, second = gsm8k(str(folder)).items
    assert (first.answer, second.answer) == ("4", "1,000")
    assert first.solution == ROWS[0]["answer"]
    assert first.text == "Question: Two and two?\nSolution:\n" and first.name == "test/0"
    assert marks(second, "Answer: $1000", "#### 1,000", "Answer: 1000.00 dollars.") == [True] * 3


def test_degenerate_answers(folder: Path):
    first, _ = gsm8k(str(folder)).items
    texts = ["", first.question, first.text, "4", "Answer: 2 + 2 = 4", "Answer: 4 or 5", "#### 5"]
    assert not any(marks(first, *texts))
    assert marks(first, "Answer: 4", cut=True) == [False]


def test_shots_come_from_train_with_solutions_in_our_form(folder: Path):
    item = gsm8k(str(folder), shots=3).items[0]
    assert item.text.count("Question: ") == 4 and item.text.count("Answer: ") == 3
    assert "<<" not in item.text and "####" not in item.text
    assert worked(**ROWS[0]) == "Question: Two and two?\nSolution:\n2 + 2 = 4\nAnswer: 4\n"


def test_bad_files(folder: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="name shots_path"):
        gsm8k(str(folder / "test.jsonl"), shots=2)
    for text, message in (
        ("{", "line 1: not JSON"),
        ('{"question": "a"}\n', "row 1: no field 'answer'"),
        ('{"question": "a", "answer": "b"}\n', "row 1: the answer does not end with"),
        ("", "no rows"),
    ):
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(DataError, match=message):
            assert gsm8k(str(tmp_path / "bad.jsonl")).items
    with pytest.raises(DataError, match="cannot be read: No such file"):
        assert gsm8k(str(tmp_path / "none.jsonl")).items
    with pytest.raises(DataError, match=r"no dev\.jsonl"):
        assert gsm8k(str(tmp_path), split="dev").items


def test_real_solutions_and_what_four_models_made_of_them(test_data: Path):
    task = gsm8k(str(test_data / "gsm8k"))
    rows = [json.loads(line) for line in (test_data / "gsm8k/test.jsonl").open()]
    assert len(task.items) == len(rows) == 1319
    flat = [
        (i, worked(i.question, r["answer"]), False) for i, r in zip(task.items, rows, strict=True)
    ]
    assert all(ok for ok, _ in grade(flat))
    told = (test_data / "gsm8k/model_solutions.jsonl").open(encoding="utf-8")
    theirs = {row["question"]: row for row in map(json.loads, told)}
    agreed = judged = 0
    for item in task.items:
        row = theirs.get(item.question)
        for name in ("175b_finetuning", "175b_verification", "6b_finetuning", "6b_verification"):
            if row is None or name not in row:
                continue
            text = row[name]["solution"].replace("\nA:", "\nAnswer:")
            ((ok, _),) = grade([(item, text, False)])
            agreed, judged = agreed + (ok == row[name]["is_correct"]), judged + 1
    assert judged > 5000 and agreed / judged > 0.995
