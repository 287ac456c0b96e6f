"""Text of installed distributions: a made-up one, so that every rule is seen."""

import sys

import pytest

from plm.data.sources.installed import code, prose
from plm.data.tally import Tally

MODULE = '''"""Module text, long enough to be kept by the limit on length."""


class Box:
    """Box text, long enough to be kept by the limit on length too.

        Indented.
    """

    def open(self):
        """Short."""

    if True:

        def close(self):
            """Close text, long enough to be kept by the limit on length."""
'''


@pytest.fixture
def site(tmp_path, monkeypatch):
    files = {
        "madeup/b.py": "b = 1\n",
        "madeup/a.py": MODULE,
        "madeup/tests/test_a.py": "no\n",
        "madeup/_vendor/x.py": "no\n",
        "madeup/_version.py": "no\n",
        "madeup/latin.py": b"# \xe9\n",
        "madeup/long.py": "x = 1\n" * 200,
        "madeup/broken.py": "def (\n",
        "madeup/notes.txt": "no\n",
        "madeup/README.md": "Read me.\n",
        "madeup-1.0.dist-info/licenses/LICENSE": "Do as you like.\n",
        "madeup/_version_build.py": "no\n",
        "madeup/__config__.py": "no\n",
        "madeup-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n",
        "madeup-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: madeup\nVersion: 1.0\n"
        "License-Expression: MIT\n\nThe long description.\n",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    record = "".join(f"{name},,\n" for name in reversed(files)) + "../../bin/madeup,,\n"
    (tmp_path / "madeup-1.0.dist-info" / "RECORD").write_text(record)
    (tmp_path / "madeup" / "stray.py").write_text("not in the record\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def read(origin):
    tally = Tally()
    return [d for item in origin.items for d in origin.read(item, tally)], tally.dropped


def test_code_of_the_record_only(site):
    documents, drops = read(code(["madeup"], max_file_bytes=1000))
    assert [d.name for d in documents] == ["madeup/a.py", "madeup/b.py", "madeup/broken.py"]
    assert {d.group for d in documents} == {"madeup"}
    assert drops == {"not UTF-8": 1, "file too long": 1}


def test_only_some_folders(site):
    origin = code(["madeup"], only={"madeup": ["madeup/b.py", "madeup/nothing"]})
    assert [d.name for d in read(origin)[0]] == ["madeup/b.py"]
    assert origin.facts == {"licences": {"madeup": "MIT"}, "missing": []}


def test_prose(site):
    documents, drops = read(prose(["madeup"], ["madeup"], least_docstring=40))
    assert drops == {"not UTF-8": 1, "not parsable": 1}
    texts = {d.name: d.text for d in documents}
    assert list(texts) == [
        "madeup/a.py",
        "madeup-1.0.dist-info/licenses/LICENSE",
        "madeup/README",
        "madeup/README.md",
    ]
    assert texts["madeup/README"] == "The long description.\n"
    assert texts["madeup/a.py"] == (
        "madeup.a\n\nModule text, long enough to be kept by the limit on length.\n\n"
        "madeup.a.Box\n\nBox text, long enough to be kept by the limit on length too.\n\n"
        "Indented.\n\n"
        "madeup.a.Box.close\n\nClose text, long enough to be kept by the limit on length."
    )


def test_licences_of_wheels_with_binaries_are_left_out(site):
    (site / "madeup-1.0.dist-info" / "WHEEL").write_text("Root-Is-Purelib: false\n")
    names = [d.name for d in read(prose([], ["madeup"]))[0]]
    assert names == ["madeup/README", "madeup/README.md"]


def test_what_is_missing_is_said(site):
    origin = code(["madeup", "not-there-at-all"])
    assert origin.facts["missing"] == ["not-there-at-all"]


def test_python_itself():
    origin = code(["python"])
    names = [item.name for item in origin.items]
    assert names == sorted(names)
    assert "python/json/decoder.py" in names
    assert not [n for n in names if "/test" in n or "site-packages" in n or "idlelib" in n]
    topics, _ = read(prose([], ["python"]))
    assert any(d.name == "python/topics/assert" for d in topics)
