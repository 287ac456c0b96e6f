"""The index of papers: what is read from docstrings and how it is written."""

from pathlib import Path

from scripts.papers import Entry, entries, page, papers_of


def test_papers_of_reads_several_and_joins_wrapped_lines():
    text = (
        "Thing.\n\nPaper: One (arXiv:2109.08668)\nPaper: Two, a title\n    that goes on\n"
        "Cost: 1.\n  not part of a paper"
    )
    assert papers_of(text) == ["One (arXiv:2109.08668)", "Two, a title that goes on"]
    assert papers_of("Thing without a source.") == []


def test_entries_find_the_configuration_of_the_same_name(tmp_path: Path):
    (tmp_path / "plm/loss").mkdir(parents=True)
    (tmp_path / "configs/loss").mkdir(parents=True)
    (tmp_path / "plm/loss/b.py").write_text('"""B.\n\nPaper: Beta\n"""\n')
    (tmp_path / "plm/loss/a.py").write_text('"""A.\n\nPaper: Alpha\n"""\n')
    (tmp_path / "plm/loss/c.py").write_text("")
    (tmp_path / "configs/loss/a.yaml").write_text("_target_: plm.loss.a.a\n")
    assert entries(tmp_path) == [
        Entry("Alpha", "A", "plm/loss/a.py", "configs/loss/a.yaml"),
        Entry("Beta", "B", "plm/loss/b.py", None),
    ]


def test_page_links_arxiv_and_escapes_bars():
    text = page([Entry("So (arXiv:2109.08668)", "a | b", "plm/x.py", None)])
    row = text.splitlines()[-1]
    assert "So ([arXiv:2109.08668](https://arxiv.org/abs/2109.08668))" in row
    assert "a \\| b | [plm/x.py](../plm/x.py) |  |" in row
