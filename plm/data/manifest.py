"""What a preparation says of what it made."""

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

from plm.data.documents import Origin
from plm.data.prepared import MANIFEST, TOKENIZER, digest_of
from plm.data.recipe import Recipe
from plm.data.split import Leak
from plm.data.tally import Tallies
from plm.data.textstore import Entry

PASSING = (".text", ".read", ".journal", ".partial")
"""Ends of the names of files that only the work needs."""

_LISTED_GROUPS = 50


def told_of_source(val: list[Entry], leak: Leak, tallies: Tallies) -> dict[str, Any]:
    """The leak, what the steps did, and who validates."""
    groups = {entry.group for entry in val}
    return {
        "leak": {"share": round(leak.share, 5), "lines": leak.lines, "found": leak.found},
        "steps": {step: tally.plain() for step, tally in tallies.items() if tally},
        "val_groups": sorted(groups)[:_LISTED_GROUPS],
        "n_val_groups": len(groups),
    }


def nothing_left(name: str, origin: Origin, tallies: Tallies) -> str:
    """Why a source has no document, as one line."""
    lost = "; ".join(
        f"{step}: {', '.join(f'{reason} {n}' for reason, n in tally.dropped.items())}, first "
        f"{tally.examples[next(iter(tally.dropped))][0][0]}"
        for step, tally in tallies.items()
        if tally.dropped
    )
    missing = ", ".join(origin.facts.get("missing", []))
    why = f" (dropped by {lost})" if lost else f" (missing: {missing})" if missing else ""
    return f"source {name}: no document is left{why}; check its origin and its steps"


def dropped(steps: dict[str, Any]) -> str:
    """What a source's steps left out, in brackets, from the manifest's `steps`; "" for nothing."""
    lost = "; ".join(
        f"{step}: {', '.join(f'{reason} {n}' for reason, n in tally['dropped'].items())}"
        for step, tally in steps.items()
        if tally["dropped"]
    )
    return f" (dropped by {lost})" if lost else ""


def differences(recipe: Recipe, key: dict[str, Any], origins: dict[str, Origin]) -> list[str]:
    """Why figures on this text do not compare with those on the recipe's own."""
    here = key["versions"]
    reasons = [
        f"{name} is {here[name] or 'missing'}, the recipe names {version}"
        for name, version in recipe.versions.items()
        if here[name] != version
    ]
    for name, origin in origins.items():
        missing = [m for m in origin.facts.get("missing", []) if here.get(m, "") is not None]
        if missing:
            reasons.append(f"source {name}: nothing found of {', '.join(missing)}")
    return reasons


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Add the files' hashes and the fingerprint; written last, and whole.

    Args:
        folder: all that was made.
        facts: all else that the manifest holds.
    """
    files = _hashes(folder)
    marks = "".join(
        f"{name} {file['sha256']}\n"
        for name, file in sorted(files.items())
        if name.endswith((".bin", ".idx")) or name == TOKENIZER
    )
    manifest = {
        **facts,
        "fingerprint": hashlib.sha256(marks.encode()).hexdigest(),
        "comparable": not facts["not_comparable_because"],
        "files": files,
        "machine": f"{platform.system()} {platform.machine()}",
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False, default=str) + "\n"
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, folder / MANIFEST)


def _hashes(folder: Path) -> dict[str, dict[str, Any]]:
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in PASSING:
            continue
        files[path.name] = {"bytes": path.stat().st_size, "sha256": digest_of(path)}
    return files
