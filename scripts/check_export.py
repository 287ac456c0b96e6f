"""Export a model, load the files in transformers and llama.cpp, and compare with our figures.

    python scripts/check_export.py run=runs/plm_pretrain-1a2b3c
    python scripts/check_export.py scale=nano model=llama model/embedding=untied

run=<folder>          run, checkpoint or Hugging Face folder; without it a model with random weights
                      is made from settings of train.py, such as scale=nano model=llama
tokens=200            positions whose logits are compared
new_tokens=128        tokens of greedy text
type=F32              of the GGUF file; with another than F32 its rounding is measured as well
to=[hf,gguf]          what is checked
llama_cpp=<path>      libllama of your own; otherwise the one that `make llama-cpp` fetched
json=<file>           also write the figures there

Logit errors are the largest difference as a share of our largest logit. Exit code 1 where F32
files pass 1e-3, greedy texts part, or token ids differ; architectures that a format cannot hold are
named and left out.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

# The checkout need not be installed: its root is not where Python looks for a script's imports.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plm.errors import ConfigError, PlmError

DEFAULTS: dict[str, Any] = {
    "run": None,
    "tokens": 200,
    "new_tokens": 128,
    "type": "F32",
    "to": ["hf", "gguf"],
    "llama_cpp": None,
    "json": None,
}
GOAL = 1e-3


def subject(chosen: dict[str, Any], settings: list[str]) -> Any:
    """The model to check: loaded, or with random weights and a small tokenizer of its own."""
    from plm.pretrained import Pretrained, load

    if chosen["run"]:
        if settings:
            raise ConfigError(f"{settings[0]}: settings make a random model, run= loads one")
        return load(chosen["run"])
    from plm.config import build
    from scripts.plan import compose

    composed = compose(["+experiment=plm_pretrain", *(settings or ["scale=test"])])
    model = build(composed["model"])
    model.init_weights(composed["seed"])
    return Pretrained(Path("random"), model.eval(), None)


def small_tokenizer(vocab_size: int) -> Any:
    """A byte-level tokenizer for a model that has none, trained on what is compared."""
    from plm.data import tokenizer as bpe
    from plm.formats.parity import TEXTS

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    texts = [text for text in TEXTS.values() for _ in range(2)]
    return bpe.train(texts, vocab_size=min(vocab_size, 512), special_tokens=special)


def check(chosen: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """Export into a folder that is gone afterwards, and compare each file's client with us."""
    from plm.data import tokenizer as bpe
    from plm.export.gguf import check_architecture
    from plm.formats.architecture import of_model
    from plm.formats.common import About
    from plm.formats.parity import reference

    found = subject(chosen, settings)
    tokenizer = bpe.load(found.tokenizer) if found.tokenizer else None
    if not chosen["run"]:
        tokenizer = small_tokenizer(found.model.vocab_size)
    about = About("check", found.end_of_text, found.rope_theta, chat_template=found.chat_template)
    architecture = of_model(found.model, found.rope_theta)
    ours = reference(
        found.model,
        tokenizer,
        positions=chosen["tokens"],
        new_tokens=chosen["new_tokens"],
        rope_theta=found.rope_theta,
    )
    result: dict[str, Any] = {
        "model": str(chosen["run"] or " ".join(settings) or "scale=test"),
        "architecture": architecture.kind,
        "tied": architecture.tied,
        "parameters": sum(p.numel() for p in found.model.parameters()),
        "largest_logit": float(abs(ours.logits).max()),
        "agreements": [],
        "left_out": {},
    }
    with tempfile.TemporaryDirectory(prefix="plm-check-") as place:
        for to in chosen["to"]:
            if to == "gguf":
                try:
                    check_architecture(architecture)
                except ConfigError as error:
                    result["left_out"][to] = str(error)
                    continue
            agreement = _one(to, found.model, tokenizer, about, Path(place), ours, chosen)
            result["agreements"].append(agreement.plain())
    return result


def _one(
    to: str, model: Any, tokenizer: Any, about: Any, place: Path, ours: Any, chosen: dict[str, Any]
) -> Any:
    from plm.formats.parity import with_llama_cpp, with_transformers

    if to == "hf":
        from plm.export.hf import hf

        return with_transformers(hf(model, tokenizer, place / "hf", about=about), ours)
    from plm.export.gguf import gguf

    file = gguf(model, tokenizer, place / "m.gguf", about=about, kind=chosen["type"])
    return with_llama_cpp(file, ours, library=chosen["llama_cpp"])


def table(result: dict[str, Any]) -> str:
    """The figures as lines for a terminal."""
    tied = "tied" if result["tied"] else "untied"
    lines = [f"{result['model']}: {result['architecture']}, {tied}, {result['parameters']:,} "
             f"parameters, largest logit {result['largest_logit']:.3g}", ""]  # fmt: skip
    rows = [("client", "logit error", "log-prob error", "same best", "greedy", "token ids")]
    for a in result["agreements"]:
        ids = ", ".join(f"{n} {'equal' if ok else 'DIFFER'}" for n, ok in a["texts"].items())
        rows.append(
            (
                a["client"],
                f"{a['logit_error']:.1e}",
                f"{a['logp_error']:.1e}",
                f"{a['same_best']:.1%}",
                f"{a['greedy']}/{a['new_tokens']}",
                ids or "no tokenizer",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines += [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines += [f"left out: {to}: {why}" for to, why in result["left_out"].items()]
    return "\n".join(lines)


def agrees(result: dict[str, Any], kind: str) -> bool:
    """Whether all clients compute the same; of a rounded file only token ids are asked for."""
    found = result["agreements"]
    same_ids = all(all(a["texts"].values()) for a in found)
    exact = [a for a in found if kind == "F32" or a["client"].startswith("transformers")]
    return same_ids and all(
        a["logit_error"] < GOAL and a["greedy"] == a["new_tokens"] for a in exact
    )


def main(arguments: list[str]) -> int:
    """Exit code: 0 where all agree, 1 where not, 2 for what the user can put right."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    from scripts.arguments import read

    own = [a for a in arguments if a.partition("=")[0] in DEFAULTS]
    try:
        chosen = read(own, DEFAULTS, numbers=("tokens", "new_tokens"), lists=("to",))
        if not set(chosen["to"]) <= {"hf", "gguf"}:
            raise ConfigError(f"to={chosen['to']}: hf and gguf are what can be checked")
        result = check(chosen, [a for a in arguments if a not in own])
    except PlmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        from plm.explain import explain

        line = explain(error, Path(__file__).resolve().parents[1] / "configs")
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2
    print(table(result))
    if chosen["json"]:
        Path(chosen["json"]).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if agrees(result, chosen["type"]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
