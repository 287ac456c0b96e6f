"""Text that is on every machine which has installed the project: Python and named distributions.

Only files that a distribution's own record lists are read, in sorted order, so that what else
lies in the environment changes nothing.
"""

import ast
import csv
import email
import inspect
import os
import re
import sysconfig
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from plm.data.documents import Document, Origin
from plm.data.tally import Tally

PYTHON = "python"
"""Name under which the standard library stands in a list of distributions."""

_SKIP = re.compile(
    r"(^|/)(tests?|testing|_?vendor(ed)?|_vendor|externals|third_party|thirdparty|_generated"
    r"|generated|__pycache__|test_[^/]*|[^/]*_tests?\.py|conftest\.py"
    # Written by the build, with the names of its machine and compilers.
    r"|_*(generated_)?version[^/]*\.py|__config__\.py|_?build_config\.py)(/|$)"
)
# Left out by some builds, or written by the build itself.
_STDLIB_SKIP = re.compile(
    r"^(test|idlelib|lib2to3|tkinter|turtledemo|ensurepip|distutils|pydoc_data|encodings"
    r"|site-packages|dist-packages|lib-dynload|config-[^/]*|_sysconfigdata[^/]*|sysconfig\.py"
    r"|site\.py|sitecustomize\.py|_distutils_system_mod\.py|__phello__[^/]*|ctypes/macholib)(/|$)"
)
_MANUAL = {"LICENSE.txt": "readme", "pydoc_data/topics.py": "topics"}
_README = re.compile(
    r"(^|/)((readme|changes|changelog|history|news|contributing|authors|security)[^/]*"
    r"\.(md|rst|txt)|[^/]*\.(md|rst))$",
    re.IGNORECASE,
)
_LICENCE = re.compile(r"(^|/)(licen[cs]e|copying|notice)[^/]*$", re.IGNORECASE)


class _File(NamedTuple):
    path: str
    name: str
    group: str
    size: int
    kind: str


def code(
    distributions: list[str],
    *,
    only: dict[str, list[str]] | None = None,
    max_file_bytes: int = 100_000,
) -> Origin:
    """The `.py` files of the distributions, tests, vendored and generated ones left out.

    Args:
        distributions: names; "python" is the standard library.
        only: for a distribution, the folders or files to take of it.
        max_file_bytes: longer files are tables or generated.
    """
    items, facts = _collect(distributions, only or {}, ("code",))
    return Origin(items, partial(_read, max_file_bytes=max_file_bytes), _size, facts)


def prose(
    docstrings: list[str],
    readmes: list[str],
    *,
    only: dict[str, list[str]] | None = None,
    max_file_bytes: int = 400_000,
    least_docstring: int = 80,
) -> Origin:
    """Docstrings, readmes, licences, and Python's own reference manual (pydoc's topics).

    Args:
        docstrings: distributions whose modules' docstrings are taken, one document a module.
        readmes: distributions whose readmes, change logs and licences are taken; licences only
            where the wheel is pure Python, since others append those of bundled libraries, which
            differ between systems.
        only: for a distribution, the folders or files to take docstrings from.
        max_file_bytes: longer files are left out.
        least_docstring: characters below which a docstring is left out.
    """
    doc_items, doc_facts = _collect(docstrings, only or {}, ("docstrings",))
    readme_items, facts = _collect(readmes, {}, ("readme",))
    facts["licences"] |= doc_facts["licences"]
    facts["missing"] = sorted({*facts["missing"], *doc_facts["missing"]})
    read = partial(_read, max_file_bytes=max_file_bytes, least_docstring=least_docstring)
    return Origin([*doc_items, *readme_items], read, _size, facts)


def code_files(distributions: list[str], only: dict[str, list[str]]) -> tuple[list[_File], dict]:
    """The files that `code` reads, and what a manifest says of them."""
    return _collect(distributions, only, ("code",))


def _size(item: _File) -> int:
    # Parsing for docstrings costs several times as much as reading.
    return item.size * (3 if item.kind == "docstrings" else 1)


def _collect(
    distributions: list[str], only: dict[str, list[str]], kinds: tuple[str, ...]
) -> tuple[list[_File], dict]:
    items: list[_File] = []
    licences: dict[str, str] = {}
    missing: list[str] = []
    for name in sorted(distributions):
        if name == PYTHON:
            found = _stdlib(kinds)
            licences[name] = "PSF-2.0"
        else:
            try:
                distribution = metadata.distribution(name)
            except metadata.PackageNotFoundError:
                missing.append(name)
                continue
            licences[name] = _licence(distribution)
            found = _distribution(distribution, name, kinds)
        roots = only.get(name)
        if roots:
            found = [f for f in found if any(_under(f.name, root) for root in roots)]
        if not found and kinds != ("readme",):
            missing.append(name)
        if name == PYTHON and "readme" in kinds:
            there = {item.name for item in found}
            missing += [f"{PYTHON}/{file}" for file in _MANUAL if f"{PYTHON}/{file}" not in there]
        items += sorted(found, key=lambda item: item.name)
    return items, {"licences": licences, "missing": missing}


def _under(name: str, root: str) -> bool:
    return name == root or name.startswith(root.rstrip("/") + "/")


def _licence(distribution: metadata.Distribution) -> str:
    data = distribution.metadata
    written = data.get("License-Expression") or (data.get("License") or "").strip().split("\n")[0]
    trove = [
        line.rpartition("::")[2].strip()
        for line in data.get_all("Classifier") or []
        if line.startswith("License ::")
    ]
    return written[:100] or ", ".join(trove) or "not stated"


def _distribution(
    distribution: metadata.Distribution, group: str, kinds: tuple[str, ...]
) -> list[_File]:
    # Distribution.files makes an object of each of torch's thousands of lines: seconds in all.
    record = csv.reader((distribution.read_text("RECORD") or "").splitlines())
    pure = "Root-Is-Purelib: true" in (distribution.read_text("WHEEL") or "")
    found = []
    for name in (row[0] for row in record if row and not row[0].startswith("..")):
        kind = _kind(name, kinds)
        if kind is not None and (pure or not _LICENCE.search(name)):
            path = str(distribution.locate_file(name))
            if os.path.isfile(path):
                shown = f"{group}/README" if kind == "metadata" else name
                found.append(_File(path, shown, group, os.path.getsize(path), kind))
    return found


def _kind(name: str, kinds: tuple[str, ...]) -> str | None:
    """What a file is to us: one of the kinds asked for, metadata (a readme follows), or nothing."""
    in_info = ".dist-info/" in name
    if "readme" in kinds:
        if in_info and name.endswith(".dist-info/METADATA"):
            return "metadata"
        wanted = (in_info and _LICENCE.search(name)) or _README.search(name)
        return "readme" if wanted and not _SKIP.search(name) else None
    return kinds[0] if name.endswith(".py") and not in_info and not _SKIP.search(name) else None


def _stdlib(kinds: tuple[str, ...]) -> list[_File]:
    root = Path(sysconfig.get_paths()["stdlib"])
    if "readme" in kinds:
        return [
            _File(str(root / name), f"{PYTHON}/{name}", PYTHON, (root / name).stat().st_size, kind)
            for name, kind in _MANUAL.items()
            if (root / name).is_file()
        ]
    found = []
    for folder, folders, files in os.walk(root):
        base = Path(folder).relative_to(root)
        folders[:] = [f for f in folders if not _left_out((base / f).as_posix())]
        for file in files:
            name = (base / file).as_posix()
            if name.endswith(".py") and not _left_out(name):
                path = root / name
                size = path.stat().st_size
                found.append(_File(str(path), f"{PYTHON}/{name}", PYTHON, size, kinds[0]))
    return found


def _left_out(name: str) -> bool:
    return bool(_STDLIB_SKIP.search(name) or _SKIP.search(name))


def _read(
    item: _File, tally: Tally, *, max_file_bytes: int, least_docstring: int = 0
) -> Iterator[Document]:
    data = Path(item.path).read_bytes()
    if len(data) > max_file_bytes and item.kind != "topics":
        tally.drop("file too long", item.name)
        return
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        tally.drop("not UTF-8", item.name)
        return
    if item.kind in ("code", "readme"):
        yield Document(text, item.name, item.group)
    elif item.kind == "metadata":
        body = email.message_from_string(text.replace("\r\n", "\n")).get_payload()
        yield Document(str(body), item.name, item.group)
    elif item.kind == "topics":
        yield from _topics(text, item)
    else:
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError):
            tally.drop("not parsable", item.name, text)
            return
        module = item.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        parts = list(_docstrings(tree, module, least_docstring))
        if parts:
            yield Document("\n\n".join(parts), item.name, item.group)


def _docstrings(node: ast.AST, name: str, least: int) -> Iterator[str]:
    """Qualified name and docstring of a module and of all in it, in the file's order."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, documented):
        text = inspect.cleandoc(ast.get_docstring(node, clean=False) or "").strip()
        if len(text) >= least:
            yield f"{name}\n\n{text}"
    for child in getattr(node, "body", []) + getattr(node, "orelse", []):
        if isinstance(child, documented):
            yield from _docstrings(child, f"{name}.{child.name}", least)
        elif isinstance(child, ast.If | ast.Try):
            yield from _docstrings(child, name, least)


def _topics(text: str, item: _File) -> Iterator[Document]:
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            topics = ast.literal_eval(statement.value)
            for topic in sorted(topics):
                yield Document(topics[topic], f"{PYTHON}/topics/{topic}", item.group)
