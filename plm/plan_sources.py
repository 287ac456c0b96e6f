"""What a run reads of each source, and how often that is the same text again.

Paper: Muennighoff et al., Scaling Data-Constrained Language Models (arXiv:2305.16264): up to four
epochs cost next to nothing against fresh text; later ones are worth less and less.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from plm.data.open import find_data
from plm.data.order import Quotas
from plm.data.prepared import MANIFEST
from plm.data.recipe import load_recipe
from plm.phases import Plan

MANY_EPOCHS = 4
"""More readings of one source than this are warned of, where data.max_epochs says nothing else."""


def source_rows(plan: Plan, there: Mapping[str, int]) -> list[dict[str, Any]]:
    """Tokens that each phase reads of each source, as the order of data deals them out.

    Args:
        plan: the phases, resolved.
        there: tokens that a source has, where that is known.
    Returns:
        One entry a phase and source; `epochs` of that phase and `epochs_so_far` are None where the
        source's size is unknown.
    """
    found, read = [], dict.fromkeys(plan.sources(), 0)
    for planned in plan.phases:
        quotas = Quotas.of(planned)
        counts = quotas.counts(np.int64(planned.windows))
        for name, count in zip(quotas.names, counts, strict=True):
            tokens = int(count) * planned.phase.seq_len
            read[name] += tokens
            size = there.get(name)
            found.append(
                {
                    "phase": planned.phase.name,
                    "source": name,
                    "tokens": tokens,
                    "epochs": tokens / size if size else None,
                    "epochs_so_far": read[name] / size if size else None,
                }
            )
    return found


def prepared_tokens(data: Mapping[str, Any]) -> dict[str, int]:
    """Tokens of each source's train split, if these data have been prepared; else empty.

    Args:
        data: the node `data`.
    """
    if load_recipe(data["recipe"]).takes_path and not data.get("path"):
        # A round's pairs are there when the run has sampled them.
        return {}
    folder = find_data(data)
    if folder is None:
        return {}
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return {name: entry["train"]["tokens"] for name, entry in manifest["sources"].items()}


def source_sizes(
    data: Mapping[str, Any], told: Mapping[str, int] | None = None
) -> dict[str, dict[str, Any]]:
    """What is known of each source's size.

    Args:
        data: the node `data`.
        told: tokens that the user says a source has.
    Returns:
        By source: `size` in tokens and `size_from` (told, prepared or published), None where
        nothing is known; `max_bytes` that the recipe streams, None where it sets none or where the
        size is not the published one.
    """
    told, prepared = told or {}, prepared_tokens(data)
    sources = load_recipe(data["recipe"]).sources
    found = {}
    for name in dict.fromkeys([*sources, *told]):
        published = sources[name].published_tokens if name in sources else None
        known = [("told", told.get(name)), ("prepared", prepared.get(name))]
        known.append(("published", published))
        origin, size = next(((o, s) for o, s in known if s), (None, None))
        streamed = sources[name].origin.get("max_bytes") if name in sources else None
        if origin in ("told", "prepared"):
            streamed = None
        found[name] = {"size": size, "size_from": origin, "max_bytes": streamed}
    return found


def source_totals(
    plan: Plan,
    sizes: Mapping[str, Mapping[str, Any]],
    most: float | Mapping[str, float | None] | None = MANY_EPOCHS,
) -> list[dict[str, Any]]:
    """What the whole run reads of each source, against what there is.

    Args:
        plan: the phases, resolved.
        sizes: as `source_sizes` gives them.
        most: how often a source may be read, for all or by source; None: no limit.
    Returns:
        By source: its entry of `sizes`, `tokens`, `epochs` over its size or None, `max_epochs`,
        and `epochs_at_least` where the recipe streams a part: no token is shorter than a byte.
    """
    nothing = {"size": None, "size_from": None, "max_bytes": None}
    totals = dict.fromkeys(plan.sources(), 0)
    for row in source_rows(plan, {}):
        totals[row["source"]] += row["tokens"]
    found = []
    for name, tokens in totals.items():
        about = {**nothing, **sizes.get(name, {})}
        size, streamed = about["size"], about["max_bytes"]
        found.append(
            {
                "source": name,
                "tokens": tokens,
                **about,
                "epochs": tokens / size if size else None,
                "max_epochs": most.get(name) if isinstance(most, Mapping) else most,
                "epochs_at_least": tokens / streamed if streamed else None,
            }
        )
    return found
