"""The style guide's limits, read off the tree: sizes, names, targets and what has no place here."""

import ast
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
TOP_LEVEL = set(
    ".ci .gitignore CONTRIBUTING.md LICENSE Makefile README.md configs data_recipes docs "
    "hydra_plugins plm pyproject.toml requirements.lock scripts tests train.py".split()
)
# Where a method is a Python file, a YAML and a test of one name.
METHOD_GROUPS = (
    "advantage aggregation candidates compress correction divergence environment export loss "
    "optimizer pairing policy preference regularizer reward scaling schedule selection synthesis "
    "transform model/activation model/attention model/block model/embedding model/head "
    "model/linear model/matmul model/mlp model/norm"
).split()
LEFTOVERS = set("build data dist runs wandb".split())
HIDDEN = set(
    "node_modules __pycache__ .git .hypothesis .pytest_cache .ruff_cache .venv .venv-peers "
    ".llama-cpp .llama-cpp.partial .transformers".split()
)
# Put together here, so that this file does not hold what it looks for.
OPEN_WORK = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")
MACHINE_PATH = re.compile(r"(?<![\w.\-/])/(?:" + "|".join(("work", "root", "home")) + r")/")
UNWRITTEN = "NotImplemented" + "Error"


def files(root: Path) -> list[str]:
    """Paths of the project's files: what git would keep, or what lies there without git."""
    listing = subprocess.run(
        ["git", "-C", root, "ls-files", "-co", "--exclude-standard", "-z"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0 and (root / ".git").exists():
        return sorted(name for name in listing.stdout.split("\0") if (root / name).is_file())
    found = []
    for folder, folders, names in os.walk(root):
        skipped = HIDDEN | LEFTOVERS if Path(folder) == root else HIDDEN
        folders[:] = [f for f in folders if f not in skipped and not f.endswith(".egg-info")]
        found += [Path(folder, name).relative_to(root).as_posix() for name in names]
    return sorted(found)


def _python(root: Path, *tops: str) -> Iterator[tuple[str, str]]:
    for name in files(root):
        if name.endswith(".py") and (not tops or name.split("/")[0] in tops):
            yield name, (root / name).read_text("utf-8")


def _product(root: Path) -> Iterator[tuple[str, str]]:
    return _python(root, "plm", "scripts", "hydra_plugins", "train.py")


def file_sizes(root: Path) -> Iterator[str]:
    for name, text in _product(root):
        stage = re.fullmatch(r"plm/stages/[^/]+\.py", name)
        limit = 80 if name == "train.py" else 250 if stage else 400
        if (lines := len(text.splitlines())) > limit:
            yield f"{name}: {lines} lines, at most {limit}"


def function_sizes(root: Path) -> Iterator[str]:
    for name, text in _product(root):
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            jitted = any(re.search(r"\bjit\b", ast.unparse(d)) for d in node.decorator_list)
            limit = 150 if jitted else 80
            lines = node.end_lineno - node.lineno + 1
            if lines > limit:
                yield f"{name}:{node.lineno} {node.name}: {lines} lines, at most {limit}"


def docstrings(root: Path) -> Iterator[str]:
    for name, text in _product(root):
        if text.strip() and not ast.get_docstring(ast.parse(text)):
            yield f"{name}: opens without a docstring"


def line_lengths(root: Path) -> Iterator[str]:
    for name in files(root):
        if name.endswith((".py", ".yaml", ".toml")) or name in ("Makefile", ".ci/run"):
            for number, line in enumerate((root / name).read_text("utf-8").splitlines(), 1):
                if len(line) > 100:
                    yield f"{name}:{number}: {len(line)} characters, at most 100"


def places(root: Path) -> Iterator[str]:
    for name in files(root):
        if name.split("/")[0] not in TOP_LEVEL:
            yield f"{name}: has no place at the top level"
        if name.endswith("/utils.py"):
            yield f"{name}: name it after what it holds"


def contents(root: Path) -> Iterator[str]:
    for name in files(root):
        try:
            text = (root / name).read_text("utf-8")
        except UnicodeDecodeError:
            continue
        product = name.startswith(("plm/", "scripts/", "train.py"))
        for number, line in enumerate(text.splitlines(), 1):
            if OPEN_WORK.search(line):
                yield f"{name}:{number}: work left open"
            if MACHINE_PATH.search(line):
                yield f"{name}:{number}: a path of one machine"
            if product and UNWRITTEN in line:
                yield f"{name}:{number}: {UNWRITTEN}"


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_":
                yield str(value)
            elif key != "hydra":
                yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)


def _yaml(root: Path) -> Iterator[tuple[str, Any]]:
    for name in files(root):
        top = name.split("/")[0]
        ours = top in ("configs", "data_recipes") and not name.startswith("configs/hydra/")
        if ours and name.endswith(".yaml"):
            yield name, yaml.safe_load((root / name).read_text("utf-8"))


def _defined(path: Path) -> set[str]:
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def targets(root: Path) -> Iterator[str]:
    """Each `_target_` is of ours, its file is there, and the file defines the name."""
    for name, content in _yaml(root):
        for target in _targets(content):
            module, _, attribute = target.rpartition(".")
            path = root / (module.replace(".", "/") + ".py")
            if not target.startswith("plm."):
                yield f"{name}: {target} lies outside plm."
            elif not path.is_file():
                yield f"{name}: {target} has no file {path.relative_to(root)}"
            elif attribute not in _defined(path):
                yield f"{name}: {target} is not defined in {path.relative_to(root)}"


def methods(root: Path) -> Iterator[str]:
    """Python, YAML and test of a method agree in name."""
    present = set(files(root))
    for group in METHOD_GROUPS:
        for name in sorted(present):
            match = re.fullmatch(rf"plm/{group}/([a-z]\w*)\.py", name)
            if not match or match[1] == "common":
                continue
            for other in (
                f"configs/{group}/{match[1]}.yaml",
                f"tests/{group}/test_{match[1]}.py",
            ):
                if other not in present:
                    yield f"{name}: {other} is missing"
            config = root / f"configs/{group}/{match[1]}.yaml"
            if config.is_file():
                target = (yaml.safe_load(config.read_text("utf-8")) or {}).get("_target_", "")
                if not target.startswith(f"plm.{group.replace('/', '.')}.{match[1]}."):
                    yield f"{config.relative_to(root)}: _target_={target} is not in {name}"


RULES: list[Callable[[Path], Iterator[str]]] = [
    file_sizes,
    function_sizes,
    docstrings,
    line_lengths,
    places,
    contents,
    targets,
    methods,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps(rule: Callable[[Path], Iterator[str]]):
    complaints = list(rule(ROOT))
    assert not complaints, "\n" + "\n".join(complaints)


BODY = "    x = 1\n"
LOSS = {"plm/loss/a.py": '"""A."""\n\ndef a(): ...\n', "tests/loss/test_a.py": ""}
BAD = [
    (file_sizes, {"train.py": "x = 1\n" * 81}, "train.py: 81 lines, at most 80"),
    (file_sizes, {"plm/stages/s.py": "x = 1\n" * 251}, "plm/stages/s.py: 251 lines, at most 250"),
    (file_sizes, {"scripts/s.py": "x = 1\n" * 401}, "scripts/s.py: 401 lines, at most 400"),
    (function_sizes, {"plm/a.py": "def f():\n" + BODY * 80}, "plm/a.py:1 f: 81 lines, at most 80"),
    (
        function_sizes,
        {"plm/a.py": "@triton.jit\ndef f():\n" + BODY * 150},
        "plm/a.py:2 f: 151 lines, at most 150",
    ),
    (docstrings, {"plm/loss/a.py": "x = 1\n"}, "plm/loss/a.py: opens without a docstring"),
    (line_lengths, {"configs/a.yaml": "#" * 101}, "configs/a.yaml:1: 101 characters, at most 100"),
    (places, {"notes.txt": ""}, "notes.txt: has no place at the top level"),
    (places, {"plm/data/utils.py": ""}, "plm/data/utils.py: name it after what it holds"),
    (contents, {"docs/a.md": "\nTO" + "DO later"}, "docs/a.md:2: work left open"),
    (contents, {"docs/a.md": "see /ro" + "ot/x"}, "docs/a.md:1: a path of one machine"),
    (contents, {"plm/a.py": f"raise {UNWRITTEN}"}, f"plm/a.py:1: {UNWRITTEN}"),
    (
        targets,
        {"configs/a.yaml": "x: [{_target_: os.system}]"},
        "configs/a.yaml: os.system lies outside plm.",
    ),
    (
        targets,
        {"configs/a.yaml": "_target_: plm.b.c"},
        "configs/a.yaml: plm.b.c has no file plm/b.py",
    ),
    (
        targets,
        {"configs/a.yaml": "_target_: plm.b.c", "plm/b.py": "d = 1\n"},
        "configs/a.yaml: plm.b.c is not defined in plm/b.py",
    ),
    (methods, LOSS, "plm/loss/a.py: configs/loss/a.yaml is missing"),
    (
        methods,
        {"plm/loss/a.py": "", "configs/loss/a.yaml": "_target_: plm.loss.a.a"},
        "plm/loss/a.py: tests/loss/test_a.py is missing",
    ),
    (
        methods,
        {**LOSS, "configs/loss/a.yaml": "_target_: plm.loss.b.b"},
        "configs/loss/a.yaml: _target_=plm.loss.b.b is not in plm/loss/a.py",
    ),
]


def _write(root: Path, tree: dict[str, str]) -> None:
    for name, text in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")


@pytest.mark.parametrize(("rule", "tree", "complaint"), BAD)
def test_a_breach_is_named(rule, tree: dict[str, str], complaint: str, tmp_path: Path):
    _write(tmp_path, tree)
    assert list(rule(tmp_path)) == [complaint]


def test_what_is_allowed_passes(tmp_path: Path):
    _write(
        tmp_path,
        {
            **LOSS,
            "configs/loss/a.yaml": "_target_: plm.loss.a.a\n",
            "configs/config.yaml": "hydra:\n  launcher: {_target_: hydra.x.Y}\n",
            "plm/loss/__init__.py": "",
            "plm/kernels/k.py": '"""K."""\n\n@triton.jit\ndef f():\n' + BODY * 149,
            "docs/a.md": "https://example.org/home/page and ../work/x",
            ".venv/lib/utils.py": "x\n" * 500,
        },
    )
    assert [complaint for rule in RULES for complaint in rule(tmp_path)] == []
