"""The user's own text: what is read, in which order, and each refusal's text."""

import bz2
import gzip
import json
import lzma

import pytest

from plm.data.sources.files import files
from plm.errors import DataError


def names_and_texts(path, **settings):
    return [(d.name, d.group, d.text) for d in files(str(path), **settings)]


def test_a_folder_in_sorted_order(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.md").write_text("two", encoding="utf-8")
    (tmp_path / "a.txt").write_bytes("één\r\n".encode())
    (tmp_path / "z.txt.gz").write_bytes(gzip.compress(b"three"))
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    rows = [{"text": "r1"}, {"text": "r2", "more": 1}]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    assert names_and_texts(tmp_path) == [
        ("a.txt", "a.txt", "één\r\n"),
        ("r.jsonl:1", "r.jsonl:1", "r1"),
        ("r.jsonl:2", "r.jsonl:2", "r2"),
        ("sub/b.md", "sub/b.md", "two"),
        ("z.txt.gz", "z.txt.gz", "three"),
    ]


@pytest.mark.parametrize("pack", [None, gzip, bz2, lzma])
def test_rows_come_in_parts(tmp_path, monkeypatch, pack):
    """Whatever the parts, the rows, their numbers and the message about one are the same."""
    rows = [json.dumps({"text": f"é {i} " + "x" * (i % 50)}) for i in range(300)]
    data = "\n".join(rows).encode()
    file = tmp_path / {None: "r.jsonl", gzip: "r.jsonl.gz", bz2: "r.jsonl.bz2"}.get(
        pack, "r.jsonl.xz"
    )
    file.write_bytes(pack.compress(data) if pack else data)
    whole = names_and_texts(file)
    monkeypatch.setattr("plm.data.sources.files._PART", 100)
    assert len(list(files(str(file)).items)) > 50
    assert names_and_texts(file) == whole
    assert [name.partition(":")[2] for name, _, _ in whole] == [str(i + 1) for i in range(300)]
    broken = data.replace(rows[200].encode(), b'{"te')
    file.write_bytes(pack.compress(broken) if pack else broken)
    with pytest.raises(DataError, match="row 201: not JSON"):
        names_and_texts(file)


def test_parquet_row_groups_come_in_parts(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    texts = [f"row {i} " + "x" * 500 for i in range(2500)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "t.parquet", row_group_size=1700)
    whole = names_and_texts(tmp_path)
    assert [text for _, _, text in whole] == texts
    assert [name for name, _, _ in whole[1699:1701]] == ["t.parquet:1700", "t.parquet:1701"]
    monkeypatch.setattr("plm.data.sources.files._GROUP_PART", 5_000)
    assert len(list(files(str(tmp_path)).items)) > 3
    assert names_and_texts(tmp_path) == whole


def test_fields_are_joined(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"question": "Q", "answer": "A"}\n', encoding="utf-8")
    found = names_and_texts(tmp_path / "q.jsonl", fields=["question", "answer"])
    assert found == [("q.jsonl:1", "q.jsonl:1", "Q\n\nA")]


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["x", "y"], "n": [1, 2]}), tmp_path / "t.parquet")
    assert [text for _, _, text in names_and_texts(tmp_path)] == ["x", "y"]
    with pytest.raises(DataError, match="row 1: field 'body' is missing; the row has text, n"):
        names_and_texts(tmp_path, fields=["body"])
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"t\.parquet, after row 0: not readable Parquet"):
        names_and_texts(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"ab\xffcd", r"a\.txt: not UTF-8 at byte 2 \(0xff\); convert it"),
        ("a.txt", b"", r"a\.txt: empty; there is no text to train on"),
        (
            "a.txt.gz",
            gzip.compress(b"x" * 9999, mtime=0)[:-9],
            r"a\.txt\.gz: gzip data is cut off or damag",
        ),
        ("a.jsonl.xz", lzma.compress(b"x" * 9999)[:-20], r"a\.jsonl\.xz: xz data is cut off"),
        ("a.txt.bz2", bz2.compress(b"x" * 9999)[:-9], r"a\.txt\.bz2: bz2 data is cut off"),
        ("a.txt.bz2", b"plain", r"a\.txt\.bz2: bz2 data is cut off or damaged"),
        ("a.txt.gz", b"plain", r"a\.txt\.gz: gzip data is cut off or damaged"),
        ("a.jsonl", b'{"text": "x"}\n{"body": "y"}', r"row 2: field 'text' is missing; the row h"),
        ("a.jsonl", b'{"text": 3}', r"row 1: field 'text' is not text"),
        ("a.jsonl", b'{"text": "x"}\n\n{"te', r"row 3: not JSON: Unterminated string"),
        ("a.jsonl", b"[1]", r"row 1: a row must be an object with text"),
        ("a.jsonl", b'{"text": "\xff"}', r"row 1: not UTF-8 at byte 10"),
        ("a.pdf", b"%PDF", r"a\.pdf: cannot read this kind of file; known: \.txt, \.md"),
    ],
)
def test_refusals(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        names_and_texts(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_path_and_an_empty_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        files(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"no file to read in this folder; known: \.txt"):
        files(str(tmp_path))
