"""The sections of a report that are mostly pictures over tokens."""

from collections.abc import Mapping
from html import escape
from itertools import count
from typing import Any

from plm.report.axes import Points, calm, smooth, spans_decades
from plm.report.charts import Chart, Curve, figure, half, wide
from plm.report.format import human_share, human_time, human_tokens
from plm.report.heatmap import heatmap
from plm.report.run_folder import Run
from plm.report.tables import table


def missing(what: str) -> str:
    """A line that stands where a picture would, when the run did not measure it."""
    return f'<p class="missing">Not measured in this run: {escape(what)}.</p>'


def loss_chart(run: Run) -> Chart | None:
    """Training loss, raw and smoothed, with the validation points; None if neither is there."""
    raw, curves = run.points("loss"), []
    if raw:
        # About a fiftieth of the run: wide enough to calm the noise of single batches.
        width = max(5, len(raw) // 50) | 1
        curves = [
            Curve("train, each logged step", raw, "faint", 0),
            Curve(f"train, mean of {width}", smooth(raw, width), "line", 0),
        ]
    if run.points("val/loss") and not run.named("rlvr/"):
        curves.append(Curve("validation", run.points("val/loss"), "dots", 1))
    title = f"Loss, {_unit(run)}"
    return Chart(title, curves, run.bands, run.span) if curves else None


def _unit(run: Run) -> str:
    """What a loss counts: pairs for preferences; of rewards the gradient counts, not the value."""
    if run.named("rlvr/"):
        return "a surrogate: its gradient counts, not its value"
    return "mean over pairs" if run.named("pref/") else "nats a token"


def loss(run: Run) -> str:
    chart = loss_chart(run)
    body = figure(chart, wide(340)) if chart else missing("loss")
    return body + _learning_rate(run) + _phase_table(run)


def _learning_rate(run: Run) -> str:
    points = run.points("lr")
    if not points:
        return missing("lr (the learning rate)")
    curve = Curve("learning rate", points)
    return figure(Chart("Learning rate", [curve], run.bands, run.span, zero=True), wide(180))


def _phase_table(run: Run) -> str:
    phases = run.summary.get("phases") or []
    if not phases:
        return ""
    rows = []
    for number, phase in enumerate(phases, start=1):
        rate = phase.get("rate") or {}
        shares = (phase.get("mixture") or {}).items()
        target = (
            f"{rate['shape']} to {rate.get('to', 0):.3g} of the peak" if "shape" in rate else ""
        )
        if rate.get("warmup_tokens"):
            target += f", warm-up {human_tokens(rate['warmup_tokens'])}"
        rows.append(
            [
                f"{number} {phase.get('name', '')}",
                human_tokens(phase.get("tokens_asked") or 0),
                human_tokens(phase.get("tokens") or 0),
                f"{phase.get('steps') or 0:,}",
                f"{phase.get('seq_len') or 0:,}",
                target,
                ", ".join(f"{name} {100 * share:.3g} %" for name, share in shares),
            ]
        )
    head = ["phase", "tokens asked", "tokens read", "steps", "sequence", "rate", "mixture"]
    return table(head, rows)


def validation(run: Run) -> str:
    """Loss and bits per byte of each source over tokens; "" where rewards stand in their place."""
    if run.named("val/", "/reward"):
        return ""
    body = ""
    for suffix, title in (
        ("/loss", f"Validation loss, {_unit(run)}"),
        ("/bpb", "Validation, bits a byte"),
    ):
        found = run.named("val/", suffix)
        curves = [
            Curve(name, points, "dots", colour)
            for colour, (name, points) in zip(count(), found.items(), strict=False)
        ]
        if curves:
            body += figure(Chart(title, curves, run.bands, run.span), half())
    return f'<div class="pair">{body}</div>' if body else missing("validation per source")


def mixture(run: Run) -> str:
    """What was read of each source against what the phases asked for."""
    read = run.named("mix/")
    totals: dict[float, float] = {}
    for points in read.values():
        for tokens, amount in points:
            totals[tokens] = totals.get(tokens, 0.0) + amount
    curves = []
    for colour, (name, points) in enumerate(read.items()):
        shares = [(x, amount / totals[x]) for x, amount in points if totals[x] > 0]
        if shares:
            curves.append(Curve(name, shares, "line", colour))
            asked = _asked_share(run, name, shares)
            curves += [Curve(f"{name}, asked", asked, "asked", colour)] if asked else []
    chart = Chart(
        f"Share of each source in all {'prompts' if run.named('rlvr/') else 'tokens'} so far",
        curves,
        run.bands,
        run.span,
        False,
        True,
        "share",
    )
    drawn = figure(chart, wide(240)) if curves else missing("mix/<source> (tokens read)")
    return drawn + _mixture_table(run)


def _asked_share(run: Run, source: str, at: Points) -> Points:
    """The share that the phases' mixtures give a source up to each of the given positions."""
    phases = [p for p in run.summary.get("phases") or [] if p.get("mixture")]
    if not phases or len(phases) != len(run.bands):
        return []
    result = []
    for tokens, _ in at:
        amount = total = 0.0
        for phase, band in zip(phases, run.bands, strict=True):
            part = max(0.0, min(tokens, band.end) - band.start)
            weights = phase["mixture"]
            amount += part * weights.get(source, 0.0) / sum(weights.values())
            total += part
        if total > 0:
            result.append((tokens, amount / total))
    return result


def _mixture_table(run: Run) -> str:
    sources = run.summary.get("sources") or {}
    total = sum(told.get("tokens_read") or 0 for told in sources.values())
    if any("prompts_drawn" in told for told in sources.values()):
        return _prompts_table(sources)
    rows = [
        [
            name,
            human_share(told.get("asked_share") or 0),
            human_share((told.get("tokens_read") or 0) / total) if total else "",
            human_tokens(told.get("tokens_asked") or 0),
            human_tokens(told.get("tokens_read") or 0),
            f"{told.get('epochs') or 0:.2f}",
        ]
        for name, told in sources.items()
    ]
    head = ["source", "share asked", "share read", "tokens asked", "tokens read", "epochs"]
    return table(head, rows) if rows else ""


def _prompts_table(sources: Mapping[str, Any]) -> str:
    total = sum(told["prompts_drawn"] for told in sources.values()) or 1
    rows = [
        [
            name,
            human_share(told["asked_share"]),
            human_share(told["prompts_drawn"] / total),
            f"{told['prompts_drawn']:,}",
            f"{told['epochs']:.2f}",
        ]
        for name, told in sources.items()
    ]
    return table(["source", "share asked", "share drawn", "prompts drawn", "epochs"], rows)


def gradients(run: Run) -> str:
    """Gradient norm, and the auxiliary losses where the run has any."""
    body = noisy(run, "grad_norm", "Gradient norm before clipping", wide(220), log=True)
    extra = "".join(
        noisy(run, f"aux/{name}", f"Auxiliary: {name}", half(200)) for name in run.named("aux/")
    )
    return body + (f'<div class="pair">{extra}</div>' if extra else "")


def throughput(run: Run) -> str:
    """Tokens a second, model FLOPs utilisation, and what the run took in all."""
    pair = noisy(run, "tokens_per_s", "Tokens a second", half(), unit="tokens", zero=True)
    pair += noisy(run, "mfu", "Model FLOPs utilisation", half(), unit="share", zero=True)
    waits, spans = run.points("data_wait_s"), run.points("elapsed_s")
    facts = []
    if spans:
        facts.append(f"{human_time(spans[-1][1])} in all")
    if waits and spans and spans[-1][1] > 0:
        waited = sum(wait for _, wait in waits)
        facts.append(f"{human_share(waited / spans[-1][1])} of it waiting for data")
    if run.points("peak_gib"):
        facts.append(f"{max(gib for _, gib in run.points('peak_gib')):.2f} GiB at the peak")
    note = f"<p>{', '.join(facts)}.</p>" if facts else ""
    return f'{note}<div class="pair">{pair}</div>'


def sparsity(run: Run) -> str:
    """Share of zeros in the activations of each feed-forward layer."""
    layers = run.named("sparsity/")
    if not layers:
        return missing("sparsity/<layer>")
    title = "Zeros among the feed-forward activations, by layer"
    return heatmap(title, layers, run.bands, run.span, wide())


def noisy(run: Run, column: str, title: str, sizes: list, *, log: bool = False, **look) -> str:
    """A picture of one noisy column: every logged step faint, its running median over it."""
    points = run.points(column)
    if not points:
        return missing(column)
    log = log and spans_decades([y for _, y in points])
    curves = [Curve("each logged step", points, "faint", 0)]
    calmed, width = medians(points)
    if width > 1:
        curves.append(Curve(f"median of {width}", calmed, "line", 0))
    else:
        curves = [curves[0]._replace(kind="line")]
    title += ", logarithmic" if log else ""
    return figure(Chart(title, curves, run.bands, run.span, log=log, **look), sizes)


def medians(points: Points) -> tuple[Points, int]:
    """Running medians over about a fiftieth of the points, and how many; few stay as they are."""
    if len(points) <= 20:
        return points, 1
    width = max(5, len(points) // 50) | 1
    return calm(points, width), width
