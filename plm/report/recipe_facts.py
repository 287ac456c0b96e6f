"""What a preparation kept and what it left out, by source, step and reason, with examples."""

import re
from collections import Counter
from collections.abc import Iterator
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from plm.data.conversation_shards import MASK, TARGET
from plm.data.indexed import IndexedDataset
from plm.data.pair_shards import OF_WORSE
from plm.data.prepared import SPLITS, Prepared
from plm.report.format import human_share, human_tokens
from plm.report.recipe_tokenizer import visible
from plm.report.tables import one_line, table, tiles

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KEPT = 4
"""Documents shown of each source, spread over its train shard."""

EXCERPT = 300
"""Characters shown of one."""

# Shown of a pair's prompt, its last ones: what is of interest are the answers.
_PROMPT_TOKENS = 24
_PIECE = re.compile(r"#\d+$")
_EXACT, _NEAR = "exact_dedup", "near_dedup"


class Loss(NamedTuple):
    """What one step did for one reason."""

    step: str
    reason: str
    documents: int
    characters: int
    places: int
    examples: list[list[str]]


def losses(prepared: Prepared, name: str) -> list[Loss]:
    """What the steps did to a source, in the order in which they ran."""
    found = prepared.manifest["sources"][name].get("steps") or {}
    recipe = (prepared.manifest.get("key") or {}).get("recipe") or {}
    listed = (recipe.get("sources") or {}).get(name) or {}
    order = ["read", *(str(s.get("_target_")).rpartition(".")[2] for s in listed.get("steps", []))]
    ran = [step for step in dict.fromkeys(order) if step in found]
    ran += [step for step in found if step not in ran and step != "split"]
    ran += ["split"] if "split" in found else []
    result = []
    for step in ran:
        tally = {"dropped": {}, "lost": {}, "changed": {}, "examples": {}, **found[step]}
        for reason in dict.fromkeys([*tally["dropped"], *tally["changed"]]):
            told = [tally[part].get(reason, 0) for part in ("dropped", "lost", "changed")]
            result.append(Loss(step, reason, *told, tally["examples"].get(reason, [])))
    return result


def kept(prepared: Prepared, name: str) -> int:
    """Documents that a source kept; pairs once each, as what the split cut into pieces does."""
    told = prepared.manifest["sources"][name]
    if all("pairs" in told[split] for split in SPLITS):
        return sum(told[split]["pairs"] for split in SPLITS)
    recipe = (prepared.manifest.get("key") or {}).get("recipe") or {}
    listed = (recipe.get("sources") or {}).get(name) or {}
    if (listed.get("split") or {}).get("by", "group") == "group":
        return sum(prepared.sources[name][split].n_docs for split in SPLITS)
    return len({_PIECE.sub("", n) for split in SPLITS for n in _names(prepared, name, split)})


def _names(prepared: Prepared, name: str, split: str) -> Iterator[str]:
    prefix = prepared.prefix(name, split)
    with open(prefix.with_name(prefix.name + ".names"), encoding="utf-8") as lines:
        for line in lines:
            yield line.rstrip("\n")


def headline(prepared: Prepared) -> str:
    """The figures that a reader looks for first."""
    told = prepared.manifest["sources"]
    stayed = sum(kept(prepared, name) for name in told)
    dropped = Counter[str]()
    for name in told:
        for loss in losses(prepared, name):
            dropped[loss.step] += loss.documents
    came = stayed + dropped.total()
    doubled = dropped[_EXACT] + dropped[_NEAR]
    tokens = {split: sum(s[split]["tokens"] for s in told.values()) for split in SPLITS}
    n_bytes = sum(s[split]["bytes"] for s in told.values() for split in SPLITS)
    share = human_share(stayed / came) if came else "none"
    val = human_share(tokens["val"] / max(1, sum(tokens.values())))
    return tiles(
        [
            ("Documents kept", f"{stayed:,}", f"{share} of the {came:,} that came in"),
            ("Train tokens", human_tokens(tokens["train"]), f"{n_bytes / 1e6:,.1f} MB in all"),
            ("Validation tokens", human_tokens(tokens["val"]), f"{val} of all"),
            ("Duplicates", f"{doubled:,}", f"{dropped[_EXACT]:,} exact, {dropped[_NEAR]:,} near"),
            (
                "Tokenizer",
                f"{prepared.manifest['tokenizer_size']:,}",
                f"ids, {n_bytes / max(1, sum(tokens.values())):.2f} bytes a token",
            ),
        ]
    )


def sources(prepared: Prepared) -> str:
    """Sizes of each source, then where its text is from."""
    sizes, origins = [], []
    for name, told in prepared.manifest["sources"].items():
        train, val = told["train"], told["val"]
        leak = told.get("leak") or {}
        sizes.append(
            [
                name,
                f"{train['documents']:,}",
                f"{val['documents']:,}",
                human_tokens(train["tokens"]),
                human_tokens(val["tokens"]),
                f"{(train['bytes'] + val['bytes']) / 1e6:,.2f}",
                f"{_bytes_a_token(told):.2f}",
                human_share(leak["share"]) if "share" in leak else "–",
            ]
        )
        licences = Counter((told.get("licences") or {}).values())
        several = ", ".join(f"{one_line(k)} ({n})" for k, n in licences.most_common())
        # The licence's own line says "per distribution" where there is a list.
        licence = several or one_line(told.get("licence"))
        missing = one_line(told.get("missing") or "") or "–"
        origins.append([name, visible(licence), visible(str(told.get("revision"))), missing])
    head = ["source", "train documents", "validation documents", "train tokens"]
    head += ["validation tokens", "MB", "bytes/token", "leak into validation"]
    note = (
        "<p>Leak: share of the long lines of validation that stand verbatim in some source's "
        "train split.</p>"
    )
    about = ["source", "licence", "revision", "missing"]
    if all(row[-1] == "–" for row in origins):
        about, origins = about[:-1], [row[:-1] for row in origins]
    return f'{table(head, sizes)}{note}<div class="words">{table(about, origins)}</div>'


def _bytes_a_token(told: dict[str, Any]) -> float:
    n_bytes = sum(told[split]["bytes"] for split in SPLITS)
    return n_bytes / max(1, sum(told[split]["tokens"] for split in SPLITS))


def cleaning(prepared: Prepared) -> str:
    """What each step left out and changed, by reason."""
    note = (
        "<p>Documents that came in are those kept and those dropped. ≈ is an estimate: the "
        "characters lost, over the source's bytes a token; none where the text was not read.</p>"
    )
    return note + "".join(_cleaning(prepared, name) for name in prepared.manifest["sources"])


def _cleaning(prepared: Prepared, name: str) -> str:
    told = prepared.manifest["sources"][name]
    steps, stayed = losses(prepared, name), kept(prepared, name)
    came = stayed + sum(loss.documents for loss in steps)
    rows = [["came in", "", f"{came:,}", "", "", "", ""]]
    for loss in steps:
        tokens = loss.characters / _bytes_a_token(told)
        rows.append(
            [
                loss.step.replace("_", " "),
                visible(loss.reason),
                f"−{loss.documents:,}" if loss.documents else "",
                human_share(loss.documents / max(1, came)) if loss.documents else "",
                f"{loss.characters:,}" if loss.characters else "",
                f"≈ −{human_tokens(tokens)}" if tokens >= 1 else "",
                f"{loss.places:,}" if loss.places else "",
            ]
        )
    total = human_tokens(sum(told[split]["tokens"] for split in SPLITS))
    rows.append(["kept", "", f"{stayed:,}", human_share(stayed / max(1, came)), "", total, ""])
    head = ["step", "reason", "documents", "share", "characters lost", "tokens", "places changed"]
    if not any(loss.places for loss in steps):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return f'<h3>{escape(name)}</h3><div class="steps">{table(head, rows)}</div>'


def duplicates(prepared: Prepared) -> str:
    """Documents that were dropped since another one says the same."""
    rows = []
    for name in prepared.manifest["sources"]:
        steps = losses(prepared, name)
        came = kept(prepared, name) + sum(loss.documents for loss in steps)
        counts = [sum(s.documents for s in steps if s.step == step) for step in (_EXACT, _NEAR)]
        rows.append([name, *(f"{n:,}" for n in counts), human_share(sum(counts) / max(1, came))])
    return table(["source", "exact", "near", "share of what came in"], rows)


def dropped_examples(prepared: Prepared) -> str:
    """The first documents of each reason, folded."""
    parts = []
    for name in prepared.manifest["sources"]:
        for loss in losses(prepared, name):
            if not loss.examples:
                continue
            count = f"{loss.documents:,} dropped" if loss.documents else f"{loss.places:,} places"
            inner = "".join(_example(str(n), str(text)) for n, text in loss.examples)
            title = f"{name}, {loss.step.replace('_', ' ')}: {loss.reason} ({count})"
            parts.append(f"<details><summary>{escape(visible(title))}</summary>{inner}</details>")
    return "".join(parts) or '<p class="missing">Nothing was dropped or changed.</p>'


def kept_examples(prepared: Prepared, tokenizer: "Tokenizer") -> str:
    """The beginnings of some train documents of each source, folded."""
    parts = []
    for name, shards in prepared.sources.items():
        train = shards["train"]
        shown = min(KEPT, train.n_docs)
        # The middle of each of so many like stretches.
        chosen = [(2 * i + 1) * train.n_docs // (2 * shown) for i in range(shown)]
        talks = _masks(prepared, name) if name in prepared.conversations else None
        inner = ""
        for i in chosen:
            # A token is a byte at least, and a character four bytes at most.
            ids = train.document(i)[: 4 * EXCERPT]
            document = prepared.document_name(name, "train", i)
            if name in prepared.pairs:
                inner += _pair(document, train.document(i), talks.document(i), tokenizer)
                continue
            pieces = [(False, tokenizer.decode(ids.tolist()))]
            if talks is not None:
                pieces = _pieces(ids, talks.document(i)[: len(ids)], tokenizer)
            inner += _article(document, pieces)
        title = f"{escape(name)}: {shown} of {train.n_docs:,} train documents"
        title += ", what is trained on set off" * (talks is not None)
        parts.append(f"<details><summary>{title}</summary>{inner}</details>")
    return "".join(parts)


def _masks(prepared: Prepared, name: str) -> IndexedDataset:
    prefix = prepared.prefix(name, "train")
    return IndexedDataset(prefix.with_name(prefix.name + MASK))


def _pair(document: str, ids: np.ndarray, mask: np.ndarray, tokenizer: "Tokenizer") -> str:
    """Both answers of a part, each behind the end of its prompt."""
    inner = ""
    for side, of_worse in (("better answer", 0), ("worse answer", 1)):
        own = (mask & OF_WORSE > 0) == of_worse
        first = max(0, int(np.argmax(mask[own] & TARGET)) - _PROMPT_TOKENS)
        pieces = _pieces(ids[own][first:], mask[own][first:], tokenizer)
        inner += _article(f"{document}, {side}", pieces)
    return inner


def _pieces(ids: np.ndarray, mask: np.ndarray, tokenizer: "Tokenizer") -> list[tuple[bool, str]]:
    """(trained on, text with its special tokens) of one stretch of a conversation after another."""
    edges = np.flatnonzero(np.diff(mask & TARGET)) + 1
    return [
        (
            bool(mask[start] & TARGET),
            tokenizer.decode(ids[start:stop].tolist(), skip_special_tokens=False),
        )
        for start, stop in pairwise([0, *edges.tolist(), len(ids)])
    ]


def _example(name: str, text: str) -> str:
    return _article(name, [(False, text)])


def _article(name: str, pieces: list[tuple[bool, str]]) -> str:
    """The beginning of a document, in bold what is trained on of a conversation."""
    body, left = "", EXCERPT
    for trained, piece in pieces:
        text = escape(visible(piece.replace("\r\n", "\n"))[:left])
        body += f"<b>{text}</b>" if trained and text else text
        left -= min(left, len(piece))
    body += '<span class="cut"> …</span>' if not left else ""
    body = body or '<span class="cut">(no text)</span>'
    return f'<article><h3>{escape(visible(name))}</h3><pre class="sample">{body}</pre></article>'
