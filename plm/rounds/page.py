"""A page of a round's chains side by side: one HTML file that opens anywhere, offline."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from html import escape
from pathlib import Path
from typing import Any

from plm.report.page import write_whole
from plm.report.rounds import told
from plm.report.style import DRAWING, PAGE, VARIABLES
from plm.rounds.chosen import KINDS, Choice, Shown
from plm.rounds.common import Answer, Sampled
from plm.rounds.statistics import copied, finite, of_round
from plm.rounds.template import Template

CHAINS = 60
"""Rows of a page at most."""
_LETTERS = 4000
_MATCHES = 20_000
"""Texts with more pairs of equal words are not compared: one word over and over takes minutes."""
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_WORD = re.compile(r"\s*\S+|\s+$")
_NAMES = {
    "gained": ("wrong → right", "gained"),
    "lost": ("right → wrong", "lost"),
    "copied": ("copied", "copied"),
    "same": ("no change of score", "no change of score"),
    "unrefined": ("no refinement", "no refinement"),
    "unscored": ("not scored", "not scored"),
}

_MORE = """main{max-width:1760px}.filter{display:flex;flex-wrap:wrap;gap:8px;margin:0 0 4px}
.filter button{font:inherit;font-size:14px;color:var(--ink);background:var(--page);cursor:pointer;
border:1px solid var(--line);border-radius:99px;padding:4px 14px}
.filter button[aria-pressed=true]{border-color:var(--accent);color:var(--accent);font-weight:600}
.filter label{font-size:14px;padding:5px 8px;margin-left:auto}
.row{border-top:1px solid var(--line);padding:16px 0 4px}.row[hidden]{display:none}
.row+.row{margin-top:12px}.row h3{overflow-wrap:anywhere}
.question{white-space:pre-wrap;overflow-wrap:anywhere;color:var(--ink);margin:0 0 10px}
.answers{display:grid;grid-auto-flow:column;grid-auto-columns:minmax(290px,1fr);gap:12px;
overflow-x:auto;padding-bottom:8px}.answer{min-width:0}
.answer h4{font-size:13px;font-weight:500;color:var(--soft);margin:0 0 6px}
.answer pre{white-space:pre-wrap;overflow-wrap:anywhere;max-height:460px}
.answer .pill{margin:0 6px 0 0;vertical-align:0}.bad{color:var(--c7)}.flat{color:var(--soft)}
.gained pre{border-color:var(--good)}.lost pre{border-color:var(--c7)}
.copied pre{opacity:.6;border-style:dashed}
ins{text-decoration:none;background:color-mix(in srgb,var(--good) 22%,transparent);
border-radius:3px}del{margin:0 .3em;color:var(--c7);opacity:.8;display:none}
.removed del{display:inline}
details table{margin-top:8px}.sha{overflow-wrap:anywhere}
"""
_SCRIPT = """'use strict';
const buttons=[...document.querySelectorAll('.filter button')];
for(const button of buttons)button.onclick=()=>{
for(const other of buttons)other.setAttribute('aria-pressed',other===button);
for(const row of document.querySelectorAll('.row'))row.hidden=
button.dataset.kind!==''&&!row.dataset.kinds.split(' ').includes(button.dataset.kind)};
document.querySelector('.filter input').onchange=event=>
document.querySelector('main').classList.toggle('removed',event.target.checked)
"""


def write_page(
    path: Path,
    sampled: Iterable[Sampled],
    *,
    template: Template,
    title: str,
    statistics: Mapping[str, Any] | None = None,
    pairs: Iterable[Mapping[str, Any]] = (),
    chains: int = CHAINS,
) -> Path:
    """Write a round's chains, some of every kind of change, with its figures and its template.

    Args:
        path: of the page; its folder exists.
        sampled: read once, one prompt at a time.
        template: that showed the answers.
        title: of the page.
        statistics: as plm.rounds.statistics.of_round gave them; None: made from `sampled` here.
        pairs: rows with `prompt`, `chosen` and `rejected`: the answers in them are marked.
        chains: rows at most.
    Returns:
        The path of the page, which is written whole or not at all.
    Raises:
        DataError: the page cannot be written.
    """
    choice = Choice(chains)
    made = of_round(choice.passing(sampled), pairs=None)
    stats = made if statistics is None else statistics
    chosen = choice.chosen()
    marks = _marks({row.sampled.question for row in chosen}, pairs)
    write_whole(Path(path), render(chosen, choice, stats, template, title, marks))
    return Path(path)


def render(
    chosen: list[Shown],
    choice: Choice,
    stats: Mapping[str, Any],
    template: Template,
    title: str,
    marks: Mapping[tuple[str, str], str],
) -> str:
    """The whole page as text.

    Args:
        chosen: the rows.
        choice: what they were chosen from.
        stats: figures of the round.
        template: that showed the answers.
        title: of the page.
        marks: `better` or `worse` by question and answer, of those that are in a pair.
    """
    name = escape(title)
    asked = (
        f'<p class="sha">sha256 {escape(template.sha256)}</p>'
        f'<pre class="sample">{escape(_printable(template.text))}</pre>'
    )
    refined = len(stats["turns"]) > 1
    rows = "".join(_row(row, stats["binary"], refined, marks) for row in chosen)
    about = f"{len(chosen)} of {choice.rows:,} chains; words that an answer adds to the one shown "
    about += "are marked"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{name}</title><style>{VARIABLES}{DRAWING}{PAGE}{_MORE}</style></head><body><main>"
        f"<header><h1>{name}</h1><p>answers and their refinements, side by side</p></header>"
        f"<section><h2>Figures</h2>{told(stats)}</section>"
        f"<section><h2>Template</h2>{asked}</section>"
        f"<section><h2>Chains</h2><p>{about}.</p>{_filter(chosen, choice, stats['binary'])}{rows}"
        f"</section></main><script>{_SCRIPT}</script></body></html>\n"
    )


def _filter(chosen: list[Shown], choice: Choice, binary: bool) -> str:
    """A button a kind, with how many of the page's rows and of all chains hold it."""
    buttons = f'<button type="button" data-kind="" aria-pressed="true">all {len(chosen)}</button>'
    for kind in KINDS:
        here = sum(kind in row.kinds for row in chosen)
        if here:
            buttons += (
                f'<button type="button" data-kind="{kind}" aria-pressed="false">'
                f"{_named(kind, binary)} {here} of {choice.counts[kind]:,}</button>"
            )
    return (
        f'<div class="filter">{buttons}<label><input type="checkbox"> show removed words</label>'
        "</div>"
    )


def _named(kind: str, binary: bool) -> str:
    return _NAMES[kind][0 if binary else 1]


def _row(row: Shown, binary: bool, refined: bool, marks: Mapping[tuple[str, str], str]) -> str:
    one = row.sampled
    several = len(row.answers) < len(one.answers)
    about = [one.name, one.group, f"chain {row.answers[0].chain + 1}" if several else ""]
    if not row.answers:
        about.append("no room for an answer")
    cells = "".join(_cell(one, answer, binary, marks, refined) for answer in row.answers)
    name = escape(" · ".join(part for part in about if part))
    return (
        f'<article class="row" data-kinds="{" ".join(row.kinds)}"><h3>{name}</h3>'
        f'<p class="question">{escape(_printable(one.question))}</p>'
        f'<div class="answers">{cells}</div></article>'
    )


def _cell(
    one: Sampled,
    answer: Answer,
    binary: bool,
    marks: Mapping[tuple[str, str], str],
    refined: bool,
) -> str:
    shown = None if answer.shown is None else one.answers[answer.shown]
    css, pills = "answer", [_badge(answer.score, binary)]
    body = _plain(answer.text)
    if shown is not None:
        changed = _change(answer, shown)
        if copied(answer, shown):
            changed = "copied"
        else:
            body = difference(shown.text, answer.text)
        if changed:
            css += f" {changed}"
            colour = {"gained": "good", "lost": "bad", "copied": "flat"}[changed]
            pills.append(_pill(colour, _named(changed, binary)))
    if mark := marks.get((one.question, answer.text)):
        pills.append(_pill("flat", f"{mark} of a pair"))
    place = f"turn {answer.turn}" if refined else f"answer {answer.chain + 1}"
    cut = ", cut" if answer.cut else ""
    return (
        f'<div class="{css}"><h4>{"".join(pills)}{place} · {answer.tokens:,} tokens{cut}</h4>'
        f"<pre>{body}</pre></div>"
    )


def _change(answer: Answer, shown: Answer) -> str:
    if not (finite(answer.score) and finite(shown.score)) or answer.score == shown.score:
        return ""
    return "gained" if answer.score > shown.score else "lost"


def _badge(score: float | None, binary: bool) -> str:
    if score is None:
        return _pill("flat", "not scored")
    if not finite(score):
        return _pill("warn", f"score {score}")
    if binary:
        return _pill("good", "right") if score == 1 else _pill("bad", "wrong")
    return _pill("", f"{score:.3g}")


def _pill(css: str, text: str) -> str:
    return f'<span class="pill {css}">{escape(text)}</span>'


def difference(before: str, after: str) -> str:
    """A text as HTML, words that it adds to another in `ins` and those that it lacks in `del`.

    White space is as in the text and never marked.
    """
    old, new = (_WORD.findall(_printable(text[:_LETTERS])) for text in (before, after))
    parts, words = [], [[word.strip() for word in side] for side in (old, new)]
    times = [Counter(side) for side in words]
    if sum(count * times[1][word] for word, count in times[0].items()) > _MATCHES:
        return _plain(after)
    matcher = SequenceMatcher(None, *words, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        gone, come = "".join(old[a:b]).strip(), "".join(new[c:d])
        word = come.lstrip()
        parts.append(escape(come[: len(come) - len(word)]))
        parts += [f"<del>{escape(gone)}</del>"] if gone and kind != "equal" else []
        parts.append(escape(word) if kind == "equal" or not word else f"<ins>{escape(word)}</ins>")
    return "".join(parts) + _more(after)


def _plain(text: str) -> str:
    return escape(_printable(text[:_LETTERS])) + _more(text)


def _more(text: str) -> str:
    rest = len(text) - _LETTERS
    return f'<span class="cut"> … {rest:,} letters more</span>' if rest > 0 else ""


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n"))


def _marks(questions: set[str], pairs: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """`better` or `worse` by question and answer, of the given questions alone."""
    found = {}
    for pair in pairs:
        prompt = pair["prompt"]
        question = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        if question in questions:
            for mark, key in (("better", "chosen"), ("worse", "rejected")):
                found[question, pair[key]] = mark
    return found
