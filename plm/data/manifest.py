"""What a preparation says of what it made."""

import hashlib
import json
import os
import platform
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from plm.data.documents import Origin, place
from plm.data.pairs import SHOWN
from plm.data.prepared import MANIFEST, TOKENIZER, digest_of
from plm.data.recipe import Recipe
from plm.data.split import Leak
from plm.data.tally import Tallies
from plm.data.textstore import Entry
from plm.errors import ConfigError

PASSING = (".text", ".read", ".journal", ".partial")
"""Ends of the names of files that only the work needs."""

LARGE = 0.1
"""Share of a source that may be lost without a warning."""

_LISTED_GROUPS = 50
_LISTED_REASONS = 4


def told_of_source(
    val: list[Entry], leak: Leak, tallies: Tallies, cleaned: int = 0
) -> dict[str, Any]:
    """The leak, what the steps did, who validates, and how many documents came in.

    Args:
        cleaned: documents that the cleaning left, before the split.
    """
    groups = {entry.group for entry in val}
    before = (t for step, t in tallies.items() if step not in ("split", "encoding"))
    return {
        "came_in": cleaned + sum(tally.dropped.total() for tally in before),
        "leak": {"share": round(leak.share, 5), "lines": leak.lines, "found": leak.found},
        "steps": {step: tally.plain() for step, tally in tallies.items() if tally},
        "val_groups": sorted(groups)[:_LISTED_GROUPS],
        "n_val_groups": len(groups),
    }


def told_of_templates(recipe: Recipe, origins: dict[str, Origin]) -> dict[str, Any]:
    """The chat template, and how and to which prompts answers are shown; what of it there is.

    Raises:
        ConfigError: answers are shown in several ways.
    """
    found: dict[str, Any] = {}
    if (template := recipe.template) is not None:
        found["chat_template"], found["chat_template_sha256"] = template, _sha256(template)
    facts = [origin.facts for origin in origins.values()]
    shown = {kind for of in facts for kind in of.get("shown", ())}
    shown |= set(recipe.shown if recipe.pairs else ())
    if shown:
        found["shown"] = [kind for kind in SHOWN if kind in shown]
    texts = {recipe.refinement_text, *(of.get("refinement") for of in facts)} - {None}
    if len(texts) > 1:
        raise ConfigError(
            f"recipe {recipe.name}: its sources show answers with {len(texts)} templates, and a "
            "checkpoint knows one; give all the same template, or name one as data.refinement"
        )
    for text in texts:
        found["refinement"], found["refinement_sha256"] = text, _sha256(text)
    return found


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def nothing_left(name: str, origin: Origin, tallies: Tallies) -> str:
    """Why a source has no document, as one line."""
    start = f"source {name}: no document is left"
    if lost := dropped({step: tally.plain() for step, tally in tallies.items()}, origin.root):
        return f"{start}{lost}"
    if missing := ", ".join(origin.facts.get("missing", [])):
        return f"{start} (missing: {missing}); check its origin"
    return f"{start}: {origin.root or 'its origin'} holds nothing to read, or blanks alone"


def dropped(steps: dict[str, Any], root: str = "") -> str:
    """What a source's steps left out, and why the first one, in brackets; "" for nothing.

    Args:
        steps: as in the manifest.
        root: what the documents' names are relative to, see Origin.
    """
    lost = []
    for step, tally in steps.items():
        if not tally["dropped"]:
            continue
        counts = ", ".join(f"{reason} {n}" for reason, n in tally["dropped"].items())
        most = max(tally["dropped"], key=tally["dropped"].get)
        why = f": {tally['why'][most]}" if most in tally["why"] else ""
        lost.append(f"{step}: {counts}, first {place(tally['examples'][most][0][0], root)}{why}")
    return f" (dropped by {'; '.join(lost)})" if lost else ""


class Losses(NamedTuple):
    """What a source lost on its way from rows to tokens.

    Attributes:
        text: one line: how much, why, and the first.
        large: more than LARGE of it could not be read or trained on; what the recipe's own steps
            leave out does not count.
    """

    text: str
    large: bool


def losses(manifest: dict[str, Any]) -> list[Losses]:
    """What each source lost, for those that lost any.

    Args:
        manifest: of a preparation, or the copy of it that a run keeps.
    """
    found = []
    for name, about in manifest.get("sources", {}).items():
        came, steps = about.get("came_in"), about.get("steps") or {}
        reasons, first, unusable = Counter[str](), "", 0
        for step, tally in steps.items() if came else ():
            reasons.update(tally["dropped"])
            if step in ("read", "encoding"):
                unusable += sum(tally["dropped"].values())
            shown = [tally["examples"][reason][0][0] for reason in tally["dropped"]]
            first = first or next(iter(shown), "")
        if not came or not reasons:
            continue
        why = [f"{reason} {number:,}" for reason, number in reasons.most_common(_LISTED_REASONS)]
        why += ["…"] * (len(reasons) > _LISTED_REASONS)
        text = f"{name}: {reasons.total():,} of {came:,} ({', '.join(why)}), first {first}"
        found.append(Losses(text, unusable > LARGE * came))
    return found


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
