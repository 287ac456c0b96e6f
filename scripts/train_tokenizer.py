"""Train a tokenizer on a recipe's train split, and say how well it fits the text it has not seen.

    python scripts/train_tokenizer.py recipe=embedded vocab_size=8192 out=runs/tokenizer
    python scripts/train_tokenizer.py recipe=text path=books out=mine compare=Qwen/Qwen2-0.5B

Settings, as key=value; what is not given is as in the recipe:
    recipe          a name in data_recipes/, or the path of a YAML file (embedded)
    path            file or folder of your own text, for recipe=text
    out             folder for tokenizer.json and tokenizer_config.json; it must be new or empty
    vocab_size      ids, at most (4096)
    pre_tokenizer   how text is split: qwen2, gpt2 or llama3
    special_tokens  [a,b]: the ids from 0
    end_of_text     the special token that ends a document (the recipe's, or the first)
    sample_bytes    how much text it is trained on, at most
    compare         another tokenizer for the table: a tokenizer.json, or a name on the Hugging Face
                    Hub, with @revision if need be
    seed            of the split and of the sample (0)
    workers         processes that read and clean (the cores)

The text is read and cleaned into a folder beside `out`, which takes about three times its size for
the time of the training. The figures are of validation documents, 2 MB of each source at most.
tokens/word: a word is a run of letters, encoded after a space.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError
from scripts.arguments import read

DEFAULTS: dict[str, Any] = {
    "recipe": "embedded",
    "path": None,
    "out": None,
    "vocab_size": 4096,
    "pre_tokenizer": None,
    "special_tokens": None,
    "end_of_text": None,
    "sample_bytes": None,
    "compare": None,
    "seed": 0,
    "workers": None,
}
_NUMBERS = ("vocab_size", "sample_bytes", "seed", "workers")

_UNLIMITED = int(1e30)


def run(chosen: dict[str, Any]) -> str:
    """Train, write the folder, and return the table."""
    from plm.data import tokenizer as bpe
    from plm.data.documents import disk_errors
    from plm.data.recipe import load_recipe

    recipe = load_recipe(chosen["recipe"])
    wanted = _tokenizer_settings(recipe.tokenizer, chosen)
    bpe.check_size(chosen["vocab_size"], wanted.special_tokens)
    out = _new_folder(chosen["out"])
    other = _baseline(chosen["compare"]) if chosen["compare"] else None
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
            prepared = _read(recipe, chosen, Path(work) / "text")
            _show("training")
            tokenizer = bpe.train(
                _sample(recipe, prepared, wanted.sample_bytes),
                vocab_size=chosen["vocab_size"],
                special_tokens=wanted.special_tokens,
                pre_tokenizer=wanted.pre_tokenizer,
            )
            _show("measuring")
            made = {"this one": tokenizer, **({chosen["compare"]: other} if other else {})}
            text = _table(prepared, made)
            _write(tokenizer, bpe.end_of_text(wanted, tokenizer), Path(work) / "made")
            os.replace(Path(work) / "made", out)
    lines = [f"folder     {out}", f"tokenizer  {bpe.size(tokenizer)} ids, {wanted.pre_tokenizer}"]
    if bpe.size(tokenizer) < chosen["vocab_size"]:
        lines[-1] += f"; the text gave no more, vocab_size={chosen['vocab_size']} was asked for"
    return "\n".join([text, "", *lines])


def _tokenizer_settings(recipes: Any, chosen: dict[str, Any]) -> Any:
    from plm.data.recipe import check_tokenizer

    keys = ("pre_tokenizer", "special_tokens", "sample_bytes", "end_of_text")
    given = {key: chosen[key] for key in keys if chosen[key] is not None}
    wanted = replace(recipes, file=None, hub=None, revision=None, **given)
    # The recipe's end of text may be none of the tokens that were given here, or of an adopted one.
    if "end_of_text" not in given and wanted.end_of_text not in wanted.special_tokens:
        wanted = replace(wanted, end_of_text=None)
    check_tokenizer(wanted, "settings")
    return wanted


def _new_folder(out: str | None) -> Path:
    if not out:
        raise ConfigError("out=<folder> is missing, for example out=runs/tokenizer")
    folder = Path(out)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"out={out} is there already; delete it or choose another folder")
    return folder


def _baseline(name: str) -> Any:
    from plm.data import adopt
    from plm.data.recipe import TokenizerSettings

    if Path(name).is_file():
        return adopt.existing(TokenizerSettings(file=name))
    hub, _, revision = name.partition("@")
    return adopt.existing(TokenizerSettings(hub=hub, revision=revision or "main"))


def _read(recipe: Any, chosen: dict[str, Any], folder: Path) -> Any:
    """The recipe's text, cleaned and split, in shards of nearly bytes: the quickest to write."""
    from plm.data.prepare import prepare
    from plm.data.recipe import TokenizerSettings

    plain = TokenizerSettings(sample_bytes=10_000)
    # Windows to pack documents into are of no use here, and two tokens long.
    sources = {name: replace(source, pack=False) for name, source in recipe.sources.items()}
    return prepare(
        replace(recipe, sources=sources, tokenizer=plain),
        data_dir=folder,
        vocab_size=256 + len(plain.special_tokens),
        block_tokens=2,
        seed=chosen["seed"],
        workers=chosen["workers"],
        path=chosen["path"],
        progress=lambda what, done, total: _show(
            what + (f" {100 * done // max(1, total)} %" if total else f" {done}" if done else "")
        ),
    )


def _sample(recipe: Any, prepared: Any, sample_bytes: int) -> Iterator[str]:
    """The text that a preparation with these settings would train on."""
    from plm.data import tokenizer as bpe

    decode = bpe.load(prepared.tokenizer_path).decode
    weights = {name: source.tokenizer_weight for name, source in recipe.sources.items()}
    sizes = {name: prepared.manifest["sources"][name]["train"]["bytes"] for name in weights}
    for name, budget in bpe.sample(sizes, weights, sample_bytes).items():
        train = prepared.sources[name]["train"]
        documents = (decode(train.document(i)[:-1].tolist()) for i in range(train.n_docs))
        yield from bpe.cut(_within(documents, budget), budget)


def _within(texts: Iterator[str], budget: int) -> Iterator[str]:
    for text in texts:
        if budget <= 0:
            return
        budget -= len(text.encode())
        yield text


def _table(prepared: Any, tokenizers: dict[str, Any]) -> str:
    """Figures by source and tokenizer, on validation documents."""
    from plm.data import tokenizer as bpe
    from plm.report.recipe_tokenizer import SAMPLE_BYTES, Measure, measure, texts_of

    reader = bpe.load(prepared.tokenizer_path)
    encoders = {name: bpe.Encoder(tokenizer) for name, tokenizer in tokenizers.items()}
    found: dict[str, dict[str, Measure]] = {}
    for source, parts in prepared.sources.items():
        texts = list(texts_of(reader, parts["val"], prepared.token_bytes, SAMPLE_BYTES))
        found[source] = {name: measure(encoder, texts) for name, encoder in encoders.items()}
    if len(found) > 1:
        found["all"] = {
            name: Measure(*map(sum, zip(*(f[name] for f in found.values()), strict=True)))
            for name in encoders
        }
    head = "source documents bytes tokenizer tokens bytes/token tokens/word".split()
    rows = [(*head, "words of one token")]
    for source, measures in found.items():
        for name, m in measures.items():
            counts = (source, f"{m.documents:,}", f"{m.n_bytes:,}", name, f"{m.tokens:,}")
            fit = (f"{m.compression:.3f}", f"{m.fertility:.3f}", f"{100 * m.whole:.1f} %")
            rows.append(counts + fit)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _write(tokenizer: Any, end_of_text: str, folder: Path) -> None:
    """A folder that transformers' AutoTokenizer opens."""
    from plm.data import tokenizer as bpe
    from plm.formats.chat import chatml

    folder.mkdir()
    bpe.save(tokenizer, folder / "tokenizer.json")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": _UNLIMITED,
        "clean_up_tokenization_spaces": False,
        "eos_token": end_of_text,
        "pad_token": end_of_text,
    }
    if (template := chatml(tokenizer)) is not None:
        config["chat_template"] = template
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _show(what: str) -> None:
    """One line that is written over, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Exit code: 0, or 2 for what the user can put right."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    try:
        chosen = read(arguments, DEFAULTS, numbers=_NUMBERS, lists=("special_tokens",))
        text = run(chosen)
        _show("")
        print(text)
    except PlmError as error:
        _show("")
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
