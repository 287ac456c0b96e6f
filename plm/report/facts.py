"""The sections of a report that are mostly words and tables."""

import re
from html import escape
from typing import Any

from plm.data.manifest import losses
from plm.report.curves import missing
from plm.report.format import human_share, human_time, human_tokens
from plm.report.run_folder import DONE, Run
from plm.report.tables import Cell, definitions, one_line, table, tiles

_NGRAMS = {
    "unigram": "unigram",
    "bigram_add_one": "bigram, add one",
    "bigram_kneser_ney": "bigram, Kneser–Ney",
    "trigram_kneser_ney": "trigram, Kneser–Ney",
}
_SAMPLE_LETTERS = 4000
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def headline(run: Run) -> str:
    """The figures that a reader looks for first."""
    model, speed = run.summary.get("model") or {}, run.summary.get("speed") or {}
    items = [_validation_tile(run), _beaten_tile(run)]
    last = run.points("tokens")[-1][1]
    steps = run.summary.get("steps") or (run.points("step") or [(0, 0)])[-1][1]
    items.append(("Tokens", human_tokens(run.summary.get("tokens") or last), f"{steps:,.0f} steps"))
    if model.get("parameters"):
        bare = model.get("parameters_without_embedding")
        note = f"{human_tokens(bare)} without the embedding" if bare else ""
        items.append(("Parameters", human_tokens(model["parameters"]), note))
    if speed.get("seconds"):
        items.append(("Time", human_time(speed["seconds"]), _speed_note(speed)))
    elif run.points("elapsed_s"):
        items.append(("Time", human_time(run.points("elapsed_s")[-1][1]), "so far"))
    if speed.get("peak_gib"):
        items.append(("Peak memory", f"{speed['peak_gib']:.2f} GiB", ""))
    warning = ""
    if run.not_finite:
        told = ", ".join(f"{name} ({count})" for name, count in run.not_finite.items())
        warning = f'<p class="warning">Not a finite number in some rows: {escape(told)}.</p>'
    return tiles(item for item in items if item) + warning


def status_pill(run: Run) -> str:
    css = "good" if run.status in DONE else "warn"
    return f'<span class="pill {css}">{escape(run.status)}</span>'


def _speed_note(speed: dict[str, Any]) -> str:
    note = f"{human_tokens(speed['tokens_per_s'])} tokens/s" if speed.get("tokens_per_s") else ""
    return note + (f", MFU {human_share(speed['mfu'])}" if speed.get("mfu") else "")


def _validation_tile(run: Run) -> tuple[str, str, str] | None:
    points = run.points("val/loss")
    if points and run.named("val/", "/reward"):
        note = f"of held-out prompts; {1 - points[0][1]:.3f} at the first evaluation"
        return "Mean reward", f"{1 - points[-1][1]:.3f}", note
    if points:
        note = f"nats a token; {points[0][1]:.3f} at the first evaluation"
        return "Validation loss", f"{points[-1][1]:.3f}", note
    train = run.points("loss")
    return ("Training loss", f"{train[-1][1]:.3f}", "nats a token, last step") if train else None


def _beaten_tile(run: Run) -> tuple[str, str, str] | None:
    after, ngrams = run.summary.get("val_after") or {}, run.summary.get("ngrams") or {}
    both = [name for name in after if "bigram_kneser_ney" in ngrams.get(name, {})]
    if not both:
        return None
    beaten = sum(after[name]["loss"] < ngrams[name]["bigram_kneser_ney"] for name in both)
    return "Bigram beaten on", f"{beaten} of {len(both)}", "sources (Kneser–Ney, see below)"


def baselines(run: Run) -> str:
    """Validation before and after training beside counted n-gram models, by source."""
    before, after = run.summary.get("val_before") or {}, run.summary.get("val_after") or {}
    ngrams = run.summary.get("ngrams") or {}
    sources = list(dict.fromkeys([*after, *before, *ngrams]))
    if not sources:
        return missing("validation before and after (summary.json)")
    if any("margin" in found for found in after.values()):
        return _pairs(before, after)
    if any("reward" in found for found in after.values()):
        return _rewards(before, after)
    rows = []
    kinds = [kind for kind in _NGRAMS if any(kind in found for found in ngrams.values())]
    for name in sources:
        first, last = before.get(name) or {}, after.get(name) or {}
        ours = last.get("loss")
        row: list[Cell | str] = [name, _nats(first.get("loss"))]
        row += [_against(ngrams.get(name, {}).get(kind), ours) for kind in kinds]
        row += [Cell(_nats(ours), "ours"), _nats(first.get("bpb")), _nats(last.get("bpb"))]
        rows.append(row)
    names = [_NGRAMS[kind] for kind in kinds]
    head = ["source", "before", *names, "after", "bits/byte before", "bits/byte after"]
    note = "Nats a token on the validation split."
    note += " ✓: the model is lower; ✗: it is not." * bool(kinds)
    return f"<p>{note}</p>{table(head, rows)}"


def _pairs(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Held-out pairs before and after training, by source."""
    note = (
        "Held-out pairs: mean loss; share whose better answer has gained on the worse one since "
        "the reference; by how many nats."
    )
    return f"<p>{note}</p>{_both(before, after, ('loss', 'accuracy', 'margin'))}"


def _rewards(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Held-out prompts before and after training, by source."""
    note = (
        "Held-out prompts: mean reward of the answers, from 0 to 1 (the validation loss is what it "
        "lacks of 1); tokens of an answer; share of the answers that were cut."
    )
    return f"<p>{note}</p>{_both(before, after, ('reward', 'tokens', 'cut'))}"


def _both(before: dict[str, Any], after: dict[str, Any], names: tuple[str, ...]) -> str:
    """A table of figures before and after training, by source."""
    rows = [
        [name, *(_nats(found.get(name, {}).get(key)) for key in names for found in (before, after))]
        for name in after
    ]
    head = ["source", *(f"{key} {when}" for key in names for when in ("before", "after"))]
    return table(head, rows)


def _nats(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _against(ngram: float | None, ours: float | None) -> Cell:
    if ngram is None or ours is None:
        return Cell(_nats(ngram))
    return Cell(f"{ngram:.3f} ✓", "beaten") if ours < ngram else Cell(f"{ngram:.3f} ✗", "ahead")


def samples(run: Run) -> str:
    """What the model wrote, the prompt set off from the continuation, spaces kept."""
    told = run.summary.get("samples") or []
    if not told:
        return missing("samples (they are made when the run ends)")
    return "".join(_sample(sample) for sample in told)


def _sample(sample: dict[str, Any]) -> str:
    prompt, text = _printable(sample.get("prompt")), _printable(sample.get("text"))
    text = text.removeprefix(prompt)
    cut = ""
    if len(text) > _SAMPLE_LETTERS:
        cut = f'<span class="cut"> … {len(text) - _SAMPLE_LETTERS:,} letters more</span>'
    settings = one_line(sample.get("settings") or "")
    return (
        f"<article><h3>{escape(str(sample.get('source', '')))} <small>{escape(settings)}</small>"
        f'</h3><pre class="sample"><b>{escape(prompt)}</b>{escape(text[:_SAMPLE_LETTERS])}{cut}'
        f"</pre></article>"
    )


def _printable(text: Any) -> str:
    return _UNPRINTABLE.sub("\ufffd", str(text or "").replace("\r\n", "\n"))


def data(run: Run) -> str:
    """Which text it was: its fingerprint, what was left out, the leak into validation, licences."""
    told = {**(run.summary.get("data") or {})}
    leak = told.pop("leak", None) or run.manifest.get("leak") or {}
    told.setdefault("fingerprint", run.manifest.get("fingerprint", "unknown"))
    why = told.pop("why", None)
    if told.get("comparable") is False:
        told.pop("comparable")
        why = escape(str(why or "the text differs"))
        warning = f'<p class="warning">Not comparable with other machines\' figures: {why}.</p>'
    else:
        warning = ""
    rows = _source_rows(run.manifest.get("sources"), leak if isinstance(leak, dict) else {})
    body = table(["source", "documents", "tokens", "leak into validation", "licence"], rows)
    return warning + _losses(run) + definitions(told) + (body if rows else "")


def _losses(run: Run) -> str:
    """What the preparation left out, by source."""
    parts = []
    for lost in losses(run.manifest):
        css = ' class="warning"' if lost.large else ""
        parts.append(f"<p{css}>Left out of {escape(lost.text)}.</p>")
    return "".join(parts)


def _source_rows(sources: Any, leak: dict[str, Any]) -> list[list[str]]:
    """One row a source of manifest.json."""
    sources = sources if isinstance(sources, dict) else {}
    rows = []
    for name in dict.fromkeys([*sources, *leak]):
        told = sources.get(name)
        told = told if isinstance(told, dict) else {}
        licence = next(
            (told[key] for key in ("licence", "licences", "license") if key in told), "–"
        )
        share = leak.get(name)
        rows.append(
            [
                name,
                _amounts(told, "documents"),
                _amounts(told, "tokens"),
                human_share(share) if isinstance(share, int | float) else "–",
                one_line(_distinct(licence)),
            ]
        )
    return rows


def _amounts(told: dict[str, Any], key: str) -> str:
    """A count of each split, in three digits."""
    counts = {split: (told.get(split) or {}).get(key) for split in ("train", "val")}
    found = [f"{s} {human_tokens(n)}" for s, n in counts.items() if isinstance(n, int | float)]
    return ", ".join(found) or "–"


def _distinct(licence: Any) -> Any:
    """Licences by distribution, told once each with how many distributions have it."""
    if not isinstance(licence, dict):
        return licence
    names = [one_line(value) for value in licence.values()]
    return [f"{name} ({names.count(name)})" for name in dict.fromkeys(names)]


def conditions(run: Run) -> str:
    """What the run ran on, and the command that repeats it."""
    told = {**(run.summary.get("versions") or {}), **(run.summary.get("cpu") or {})}
    command = run.summary.get("command")
    command = " ".join(map(str, command)) if isinstance(command, list) else command
    body = definitions(told) if told else missing("versions and processor (summary.json)")
    return body + (f'<pre class="command">{escape(str(command))}</pre>' if command else "")


def config(run: Run) -> str:
    """The frozen configuration, folded."""
    if not run.config_text:
        return missing("config.yaml is not in the folder")
    lines = run.config_text.count("\n") + 1
    return (
        f"<details><summary>config.yaml, {lines} lines</summary>"
        f"<pre>{escape(run.config_text)}</pre></details>"
    )
