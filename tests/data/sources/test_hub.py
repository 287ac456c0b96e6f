"""Streaming with `datasets`, from a local folder: no network in tests."""

import json

import pytest

from plm.data.sources.hub import hub
from plm.errors import DataError


def test_rows_until_the_bytes_are_reached(tmp_path):
    rows = "".join(json.dumps({"body": "x" * 40 + str(i)}) + "\n" for i in range(9))
    (tmp_path / "train.jsonl").write_text(rows)
    settings = {"revision": "main", "max_bytes": 100}
    documents = list(hub(str(tmp_path), fields=["body"], **settings))
    assert [d.text[-1] for d in documents] == ["0", "1", "2"]
    assert len({d.name for d in documents}) == 3
    with pytest.raises(DataError, match="row 0: no text in field 'text'; the row has body"):
        list(hub(str(tmp_path), **settings))


def test_a_set_that_cannot_be_opened(tmp_path):
    with pytest.raises(DataError, match="at main, row 0: cannot be streamed"):
        list(hub(str(tmp_path / "none"), revision="main", max_bytes=1))
