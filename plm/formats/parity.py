"""Whether another program computes what the model computes: logits, greedy text, token ids."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from plm.data import tokenizer as bpe
from plm.errors import ConfigError
from plm.model.context import Context
from plm.rollout.generate import generate

TEXTS = {
    "multilingual": (
        "The town's 3 bridges were built in 1897. Die Brücken über den Fluß; 這座橋很舊，水很深。 "
        "Мост через реку — ٣ جسور قديمة, naïve façade, ½ × 42 °C, 👩‍👧 and 한국어.\n"
    ),
    "code": (
        "def add(a: int, b: int = 0x1F) -> int:\n    # 12345 + 67\n\treturn a+b  \n\n\n"
        'for i in range(10):\n    print(f"{i:>3}", end=" ")\r\nif (x != None) { y[0] += 1; }\n'
    ),
}
"""What token ids are compared on, and where the tokens of a comparison come from."""


@dataclass(frozen=True)
class Agreement:
    """How another program's figures lie beside ours.

    Attributes:
        client: the program.
        positions: of the text whose logits were compared, all of them.
        logit_error: largest difference of two logits, as a share of our largest.
        logp_error: largest difference of two log-probabilities, in nats.
        same_best: share of positions with the same most likely token.
        greedy: tokens until the greedy texts part.
        new_tokens: tokens of the greedy texts.
        texts: token ids of each of TEXTS equal ours; empty: the client has no tokenizer of its own,
            or the model none.
    """

    client: str
    positions: int
    logit_error: float
    logp_error: float
    same_best: float
    greedy: int
    new_tokens: int
    texts: dict[str, bool]

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


@dataclass(frozen=True)
class Reference:
    """Our own side of a comparison.

    Attributes:
        tokens: [T] whose logits are compared.
        prompt: [P] that greedy text goes on from.
        logits: [T, V] fp32.
        greedy: [N] tokens.
        texts: ids of each of TEXTS; empty without a tokenizer.
    """

    tokens: list[int]
    prompt: list[int]
    logits: np.ndarray
    greedy: list[int]
    texts: dict[str, list[int]]


def reference(
    model: nn.Module,
    tokenizer: Tokenizer | None,
    *,
    positions: int = 200,
    prompt: int = 32,
    new_tokens: int = 128,
    rope_theta: float | None = None,
) -> Reference:
    """Our logits, greedy text and token ids.

    Args:
        model: in fp32 on the CPU, for evaluation.
        tokenizer: None: the tokens are drawn instead.
        positions, prompt, new_tokens: lengths; all within the model's context.
        rope_theta: rotary base, where it is not the model's own.
    Raises:
        ConfigError: a length passes the context.
    """
    longest = model.max_position_embeddings
    if max(positions, prompt + new_tokens) > longest or min(positions, prompt) < 1:
        raise ConfigError(
            f"tokens={positions}, or a prompt of {prompt} and new_tokens={new_tokens}, pass the "
            f"model's context of {longest}"
        )
    texts = {}
    if tokenizer is not None:
        texts = {n: bpe.encode_batch(tokenizer, [t])[0].tolist() for n, t in TEXTS.items()}
    tokens = [i for ids in texts.values() for i in ids]
    generator = torch.Generator().manual_seed(0)
    size = bpe.size(tokenizer) if tokenizer is not None else model.vocab_size
    tokens += torch.randint(size, (positions,), generator=generator).tolist()
    tokens = tokens[:positions]
    rows = torch.tensor([tokens])
    with torch.no_grad():
        context = Context(positions=torch.arange(positions)[None], rope_theta=rope_theta)
        logits = model(rows, context=context).logits[0].float().numpy()
    found = generate(model, rows[:, :prompt], new_tokens, rope_theta=rope_theta)[0].tolist()
    return Reference(tokens, tokens[:prompt], logits, found, texts)


def compare(
    client: str,
    ours: Reference,
    logits: np.ndarray,
    greedy: Sequence[int],
    texts: dict[str, list[int]],
) -> Agreement:
    """Lay another program's figures beside ours.

    Args:
        client: its name.
        ours: from `reference`.
        logits: [T, V], of the same tokens.
        greedy: its text after the same prompt.
        texts: its ids of TEXTS.
    """
    here, there = ours.logits.astype(np.float64), logits.astype(np.float64)
    parted = (i for i, (a, b) in enumerate(zip(ours.greedy, greedy, strict=False)) if a != b)
    shorter = min(len(ours.greedy), len(greedy))
    return Agreement(
        client=client,
        positions=len(ours.tokens),
        logit_error=float(np.abs(here - there).max() / np.abs(here).max()),
        logp_error=float(np.abs(_logp(here) - _logp(there)).max()),
        same_best=float((here.argmax(-1) == there.argmax(-1)).mean()),
        greedy=next(parted, shorter),
        new_tokens=len(ours.greedy),
        texts={name: ids == ours.texts[name] for name, ids in texts.items()},
    )


def _logp(logits: np.ndarray) -> np.ndarray:
    top = logits - logits.max(-1, keepdims=True)
    return top - np.log(np.exp(top).sum(-1, keepdims=True))


def with_transformers(folder: Path, ours: Reference) -> Agreement:
    """Load a folder as anybody would, and compare; the folder's own code runs, if it has some.

    Args:
        folder: as `plm.export.hf` writes it, in float32.
        ours: from `reference`.
    """
    import transformers

    peer = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    peer = peer.float().eval()
    # The comparison goes on behind the end of a text.
    peer.generation_config.eos_token_id = None
    peer.generation_config.pad_token_id = 0
    with torch.no_grad():
        logits = peer(torch.tensor([ours.tokens])).logits[0].float().numpy()
    prompt = torch.tensor([ours.prompt])
    found: Tensor = peer.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=len(ours.greedy),
        do_sample=False,
    )
    texts = {}
    if ours.texts:
        its = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        texts = {n: its(TEXTS[n], add_special_tokens=False)["input_ids"] for n in ours.texts}
    name = f"transformers {transformers.__version__}, {type(peer).__name__}"
    return compare(name, ours, logits, found[0, len(ours.prompt) :].tolist(), texts)


def with_llama_cpp(
    file: Path, ours: Reference, *, library: str | None = None, threads: int | None = None
) -> Agreement:
    """Run a GGUF file in llama.cpp, with an fp32 cache and without flash attention, and compare.

    Args:
        file: of type F32 where the errors are to be those of the arithmetic alone.
        ours: from `reference`.
        library: a libllama; None: the one that `make llama-cpp` fetched.
        threads: None: all cores.
    """
    from plm.formats.llama_cpp import LlamaCpp

    longest = max(len(ours.tokens), len(ours.prompt) + len(ours.greedy))
    with LlamaCpp(file, n_ctx=longest, library=library, threads=threads) as peer:
        logits = peer.logits(ours.tokens)
        greedy = peer.greedy(ours.prompt, len(ours.greedy))
        texts = {name: peer.tokenize(TEXTS[name]) for name in ours.texts}
        name = f"llama.cpp, {peer.describe()}"
    return compare(name, ours, logits, greedy, texts)
