"""Pairs of a better and a worse answer: as pairs, or as conversations that lead to the better one.

Paper: Zeng et al., ARIES (arXiv:2502.05605)
Departs: the template's text is ours; a mean over tokens, as the stage sft takes it, and not over
    answers.
"""

from functools import partial
from typing import Any

from plm.data.conversations import Conversation
from plm.data.documents import Document, Origin
from plm.data.pairs import (
    Pair,
    answered,
    check,
    check_kind,
    check_shown,
    given_of,
    name_of,
    parse,
    prompts,
)
from plm.data.sources.conversations import group_of
from plm.data.sources.rows import Rows, check_rows, of_files, of_hub
from plm.rounds.template import Template, default_text


def pairs(
    path: str,
    *,
    kind: str = "auto",
    bad_rows: str = "skip",
    fields: dict[str, str] | None = None,
) -> Origin:
    """Every pair under a path; a source with it also says `pairs: true`.

    Args:
        path: a .jsonl or .parquet file, or a folder that is searched for them to its depths.
        kind: how a row holds a pair, see `plm.data.pairs.parse`.
        bad_rows: skip counts what is no pair and leaves it out; error stops there.
        fields: what a row calls what a form names otherwise, such as {prompt: question}.
    Raises:
        ConfigError: a setting that is not known.
        DataError: the path is missing, or holds no such file; and, on reading, a file that cannot
            be read, or, with bad_rows=error, its first bad row.
    """
    return of_files(path, _rows(kind, bad_rows, fields), {"pairs": True})


def hub_pairs(
    dataset: str,
    *,
    revision: str,
    config: str | None = None,
    data_dir: str | None = None,
    split: str = "train",
    kind: str = "auto",
    bad_rows: str = "skip",
    fields: dict[str, str] | None = None,
    max_bytes: int,
    streaming: bool = True,
) -> Origin:
    """The first pairs of a data set of the hub.

    Args:
        dataset, revision, config, data_dir, split, streaming: as for `hub.hub`.
        kind, bad_rows, fields: as for `pairs`.
        max_bytes: of rows as JSON, after which reading stops.
    Raises:
        ConfigError: a setting that is not known.
        Unfinished: on reading: the set cannot be opened or read on.
        DataError: on reading, with bad_rows=error: the first bad row.
    """
    made = _rows(kind, bad_rows, fields)
    settings = {"config": config, "data_dir": data_dir, "revision": revision, "split": split}
    return of_hub(dataset, settings, max_bytes, streaming, made, {"pairs": True})


def refinements(
    path: str,
    *,
    template: str | None = None,
    shown: list[str] | None = None,
    kind: str = "auto",
    bad_rows: str = "skip",
    fields: dict[str, str] | None = None,
) -> Origin:
    """Conversations that end with a pair's better answer: −log π(y_w | x) − log π(y_w | x, y_l, z).

    A source with it also says `conversations: true`. Of each pair comes one conversation for each
    kind of prompt; only the better answer is trained on.

    Args:
        path: as for `pairs`.
        template: how an answer is shown, with {question} and {answer}; None: the text of
            configs/refinement/plm.yaml.
        shown: kinds of prompts, of plm.data.pairs.SHOWN; None: nothing and worse.
        kind, bad_rows, fields: as for `pairs`.
    Raises:
        ConfigError: a setting that is not known, or a template without its places.
        DataError: as for `pairs`.
    """
    kinds = check_shown(["nothing", "worse"] if shown is None else shown, "refinements: shown")
    text = default_text() if template is None else template
    make = partial(_refine, shown=kinds, template=Template(text))
    facts: dict[str, Any] = {"conversations": True, "shown": list(kinds)}
    if kinds != ("nothing",):
        facts["refinement"] = text
    return of_files(path, _rows(kind, bad_rows, fields, make), facts)


def _rows(kind: str, bad_rows: str, fields: Any, make: Any = None) -> Rows:
    check_kind(kind)
    example = "{prompt: question, chosen: right, rejected: wrong}"
    check_rows("pairs", bad_rows, fields, example)
    return Rows(partial(make or _make, kind=kind), bad_rows, fields)


def _read(row: Any, kind: str) -> Pair:
    pair = parse(row, kind)
    check(pair)
    return pair


def _make(row: Any, name: str, *, kind: str) -> list[Document]:
    pair = _read(row, kind)
    return [Document(pair.to_text(), name, group_of(pair.prompt))]


def _refine(
    row: Any, name: str, *, kind: str, shown: tuple[str, ...], template: Template
) -> list[Document]:
    pair = _read(row, kind)
    group, found = group_of(pair.prompt), []
    for one, prompt in zip(shown, prompts(pair, shown, template), strict=True):
        talk = Conversation(answered(prompt, pair.chosen), pair.tools, given_of(prompt))
        found.append(Document(talk.to_text(), name_of(name, one), group))
    return found
