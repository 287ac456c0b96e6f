"""The report of a prepared recipe: one HTML file that opens anywhere, offline."""

from html import escape
from pathlib import Path

from plm.data import tokenizer as bpe
from plm.data.prepared import Prepared
from plm.report import recipe_facts, recipe_lengths, recipe_tokenizer
from plm.report.format import human_time
from plm.report.page import write_whole
from plm.report.style import DRAWING, PAGE, VARIABLES
from plm.report.tables import definitions

REPORT = "report.html"

_MORE = """.bar{fill:var(--accent);opacity:.55}figcaption small{font-weight:400;color:var(--soft)}
details{border-top:1px solid var(--line);padding:9px 0}details:first-of-type{border-top:0}
summary{overflow-wrap:anywhere}details article,details article+article{margin-top:12px}
details h3{font-weight:500;color:var(--soft);overflow-wrap:anywhere}details pre{margin-top:0}
details dl{margin-top:12px}table+p{margin-top:12px}div+h3,table+h3{margin-top:20px}
.words :is(td,th),.steps :is(td,th):nth-child(2){text-align:left}.words td{overflow-wrap:anywhere}
.tokens{display:flex;flex-wrap:wrap;gap:8px 18px;list-style:none;margin:0;padding:0;font-size:13px}
.tokens small{color:var(--soft);margin-left:5px}code{overflow-wrap:anywhere;
font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media(min-width:700px){.steps table{table-layout:fixed}.steps :is(td,th):nth-child(2){width:26%}}
@media(max-width:699px){.words td,.words td:last-child{display:block}.words td:before{display:block;
font-size:13px}td:empty{display:none}}
"""


def write_recipe_report(prepared: Prepared) -> Path:
    """Write `report.html` into a prepared folder, which stays as valid as it was.

    Args:
        prepared: any; the page is made from its manifest and shards.
    Returns:
        The path of the page, which is written whole or not at all.
    Raises:
        DataError: the page cannot be written.
    """
    path = prepared.folder / REPORT
    write_whole(path, render(prepared))
    return path


def render(prepared: Prepared) -> str:
    """The whole page as text."""
    tokenizer = bpe.load(prepared.tokenizer_path)
    parts = (
        ("In short", recipe_facts.headline(prepared) + _not_comparable(prepared)),
        ("Sources", recipe_facts.sources(prepared)),
        ("Cleaning", recipe_facts.cleaning(prepared)),
        ("Duplicates", recipe_facts.duplicates(prepared)),
        ("Lengths of documents", _lengths(prepared)),
        ("Tokenizer", recipe_tokenizer.section(prepared)),
        ("Documents that were kept", recipe_facts.kept_examples(prepared, tokenizer)),
        ("Documents that were dropped", recipe_facts.dropped_examples(prepared)),
        ("Conditions", _conditions(prepared)),
    )
    sections = "".join(f"<section><h2>{title}</h2>{part}</section>" for title, part in parts)
    name = escape(str(prepared.manifest["recipe"]))
    css, word = ("good", "comparable") if prepared.comparable else ("warn", "not comparable")
    about = f"prepared recipe · {escape(prepared.folder.name)}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{name}: data report</title><style>{VARIABLES}{DRAWING}{PAGE}{_MORE}</style>"
        f'</head><body><main><header><h1>{name}<span class="pill {css}">{word}</span></h1>'
        f"<p>{about}</p></header>{sections}</main></body></html>\n"
    )


def _not_comparable(prepared: Prepared) -> str:
    why = prepared.manifest.get("not_comparable_because") or []
    if prepared.comparable or not why:
        return ""
    told = escape("; ".join(map(str, why)))
    return f'<p class="warning">Not comparable with other machines\' figures: {told}.</p>'


def _lengths(prepared: Prepared) -> str:
    figures = "".join(
        recipe_lengths.histogram(name, list(parts.values()))
        for name, parts in prepared.sources.items()
    )
    note = "<p>In tokens, train and validation together; the axis is logarithmic.</p>"
    return f'{note}{recipe_lengths.key()}<div class="pair">{figures}</div>'


def _conditions(prepared: Prepared) -> str:
    told = prepared.manifest
    key = told.get("key") or {}
    seconds = told.get("seconds") or {}
    pairs = {
        "fingerprint": prepared.fingerprint,
        "vocab_size": told["vocab_size"],
        "block_tokens": prepared.block_tokens,
        "seed": told.get("seed"),
        "machine": told.get("machine"),
        "time": human_time(sum(seconds.values())) if seconds else "unknown",
        **{f"seconds, {name}": value for name, value in seconds.items()},
        "files": f"{len(told['files'])}, {sum(f['bytes'] for f in told['files'].values()):,} bytes",
    }
    versions = {name: version for name, version in (key.get("versions") or {}).items() if version}
    body = definitions(pairs)
    if versions:
        inner = definitions(versions)
        body += f"<details><summary>versions ({len(versions)})</summary>{inner}</details>"
    return body
