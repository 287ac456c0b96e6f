"""A model card: README.md of a Hugging Face folder, filled from the files of a run."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plm.errors import DataError
from plm.formats.architecture import Architecture
from plm.formats.common import About
from plm.report.format import human_share, human_tokens

MISSING = "–"
_MODEL = "AutoModelForCausalLM"
_GO_ON = (
    'tokens = tokenizer("The ", return_tensors="pt").input_ids',
    "print(tokenizer.decode(model.generate(tokens, max_new_tokens=40)[0]))",
)
_ASK = (
    'messages = [{"role": "user", "content": "Hello"}]',
    "tokens = tokenizer.apply_chat_template(",
    '    messages, add_generation_prompt=True, return_tensors="pt"',
    ").input_ids",
    "answer = model.generate(tokens, max_new_tokens=200)[0, tokens.shape[1] :]",
    "print(tokenizer.decode(answer, skip_special_tokens=True))",
)


def card(
    architecture: Architecture,
    about: About,
    *,
    parameters: int,
    dtype: str = "float32",
    tokenizer_class: str | None = "AutoTokenizer",
) -> str:
    """The card's text, with front matter for the Hub.

    It holds no licence, since a run does not know one, and no figure that is not in a file of
    `about.run`, whose end the weights have to be.

    Args:
        architecture: what the model is.
        about: `run` may be None: the card is short then.
        parameters: of the weights in the folder.
        dtype: of these weights.
        tokenizer_class: of transformers, that loads the tokenizer; None: there is none.
    Raises:
        DataError: a file of the run cannot be read.
    """
    summary = _read(about.run, "summary.json")
    manifest = _read(about.run, "manifest.json")
    parts = [
        _front_matter(architecture),
        f"# {_text(about.name)}",
        _model(architecture, about, parameters, dtype),
        _training(summary),
        _data(summary, manifest),
        _results(summary),
        _use(architecture, about, tokenizer_class),
        _limits(architecture, summary, tokenizer_class),
        _versions(summary),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def transformers_command(
    folder: str, architecture: Architecture, tokenizer: bool, chat: bool = False
) -> str:
    """A shell line that tries a Hugging Face folder; chat: it has a chat template."""
    remote = ", trust_remote_code=True" if architecture.kind == "plm" else ""
    place = json.dumps(folder)
    if tokenizer:
        asked = '[{"role": "user", "content": "Hello"}]' if chat else '"The "'
        said = '[-1]["content"]' if chat else ""
        code = (
            f'from transformers import pipeline; print(pipeline("text-generation", {place}{remote})'
            f'({asked}, max_new_tokens=40)[0]["generated_text"]{said})'
        )
    else:
        code = (
            "from transformers import AutoModelForCausalLM; "
            f"print(AutoModelForCausalLM.from_pretrained({place}{remote}))"
        )
    return f"python -c {shlex.quote(code)}"


def llama_cpp_command(file: str, architecture: Architecture, chat: bool = False) -> str:
    """A shell line that tries a GGUF file; chat: it has a chat template."""
    # v0.5.0 aborts on plm's values with its fused attention.
    plain = " -fa off" if architecture.kind == "plm" else ""
    kind = "-cnv --jinja" if chat else "-no-cnv"
    begin = "" if chat else " -n 40 -p 'The '"
    return f"llama-completion -m {shlex.quote(file)} {kind}{plain}{begin}"


def _read(run: Path | None, name: str) -> dict[str, Any]:
    if run is None or not (run / name).is_file():
        return {}
    try:
        found = json.loads((run / name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{run / name} is not JSON ({error}); remove it to go without it") from None
    if not isinstance(found, dict):
        raise DataError(f"{run / name} holds a {type(found).__name__}, not a mapping")
    return found


def _front_matter(architecture: Architecture) -> str:
    import yaml

    tags = ["plm", *([] if architecture.kind == "plm" else [architecture.kind])]
    if architecture.kind == "plm":
        tags.append("custom_code")
    content = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": tags}
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---"


def _model(a: Architecture, about: About, parameters: int, dtype: str) -> str:
    kinds = {
        "plm": "PLM: latent attention, squared ReLU",
        "llama": "Llama: grouped-query attention, SwiGLU",
        "qwen2": "Qwen2: grouped-query attention with biases, SwiGLU",
        "qwen3": "Qwen3: grouped-query attention with norms on queries and keys, SwiGLU",
    }
    rows = [
        ("architecture", kinds[a.kind]),
        ("parameters", f"{parameters:,}, the embedding among them"),
        ("weights", dtype),
        ("layers", str(a.num_hidden_layers)),
        ("hidden size", f"{a.hidden_size}, feed-forward {a.intermediate_size}"),
        ("heads", f"{a.num_attention_heads} of queries, {a.num_key_value_heads} of keys"),
        ("vocabulary", f"{a.vocab_size:,}, {'tied to' if a.tied else 'untied from'} the head"),
        ("longest context", f"{a.max_position_embeddings:,} tokens"),
    ]
    if a.kind == "plm":
        rows.insert(6, ("latent", f"{a.kv_lora_rank}, rotary part {a.qk_rope_head_dim}"))
    return "## Model\n\n" + _table(("", ""), rows)


def _training(summary: Mapping[str, Any]) -> str:
    if not summary:
        return ""
    stage, tokens, steps = (summary.get(key) for key in ("stage", "tokens", "steps"))
    lines = [f"Stage `{_text(stage)}`: {_number(tokens)} tokens in {_number(steps)} steps."]
    rows = []
    for phase in summary.get("phases") or []:
        rate, mixture = phase.get("rate") or {}, phase.get("mixture") or {}
        warmup = rate.get("warmup_tokens")
        shape = f"{rate.get('shape', MISSING)} to {_float(rate.get('to'))}"
        rows.append(
            (
                phase.get("name"),
                _number(phase.get("tokens")),
                _number(phase.get("seq_len")),
                shape + (f", warm-up {human_tokens(warmup)}" if warmup else ""),
                ", ".join(f"{name} {share:.0%}" for name, share in mixture.items()),
            )
        )
    if rows:
        head = ("phase", "tokens", "window", "rate, as a share of its peak", "mixture")
        lines.append(_table(head, rows))
    if summary.get("command"):
        lines.append(f"```\n{summary['command']}\n```")
    return "## Training\n\n" + "\n\n".join(lines)


def _data(summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    sources = manifest.get("sources") or {}
    if not sources:
        return ""
    read = summary.get("sources") or manifest.get("read") or {}
    rows, of_each = [], []
    for name, source in sources.items():
        train, taken = _mapping(source.get("train")), read.get(name) or {}
        share = _mapping(source.get("leak")).get("share")
        rows.append(
            (
                name,
                _number(train.get("documents")),
                _number(train.get("tokens")),
                _number(taken.get("tokens_read")),
                f"{taken['epochs']:.2f}" if "epochs" in taken else MISSING,
                MISSING if share is None else human_share(share),
                source.get("licence"),
            )
        )
        if licences := _mapping(source.get("licences")):
            told = "; ".join(f"{_text(k)}: {_text(v)}" for k, v in sorted(licences.items()))
            of_each.append(f"- {_text(name)} by distribution: {told}")
    head = ("source", "documents", "tokens", "tokens read", "times", "leak", "licence")
    made = f"Recipe `{_text(manifest.get('recipe'))}`, fingerprint "
    lines = [
        f"{made}`{_text(manifest.get('fingerprint'))}`. Documents and tokens are those of the "
        "training split; the leak is the share of long lines of held-out text that stand in some "
        "training text word for word.",
        _table(head, rows),
        "\n".join(of_each),
    ]
    return "## Data\n\n" + "\n\n".join(line for line in lines if line)


def _results(summary: Mapping[str, Any]) -> str:
    before, after = (summary.get(key) or {} for key in ("val_before", "val_after"))
    ngrams = summary.get("ngrams") or {}
    if not after:
        return ""
    if any("margin" in found for found in after.values()):
        return _pairs(before, after)
    kinds = list(dict.fromkeys(kind for of_one in ngrams.values() for kind in of_one))
    rows = [
        (
            name,
            _nats((before.get(name) or {}).get("loss")),
            *(_nats((ngrams.get(name) or {}).get(kind)) for kind in kinds),
            _nats(found.get("loss")),
            _nats(found.get("bpb")),
        )
        for name, found in after.items()
    ]
    head = ("source", "before", *(kind.replace("_", " ") for kind in kinds), "after", "bits a byte")
    told = "Loss on held-out text in nats a token, before and after this training"
    told += ", beside counted n-gram models of the same training text" if kinds else ""
    return f"## Results\n\n{told}; bits a byte of text after it.\n\n{_table(head, rows)}"


def _pairs(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    names = ("loss", "accuracy", "margin")
    rows = [
        (name, *(_nats((one.get(name) or {}).get(key)) for key in names for one in (before, after)))
        for name in after
    ]
    head = ("source", *(f"{key} {when}" for key in names for when in ("before", "after")))
    told = (
        "Held-out pairs of a better and a worse answer, before and after this training: the loss, "
        "the share whose better answer has gained on the worse one, and by how many nats."
    )
    return f"## Results\n\n{told}\n\n{_table(head, rows)}"


def _use(a: Architecture, about: About, tokenizer_class: str | None) -> str:
    remote = ", trust_remote_code=True" if a.kind == "plm" else ""
    code = [
        f"from transformers import {', '.join(filter(None, (_MODEL, tokenizer_class)))}",
        "",
        'folder = "path/to/this/folder"',
        f"model = {_MODEL}.from_pretrained(folder{remote})",
    ]
    if tokenizer_class:
        code += [
            f"tokenizer = {tokenizer_class}.from_pretrained(folder{remote})",
            *(_ASK if about.chat_template is not None else _GO_ON),
        ]
    lines = ["```python\n" + "\n".join(code) + "\n```"]
    if a.kind == "plm":
        told = "`trust_remote_code` runs `modeling_plm.py` of this folder: read it first."
        lines.append(told)
    if a.kind == "plm" and not a.tied:
        lines.append("llama.cpp has no PLM whose head is not its embedding.")
    else:
        file = f"{about.name}-F16.gguf"
        fused = " PLM needs its fused attention off." if a.kind == "plm" else ""
        lines.append(
            f"llama.cpp runs it as a GGUF file, which plm's scripts write.{fused}\n\n```\n"
            f"python scripts/export.py run=path/to/this/folder to=gguf out={file}\n"
            f"{llama_cpp_command(file, a, about.chat_template is not None)}\n```"
        )
    return "## Use\n\n" + "\n\n".join(lines)


def _limits(a: Architecture, summary: Mapping[str, Any], tokenizer_class: str | None) -> str:
    stage, data = summary.get("stage"), _mapping(summary.get("data"))
    lines = []
    if stage == "pretrain":
        lines.append(
            "A base model: it goes on with a text. It was not tuned to follow instructions or to "
            "hold a conversation, also where a chat template is there."
        )
    if not summary:
        lines.append("Nothing is known here of its training, its data and how good it is.")
    elif summary.get("val_after"):
        lines.append("Nothing but the held-out losses above was measured; no bias, no safety.")
    windows = [phase.get("seq_len") or 0 for phase in summary.get("phases") or []]
    if windows and 0 < max(windows) < a.max_position_embeddings:
        lines.append(f"Trained on windows of at most {max(windows):,} tokens; longer is untried.")
    leaks = {name: share for name, share in _mapping(data.get("leak")).items() if share}
    if leaks:
        told = ", ".join(f"{_text(name)} {human_share(share)}" for name, share in leaks.items())
        lines.append(f"Held-out text leaks into training ({told}), which flatters its results.")
    if data.get("comparable") is False:
        lines.append(f"Not comparable with other machines' figures: {_text(data.get('why'))}.")
    if tokenizer_class == "PreTrainedTokenizerFast":
        lines.append(
            "`AutoTokenizer` of newer transformers splits text of every Qwen2 folder as Qwen2 "
            "does, which is not how this model's text was split; use `PreTrainedTokenizerFast`."
        )
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _versions(summary: Mapping[str, Any]) -> str:
    told = ", ".join(
        f"{name} {number}" for name, number in _mapping(summary.get("versions")).items()
    )
    return f"Trained with {told}." if told else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_text, line)) + " |" for line in lines)


def _text(value: Any) -> str:
    """One line that breaks no table; a dash for what is not there."""
    if value is None:
        return MISSING
    return " ".join(str(value).split()).replace("|", "\\|")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else MISSING


def _float(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else MISSING


def _nats(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else MISSING
