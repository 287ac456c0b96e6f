"""Write docs/papers.md: which paper stands behind which file and which configuration.

Read from the opening docstrings in plm/, where a paper stands as `Paper: authors, title (arXiv:…)`;
a line that is indented below goes on with it. Run it as `make papers`.
"""

import ast
import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
HEADER = """# Papers

Written by `make papers` from the opening lines of the files.

| paper | what | file | configuration |
|---|---|---|---|
"""


class Entry(NamedTuple):
    """One paper of one file."""

    paper: str
    what: str
    file: str
    config: str | None


def papers_of(docstring: str) -> list[str]:
    """The papers that a docstring names, each on one line."""
    papers: list[str] = []
    inside = False
    for line in docstring.splitlines():
        if line.startswith("Paper:"):
            papers.append(line.removeprefix("Paper:").strip())
            inside = True
        elif inside and line.startswith(" ") and line.strip():
            papers[-1] += " " + line.strip()
        else:
            inside = False
    return papers


def entries(root: Path) -> list[Entry]:
    """All papers under `root/plm`, in the order of the files."""
    found = []
    for path in sorted((root / "plm").rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        file = path.relative_to(root)
        config = Path("configs", *file.parts[1:]).with_suffix(".yaml")
        present = config.as_posix() if (root / config).is_file() else None
        what = docstring.partition("\n")[0].rstrip(".")
        found += [Entry(paper, what, file.as_posix(), present) for paper in papers_of(docstring)]
    return found


def page(found: list[Entry]) -> str:
    """The index as Markdown; arXiv numbers become links."""
    rows = []
    for entry in found:
        paper = re.sub(
            r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", entry.paper
        )
        links = [f"[{name}](../{name})" if name else "" for name in (entry.file, entry.config)]
        cells = (cell.replace("|", "\\|") for cell in (paper, entry.what, *links))
        rows.append(f"| {' | '.join(cells)} |\n")
    return HEADER + "".join(rows)


def main() -> int:
    """Write the page; the exit code."""
    found = entries(ROOT)
    target = ROOT / "docs" / "papers.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text(page(found), "utf-8")
    files = len({entry.file for entry in found})
    print(f"docs/papers.md: {len(found)} papers in {files} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
