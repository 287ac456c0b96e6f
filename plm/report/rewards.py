"""The section of a report on learning from rewards: what answers earned, and what may go wrong."""

import re
from collections.abc import Mapping
from html import escape
from itertools import count
from typing import Any, NamedTuple

from plm.report.axes import Points
from plm.report.charts import Chart, Curve, figure, half
from plm.report.curves import medians, noisy
from plm.report.run_folder import Run

PREFIX = "rlvr/"
LOG = "log.txt"
_ALARM = re.compile(r"^.*?\b(?:WARNING|ERROR)\s+(step \d+: .*)$", re.M)
_KINDS = "reward/"
_SUM = "weighted sum"
_DECADES = 8
"""Times that the largest value is the least one, above which an axis may be logarithmic."""


class _Alone(NamedTuple):
    """One column, each logged step of it and the running median."""

    column: str
    title: str
    look: Mapping[str, Any] = {}


class _Together(NamedTuple):
    """Several columns, by what they are called, each as its running median."""

    title: str
    columns: Mapping[str, str]
    look: Mapping[str, Any] = {}


_RARE = ("unfilled",)
"""Columns that are left out where they are 0 throughout."""
_SHARE = {"unit": "share", "zero": True}
_PICTURES: tuple[_Alone | _Together, ...] = (
    _Together(
        "Groups of answers to one prompt",
        {
            "solved_none": "none right",
            "solved_some": "some right",
            "solved_all": "all right",
            "groups_same": "all rewards equal",
            "unfilled": "kept although equal",
        },
        _SHARE,
    ),
    _Alone("advantage", "Size of an advantage"),
    _Alone("entropy", "Entropy of the policy, nats a token", {"zero": True}),
    _Alone("kl", "Distance from the reference (k3), nats a token", {"zero": True}),
    _Alone("divergence", "Divergence taken from the reward, nats an answer"),
    _Together("Tokens of an answer", {"length": "all", "length_ended": "ended by itself"}),
    _Alone("cut", "Answers that were cut", _SHARE),
    _Together(
        "Tokens that a bound held", {"clip_low": "from below", "clip_high": "from above"}, _SHARE
    ),
    _Together(
        "Ratio to the weights that drew the tokens, extremes",
        {"ratio_max": "largest", "inverse_ratio_max": "1 over the smallest"},
        {"log": True},
    ),
    _Together(
        "Sampler and trainer apart, nats a token",
        {"mismatch": "mean", "mismatch_max": "largest"},
        {"log": True},
    ),
    _Alone("value_loss", "Loss of the value model, a token", {"zero": True}),
    _Alone("value_explained", "Variance of the returns that the values explain", {"unit": "share"}),
    _Alone("value_clip", "Values that a bound held", _SHARE),
    _Alone("mismatch_kl", "Distance of the trainer from the sampler, nats a token"),
    _Alone("correction", "Factor for what the sampler computes otherwise, mean"),
)


def rewards(run: Run) -> str:
    """Rewards, groups, entropy, lengths, clipping and mismatch; "" for runs of other stages."""
    found = run.named(PREFIX)
    if not found:
        return ""
    body = _rewards(run) + _held_out(run)
    known = {"reward"}
    for picture in _PICTURES:
        if isinstance(picture, _Alone):
            known.add(picture.column)
            if picture.column in found:
                column = PREFIX + picture.column
                body += noisy(run, column, picture.title, half(), **picture.look)
        else:
            known |= set(picture.columns)
            named = {
                name: PREFIX + column
                for column, name in picture.columns.items()
                if column not in _RARE or any(y for _, y in found.get(column, []))
            }
            body += _together(run, picture.title, named, **picture.look)
    # What an environment counts of its answers has a name that only it knows.
    for name in found:
        if name not in known and not name.startswith(_KINDS):
            title = f"Mean of {name.replace('_', ' ')}"
            body += noisy(run, PREFIX + name, title, half(), zero=True)
    return f'{_alarms(run)}<div class="pair">{body}</div>'


def _rewards(run: Run) -> str:
    """What the drawn answers earned, by source and kind, and what was learned from."""
    kinds = {name: PREFIX + _KINDS + name for name in run.named(PREFIX + _KINDS)}
    same = len(kinds) == 1 and run.points(next(iter(kinds.values()))) == run.points("rlvr/reward")
    columns = kinds if same else {**kinds, _SUM: PREFIX + "reward"}
    return _together(run, _of("Reward of the drawn answers", columns), columns, zero=True)


def _held_out(run: Run) -> str:
    """Mean reward of the held-out prompts, by source."""
    found = run.named("val/", "/reward")
    title = _of("Reward of held-out prompts", found)
    return _figure(run, title, found, "dots", zero=True) if found else ""


def _of(title: str, names: Mapping[str, Any]) -> str:
    """A single curve has no legend: its name stands in the title."""
    return f"{title}: {next(iter(names))}" if len(names) == 1 else title


def _together(
    run: Run, title: str, columns: Mapping[str, str], *, log: bool = False, **look: Any
) -> str:
    """Those of the columns that there are in one picture, by name; "" if there is none.

    A logarithmic axis is asked for: it has one where the values need it.
    """
    found, width = {}, 1
    for name, column in columns.items():
        if points := run.points(column):
            found[name], width = medians(points)
    if not found:
        return ""
    values = [y for points in found.values() for _, y in points]
    log = log and 0 < _DECADES * min(values) < max(values)
    title += ", logarithmic" if log else ""
    title += f", median of {width}" if width > 1 else ""
    return _figure(run, title, found, log=log, **look)


def _figure(
    run: Run, title: str, found: Mapping[str, Points], kind: str = "line", **look: Any
) -> str:
    colours = zip(count(), found.items(), strict=False)
    curves = [Curve(name, points, kind, colour) for colour, (name, points) in colours]
    return figure(Chart(title, curves, run.bands, run.span, **look), half())


def _alarms(run: Run) -> str:
    """What the run's log has warned of."""
    path = run.folder / LOG
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    # A run that was gone on with says an alarm anew.
    lines = dict.fromkeys(_ALARM.findall(text))
    return "".join(f'<p class="warning">{escape(line)}.</p>' for line in lines)
