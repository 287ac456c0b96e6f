"""Pairs as shards: a document for each part of a pair, that is for each kind of prompt.

A document is two sequences, one behind the other: the prompt with the better answer, and the prompt
with the worse one. The mask's bytes say of each token: TARGET, it is of the answer (the end of its
turn included); OF_WORSE, it is of the second sequence; and, above, what the prompt shows, as index
into SHOWN. What stands in the prompt is never a target: neither the template nor the answer shown.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from plm.data.conversation_shards import (
    TARGET,
    ChatCoding,
    Rendered,
    encode,
    left_out,
    too_long,
    write_rendered,
)
from plm.data.conversations import BadConversation
from plm.data.pairs import SHOWN, Pair, answered, check, given_of, name_of, prompts
from plm.data.tally import Tally
from plm.data.textstore import Entry, TextStore
from plm.rounds.template import Template

OF_WORSE = 2
_SHOWN_SHIFT = 2


def shown_of(mask: np.ndarray) -> np.ndarray:
    """Index into SHOWN that each of a mask's bytes holds, int64."""
    return (mask >> _SHOWN_SHIFT & 3).astype(np.int64)


def write_pairs(
    store: TextStore,
    entries: list[Entry],
    prefix: Path,
    coding: ChatCoding,
    executor: Executor,
    ahead: int,
    told: Callable[[int], None],
    *,
    shown: tuple[str, ...],
    template: str | None,
) -> tuple[dict[str, int], Tally]:
    """Render pairs and write their parts as one dataset, with the mask and names beside it.

    Args:
        store, entries, prefix, coding, executor, ahead, told: as for `write_rendered`.
        shown: kinds of prompts, of SHOWN.
        template: how an answer is shown; None: `shown` names nothing alone.
    Returns:
        documents, which are the parts, pairs, tokens, targets, and bytes of text; and what was left
        out: a pair of which any part cannot be used is left out whole.
    Raises:
        DataError: a pair that cannot be used, where the settings say so.
        ConfigError: the chat template shows no targets.
    """
    render = partial(parts, shown=shown, template=template)
    where = store, entries, prefix, coding, executor, ahead, told
    counts, tally = write_rendered(*where, render)
    counts["pairs"] = counts.pop("entries")
    return counts, tally


def parts(
    name: str,
    text: str,
    coding: ChatCoding,
    tally: Tally,
    *,
    shown: tuple[str, ...],
    template: str | None,
) -> list[Rendered]:
    """The documents of one pair; none for a pair that is counted instead."""
    found = []
    try:
        pair = Pair.from_text(text)
        check(pair)
        for kind, prompt in zip(shown, prompts(pair, shown, _template(template)), strict=True):
            sequences, given = [], given_of(prompt)
            for of_worse, answer in enumerate((pair.chosen, pair.rejected)):
                talk = answered(prompt, answer)
                ids, target = encode(talk, pair.tools, given, coding, name)
                # A first token is predicted from nothing.
                target[0] = False
                if not target.any():
                    raise BadConversation("no target", "the template leaves an answer out")
                marks = target * TARGET + of_worse * OF_WORSE + (SHOWN.index(kind) << _SHOWN_SHIFT)
                sequences.append((ids, marks.astype(np.uint8)))
            ids, marks = (np.concatenate(both) for both in zip(*sequences, strict=True))
            found.append(Rendered(name_of(name, kind), ids, marks))
    except BadConversation as error:
        return left_out(error, name, text, coding, tally)
    longest = max(len(part.ids) for part in found)
    if longest > coding.block_tokens:
        return too_long(longest, name, text, coding, tally, "skip")
    return found


@lru_cache(maxsize=2)
def _template(text: str | None) -> Template | None:
    return None if text is None else Template(text)
