"""Prepare a recipe: clean, split and tokenise its text, and say what came out.

    python scripts/prepare_data.py recipe=embedded vocab_size=4096 block_tokens=1024

Settings, as key=value:
    recipe        a name in data_recipes/, or the path of a YAML file (embedded)
    path          file or folder of your own text, for recipe=text
    data_dir      where prepared data lie (data)
    tokenizer     an existing tokenizer.json, or a folder with one, in the place of the recipe's
    end_of_text   the token of it that ends a document (its first special one)
    new_tokens    [<|im_start|>,<|im_end|>]: special tokens to add to it
    chat_template Jinja for conversations, or a file of it (ChatML)
    bad_rows      of conversations: skip counts what is none, error stops there (the recipe's)
    too_long      of conversations past block_tokens: skip, error, cut (the recipe's)
    refinement    how prompts of pairs show an answer: text with {question} and {answer} (PLM's)
    shown         [nothing,worse,better]: what the prompts of pairs show (the recipe's, or all)
    vocab_size    ids of the tokenizer, at most (4096)
    block_tokens  length of the blocks that are shuffled, a multiple of every seq_len (1024)
    seed          of the split and of the order of documents (0)
    workers       processes (the cores)
    ngrams        true: also count the n-gram baselines (false)
    trust         [mylab]: packages of your own that the recipe's steps may come from
"""

import sys
from pathlib import Path
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import Interrupted, PlmError
from scripts.arguments import read

DEFAULTS: dict[str, Any] = {
    "recipe": "embedded",
    "path": None,
    "tokenizer": None,
    "end_of_text": None,
    "new_tokens": [],
    "chat_template": None,
    "bad_rows": None,
    "too_long": None,
    "refinement": None,
    "shown": [],
    "data_dir": "data",
    "vocab_size": 4096,
    "block_tokens": 1024,
    "seed": 0,
    "workers": None,
    "ngrams": False,
    "trust": [],
}
_NUMBERS = ("vocab_size", "block_tokens", "seed", "workers")
_LISTS = ("trust", "new_tokens", "shown")


def show(what: str, done: int, total: int | None) -> None:
    """One line that is written over, on a terminal only."""
    if sys.stderr.isatty():
        share = f" {100 * done // max(1, total)} %" if total else f" {done}" if done else ""
        print(f"\r\033[K{what}{share}", end="", file=sys.stderr, flush=True)


def table(prepared: Any, report: Path) -> str:
    """What came out, as text."""
    from plm.data.manifest import losses

    data = prepared.manifest
    head = ("source", "split", "documents", "tokens", "MB", "bytes/token", "leak")
    rows = [head]
    for name, source in data["sources"].items():
        for split in ("train", "val"):
            part = source[split]
            rows.append(
                (
                    name,
                    split,
                    f"{part['documents']:,}",
                    f"{part['tokens']:,}",
                    f"{part['bytes'] / 1e6:.2f}",
                    f"{part['bytes'] / part['tokens']:.2f}",
                    f"{100 * source['leak']['share']:.2f} %" if split == "val" else "",
                )
            )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    lines.append("")
    lines.append(f"folder       {prepared.folder}")
    lines.append(f"report       {report}")
    lines.append(f"fingerprint  {prepared.fingerprint}")
    lines.append(f"tokenizer    {data['tokenizer_size']} ids of {data['vocab_size']}")
    lines.append("seconds      " + ", ".join(f"{k} {v}" for k, v in data["seconds"].items()))
    if not prepared.comparable:
        lines.append("not comparable: " + "; ".join(data["not_comparable_because"]))
    lines += [f"dropped      {lost.text}" for lost in losses(data)]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Exit code: 0, or 2 for what the user can put right."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        chosen = read(arguments, DEFAULTS, numbers=_NUMBERS, flags=("ngrams",), lists=_LISTS)
        from plm.config import trust
        from plm.data.open import recipe_of
        from plm.data.prepare import prepare

        trust(chosen["trust"])
        prepared = prepare(
            recipe_of({**chosen, "shown": chosen["shown"] or None}),
            data_dir=Path(chosen["data_dir"]),
            vocab_size=chosen["vocab_size"],
            block_tokens=chosen["block_tokens"],
            seed=chosen["seed"],
            workers=chosen["workers"],
            path=chosen["path"],
            progress=show,
        )
        show("", 0, None)
        from plm.report.recipe_page import write_recipe_report

        print(table(prepared, write_recipe_report(prepared)))
        if chosen["ngrams"]:
            from plm.analysis.ngram import ngram_baselines

            for name, losses in ngram_baselines(prepared).items():
                print(f"{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in losses.items()))
    except KeyboardInterrupt:
        show("", 0, None)
        print("interrupted; the same command goes on from there", file=sys.stderr)
        return Interrupted.exit_code
    except PlmError as error:
        show("", 0, None)
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
