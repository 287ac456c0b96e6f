"""Compile the Triton kernels ahead of time and write what the compilers made of them.

    python scripts/kernels.py                      compile what has changed, write docs/kernels.md
    python scripts/kernels.py check=true           as CI does: nothing is written
    python scripts/kernels.py kernel=mla arch=sm_90    some of them, printed only

kernel=<text>      only kernels whose name begins with it; prints, writes nothing
arch=<name>        only this architecture; prints, writes nothing
all=true           compile everything, changed or not
check=true         compile what has changed and one tile of each kernel and gated architecture;
                   exit code 1 if one is not clean, or differs from the record
jobs=<n>           compilers at a time, as many as there are cores by default

No GPU is needed and none is used: this says what the code is, not how fast it runs.
"""

import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError
from scripts.arguments import read

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "kernels.json"
PAGE = ROOT / "docs" / "kernels.md"
DEFAULTS = {"kernel": "", "arch": "", "all": False, "check": False, "jobs": os.cpu_count() or 1}
# What a compiler may change from one build of itself to the next is compared too: same version.
COMPARED = ("registers", "stack_bytes", "spills", "shared_bytes", "matrix", "load_bits", "copies")


def compile_row(name: tuple[str, str, str, str]) -> dict[str, Any]:
    """Compile a line of the record by its name, in a process of its own."""
    from plm.kernels.aot import compile_one
    from plm.kernels.catalogue import rows

    row = next(row for row in rows() if row.name == name)
    made = compile_one(row.kernel, row.case, row.arch, row.tile)
    return {**made.record(), "key": row.key(), "problems": made.problems(row.kernel.matrix)}


def compile_all(names: list[tuple[str, str, str, str]], jobs: int) -> list[dict[str, Any]]:
    """Compile lines, several at a time; a dot each on a terminal."""
    found = []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for made in pool.map(compile_row, names):
            found.append(made)
            if sys.stderr.isatty():
                print(f"\r{len(found)} of {len(names)}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty() and names:
        print(file=sys.stderr)
    return found


def load(path: Path) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    """The record's lines by name; empty where it is of another Triton or not there."""
    import triton

    try:
        record = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    if record["triton"] != triton.__version__:
        return {}
    empty = {"matrix": "", "copies": "", "failed": "", "problems": []}
    rows = [{**empty, **row} for row in record["rows"]]
    return {(r["kernel"], r["case"], r["arch"], r["tile"]): r for r in rows}


def write(found: list[dict[str, Any]]) -> None:
    """Write the record and its page."""
    import triton

    # What is empty is left out: of a clean line, its problems.
    kept = ({k: v for k, v in row.items() if v or v == 0} for row in found)
    lines = ",\n".join(json.dumps(row) for row in kept)
    RECORD.write_text(
        f'{{"triton": "{triton.__version__}", "rows": [\n{lines}\n]}}\n', "utf-8"
    )  # fmt: skip
    PAGE.write_text(page(found, triton.__version__), "utf-8")


def page(found: list[dict[str, Any]], version: str) -> str:
    """The record as Markdown."""
    from plm.kernels.tiles import GATED, SHARED_KIB

    clean = sum(not row["problems"] for row in found)
    text = [
        "# What the compilers make of the kernels\n",
        f"Written by `make kernels` with triton {version}. Compiled ahead of time, on a machine "
        "without a GPU; none of it has run on one. "
        f"{clean} of {len(found)} lines are clean: no stack, no spill, shared memory within the "
        "limit, the architecture's own matrix instruction in the kernels that multiply matrices, "
        f"loads of 128 bits in the others. {', '.join(GATED)} must be clean, or a test fails.\n",
        "Tiles are the kernel's block sizes, warps (w), pipeline stages (s) and, where one is set, "
        "the limit on registers (r). The first of an architecture is what is taken where nothing "
        "was tuned.\n",
        "| architecture | shared memory of a block, at most |\n|---|---|",
        *(f"| {arch} | {kib} KiB |" for arch, kib in SHARED_KIB.items()),
    ]
    for kernel in dict.fromkeys(row["kernel"] for row in found):
        text.append(f"\n## {kernel}\n")
        cases = dict.fromkeys(row["case"] for row in found if row["kernel"] == kernel)
        text.append(f"Cases: {', '.join(cases)}; the most that any of them needs.\n")
        text.append("| architecture | tile | registers | shared | matrix | copies | load |")
        text.append("|---|---|---|---|---|---|---|")
        grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in found:
            if row["kernel"] == kernel:
                grouped.setdefault((row["arch"], row["tile"]), []).append(row)
        text += [_line(_most(rows)) for rows in grouped.values()]
    return "\n".join(text) + "\n"


def _most(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One line for all cases of a tile: the most they need, the least they reach."""
    problems = [f"{r['case']}: {'; '.join(r['problems'])}" for r in rows if r["problems"]]
    return {
        **rows[0],
        "registers": max(row["registers"] for row in rows),
        "shared_bytes": max(row["shared_bytes"] for row in rows),
        "load_bits": min(row["load_bits"] for row in rows),
        "problems": problems,
    }


def _line(row: dict[str, Any]) -> str:
    shared = f"{row['shared_bytes'] / 1024:.1f} KiB" if row["shared_bytes"] else "–"
    problem = f" **{'; '.join(row['problems'])}**" if row["problems"] else ""
    cells = (
        row["arch"], row["tile"] + problem, str(row["registers"]), shared,
        row["matrix"] or "–", row["copies"] or "–", f"{row['load_bits']} bits",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def differences(made: Iterable[dict[str, Any]], record: dict) -> list[str]:
    """What is not clean on a gated architecture, or is not as the record says."""
    from plm.kernels.tiles import GATED

    found = []
    for row in made:
        name = (row["kernel"], row["case"], row["arch"], row["tile"])
        label = " / ".join(name)
        if row["problems"] and row["arch"] in GATED:
            found.append(f"{label}: {'; '.join(row['problems'])}")
        known = record.get(name)
        if known is None or known["key"] != row["key"]:
            found.append(f"{label}: changed since docs/kernels.json was written; make kernels")
            continue
        for field in COMPARED:
            if known[field] != row[field]:
                found.append(f"{label}: {field} {row[field]}, recorded {known[field]}")
    return found


def check(jobs: int) -> int:
    """Compile what has changed and a sample of the rest; the exit code."""
    from plm.kernels.catalogue import probes, rows

    record, wanted = load(RECORD), {row.name: row.key() for row in rows()}
    changed = [name for name, key in wanted.items() if record.get(name, {}).get("key") != key]
    names = list(dict.fromkeys([*changed, *(row.name for row in probes())]))
    found = differences(compile_all(names, jobs), record)
    found += [f"{' / '.join(name)}: recorded, but no longer there; make kernels"
              for name in record if name not in wanted]  # fmt: skip
    for line in found:
        print(line, file=sys.stderr)
    print(f"{len(names)} of {len(wanted)} lines compiled, {len(found)} complaints")
    return 1 if found else 0


def update(everything: bool, jobs: int) -> int:
    """Compile what has changed, write the record and its page; the exit code."""
    from plm.kernels.catalogue import rows
    from plm.kernels.tiles import GATED

    record = {} if everything else load(RECORD)
    wanted = {row.name: row.key() for row in rows()}
    changed = [name for name, key in wanted.items() if record.get(name, {}).get("key") != key]
    made = dict(zip(changed, compile_all(changed, jobs), strict=True))
    found = [made.get(name) or record[name] for name in wanted]
    write(found)
    bad = [row for row in found if row["problems"] and row["arch"] in GATED]
    print(PAGE.read_text("utf-8"))
    print(f"{len(changed)} of {len(wanted)} lines compiled; {len(bad)} not clean that must be")
    return 1 if bad else 0


def show(kernel: str, arch: str, jobs: int) -> int:
    """Compile some and print them; the exit code."""
    from plm.kernels.catalogue import kernels, rows
    from plm.kernels.tiles import SHARED_KIB

    if arch and arch not in SHARED_KIB:
        raise ConfigError(f"arch={arch} is not one of: {', '.join(SHARED_KIB)}")
    known = kernels()
    chosen = [k for k in known if k.name.startswith(kernel)]
    if not chosen:
        raise ConfigError(f"kernel={kernel}: none begins so; {', '.join(k.name for k in known)}")
    names = [row.name for row in rows(chosen) if arch in ("", row.arch)]
    for row in compile_all(names, jobs):
        print(f"{row['kernel']} {row['case']} {_line(row)}")
    return 0


def main(arguments: list[str]) -> int:
    """Do what the arguments say; the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    # Kernels are compiled here, never interpreted; before triton is imported.
    os.environ["TRITON_INTERPRET"] = "0"
    try:
        own = read(arguments, DEFAULTS, numbers=("jobs",), flags=("all", "check"))
        if own["jobs"] < 1:
            raise ConfigError(f"jobs={own['jobs']} must be at least 1")
        if own["kernel"] or own["arch"]:
            return show(own["kernel"], own["arch"], own["jobs"])
        return check(own["jobs"]) if own["check"] else update(own["all"], own["jobs"])
    except PlmError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
