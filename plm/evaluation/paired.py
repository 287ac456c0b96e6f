"""Two results on the same items, item by item.

McNemar's exact test for right and wrong; a test by flipped signs for shares of samples; mean paired
differences with a standard error for losses. Intervals of the first two are the bootstrap's.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from plm.errors import ConfigError
from plm.evaluation.generated import BOOTSTRAP_SEED
from plm.evaluation.statistics import (
    Z95,
    bootstrap,
    mcnemar,
    normal_p,
    pass_at_k,
    ratio_of,
    sign_flip,
)

Items = list[dict[str, Any]]


@dataclass(frozen=True)
class Compared:
    """One figure of two results.

    Attributes:
        task, figure: what was measured.
        first, second: its values.
        difference: second less first.
        low, high: 95 % interval of the difference; NaN where no item tells the two apart.
        p: two-sided, that there is no difference.
        test: mcnemar, sign_flip or normal.
        n: items in common, which is all of them.
        only_first, only_second: items that one alone got right; None for other tests.
    """

    task: str
    figure: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float
    test: str
    n: int
    only_first: int | None = None
    only_second: int | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON holds it: NaN becomes null."""
        return {
            k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in asdict(self).items()
        }


def compare(task: str, first: dict[str, Any], second: dict[str, Any]) -> list[Compared]:
    """Every figure that two stored results of a task have in common, tested pair by pair.

    Args:
        task: its name.
        first, second: as `plm.evaluation.stored` reads them.
    Raises:
        ConfigError: they are not on the same items, with the same seeds and settings.
    """
    same_items(task, first, second)
    left, right = _sorted(first["items"]), _sorted(second["items"])
    if left and "nats" in left[0]:
        return _losses(task, left, right)
    if left and "correct" in left[0]:
        found = _answers(task, left, right, first["settings"])
        if "values" in left[0] and "values" in right[0]:
            # Of a refined task: what its figures are means of.
            found += _values(task, left, right, set(first["figures"]) & set(second["figures"]))
        return found
    return _values(task, left, right)


def same_items(task: str, first: dict[str, Any], second: dict[str, Any]) -> None:
    """Refuse results that cannot be paired.

    Raises:
        ConfigError: what differs.
    """
    keys = dict.fromkeys([*first["settings"], *second["settings"]])
    missing = object()
    found = [
        f"{key}={_short(first['settings'].get(key))} and {_short(second['settings'].get(key))}"
        for key in keys
        if first["settings"].get(key, missing) != second["settings"].get(key, missing)
    ]
    if found:
        raise ConfigError(
            f"{task}: the two were not evaluated alike ({'; '.join(found[:4])}); evaluate both "
            "with the same settings"
        )
    names = [[r["id"] for r in _sorted(result["items"])] for result in (first, second)]
    if first["digest"] != second["digest"] or names[0] != names[1]:
        raise ConfigError(
            f"{task}: the two are on different items ({len(names[0])} and {len(names[1])}; hashes "
            f"{first['digest'][:8]} and {second['digest'][:8]}); evaluate both on the same"
        )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "…"


def _sorted(items: Items) -> Items:
    return sorted(items, key=lambda r: r["index"])


def _groups(left: Items, right: Items) -> list[tuple[str, Items, Items]]:
    """All items as "", then each group's, where there is more than one."""
    names = list(dict.fromkeys(r["group"] for r in left))
    found = [("", left, right)]
    if len(names) > 1:
        for name in names:
            rows = [i for i, r in enumerate(left) if r["group"] == name]
            found.append((f"/{name}", [left[i] for i in rows], [right[i] for i in rows]))
    return found


def _answers(task: str, left: Items, right: Items, settings: dict[str, Any]) -> list[Compared]:
    found = []
    for name, a, b in _groups(left, right):
        found.append(_shares(task, f"accuracy{name}", a, b, _accuracy))
    for k in settings.get("k", []):
        if k > 1:

            def passed(record: dict[str, Any], k: int = k) -> float:
                return pass_at_k(settings["samples"], sum(record["correct"]), k)

            found.append(_shares(task, f"pass@{k}", left, right, passed))
    return found


def _accuracy(record: dict[str, Any]) -> float:
    return sum(record["correct"]) / len(record["correct"])


def _values(
    task: str, left: Items, right: Items, only: Collection[str] | None = None
) -> list[Compared]:
    """Metrics that an item names itself, each over the items that have it in both.

    Args:
        only: figures to be compared; None: all, and each group's.
    """
    found = []
    for metric in dict.fromkeys(name for r in left for name in r["values"]):
        pairs = [
            (a, b)
            for a, b in zip(left, right, strict=True)
            if metric in a["values"] and metric in b["values"]
        ]
        if not pairs:
            continue

        def value(record: dict[str, Any], metric: str = metric) -> float:
            return float(record["values"][metric])

        for name, a, b in _groups([a for a, _ in pairs], [b for _, b in pairs]):
            if only is None or f"{metric}{name}" in only:
                found.append(_shares(task, f"{metric}{name}", a, b, value))
    return found


def _shares(
    task: str, figure: str, left: Items, right: Items, value: Callable[[dict[str, Any]], float]
) -> Compared:
    """A mean over items: McNemar where all are right or wrong, else signs are flipped."""
    a, b = [value(r) for r in left], [value(r) for r in right]
    differences = [y - x for x, y in zip(a, b, strict=True)]
    low, high = bootstrap(differences, BOOTSTRAP_SEED)
    if not any(differences):
        # Resampling items that all agree says nothing of those that were not asked.
        low = high = math.nan
    told: dict[str, Any]
    if all(x in (0.0, 1.0) for x in [*a, *b]):
        only = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
        told = {"test": "mcnemar", "p": mcnemar(*only)}
        told |= {"only_first": only[0], "only_second": only[1]}
    else:
        told = {"test": "sign_flip", "p": sign_flip(differences, BOOTSTRAP_SEED)}
    first, second = _mean(a), _mean(b)
    return Compared(task, figure, first, second, second - first, low, high, n=len(a), **told)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _losses(task: str, left: Items, right: Items) -> list[Compared]:
    """Nats a token and bits a byte of each source, by the differences of the windows."""
    found = []
    for name, a, b in _groups(left, right) if _several(left) else [(_only(left), left, right)]:
        if not name:
            continue
        for kind, unit, factor in (("loss", "tokens", 1.0), ("bpb", "bytes", 1 / math.log(2))):
            sizes = [r[unit] for r in a]
            if sizes != [r[unit] for r in b]:
                raise ConfigError(f"{task}: windows{name} hold other {unit} in the two")
            nats = [[r["nats"] * factor for r in side] for side in (a, b)]
            ends = [ratio_of(side, sizes).value for side in nats]
            moved = ratio_of([y - x for x, y in zip(*nats, strict=True)], sizes)
            half = Z95 * moved.error
            p = normal_p(moved.value, moved.error)
            found.append(
                Compared(task, f"{kind}{name}", *ends, moved.value, moved.value - half,
                         moved.value + half, p, "normal", len(a))
            )  # fmt: skip
    return found


def _several(left: Items) -> bool:
    return len({r["group"] for r in left}) > 1


def _only(left: Items) -> str:
    return f"/{left[0]['group']}"
