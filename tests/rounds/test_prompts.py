"""Questions of one's own, read from a file."""

import json
from pathlib import Path

import pytest

from plm.errors import ConfigError, DataError
from plm.rounds.prompts import rows


def written(folder: Path, *found: object) -> str:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return str(path)


def test_each_row_is_a_question(tmp_path: Path) -> None:
    path = written(tmp_path, {"prompt": " why? \n", "other": 1}, {"prompt": "how?"})
    items = rows(path).items
    assert [(item.name, item.question) for item in items] == [("row 1", "why?"), ("row 2", "how?")]
    assert len({item.group for item in items}) == 1


def test_nothing_verifies_the_answers(tmp_path: Path) -> None:
    assert not hasattr(rows(written(tmp_path, {"prompt": "why?"})), "grade")


def test_another_field(tmp_path: Path) -> None:
    path = written(tmp_path, {"question": "why?"})
    assert [item.question for item in rows(path, field="question").items] == ["why?"]


def test_without_a_path() -> None:
    with pytest.raises(ConfigError, match=r"prompts\.path is missing"):
        rows(None)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": " "}, r"row 2: prompt is empty"),
        ({"question": "why?"}, r"row 2: no field 'prompt' with text"),
        ({"prompt": 3}, r"row 2: no field 'prompt' with text"),
        ({"prompt": "a \ud800 b"}, r"row 2: prompt holds half a character"),
    ],
)
def test_a_row_that_is_no_question(tmp_path: Path, row: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        rows(written(tmp_path, {"prompt": "why?"}, row))


def test_a_file_without_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        rows(written(tmp_path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl cannot be read"):
        rows(str(tmp_path / "gone.jsonl"))
