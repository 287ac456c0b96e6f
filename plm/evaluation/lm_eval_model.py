"""Our model as an LM of lm-evaluation-harness: log-likelihoods and generation, batched."""

from typing import Any

from plm.errors import ConfigError, DataError
from plm.evaluation.common import seed_of
from plm.evaluation.scoring import score

DEFAULT_NEW_TOKENS = 256
"""Where a task of generation does not say how long an answer may be."""


def language_model(subject: Any, seed: int = 0) -> Any:
    """The subject as an instance of lm_eval.api.model.LM.

    Args:
        subject: the model; its `rows` is the batch size.
        seed: of answers that a task draws.
    """
    from lm_eval.api.model import TemplateLM

    class PlmLM(TemplateLM):
        """A class made here, since lm-eval is optional."""

        def __init__(self) -> None:
            super().__init__()
            self._device = subject.device

        @property
        def eot_token_id(self) -> int:
            return subject.end_of_text

        @property
        def max_length(self) -> int:
            return subject.max_len

        @property
        def tokenizer_name(self) -> str:
            return "plm"

        def chat_template(self, chat_template: bool | str = False) -> str | None:
            return subject.template() if chat_template else ""

        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            return subject.chat.render(chat_history, add_generation_prompt=add_generation_prompt)

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **_: Any
        ) -> list[int]:
            return encode(subject, string)

        def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
            return loglikelihoods(subject, [(r[1], r[2]) for r in requests])

        def loglikelihood_rolling(
            self, requests: list[Any], disable_tqdm: bool = False
        ) -> list[float]:
            return rolling(subject, [request.args[0] for request in requests])

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return generate(subject, [request.args for request in requests], seed)

    return PlmLM()


def encode(subject: Any, text: str) -> list[int]:
    """Ids of a text. What a chat template wrote has its special tokens; other text has none."""
    if subject.chat is None:
        return subject.encode([text])[0]
    return list(subject.tokenizer.encode(text, add_special_tokens=False).ids)


def loglikelihoods(
    subject: Any, pairs: list[tuple[list[int], list[int]]]
) -> list[tuple[float, bool]]:
    """Sum of the continuation's log-probabilities, and whether greedy decoding would write it.

    Args:
        pairs: context and continuation, at least one id each; cut on the left to the model's
            context.
    Raises:
        DataError: a continuation is empty: an answer of no tokens would be sure, and win.
        ConfigError: one is longer than the model's context.
    """
    rows = []
    for index, (context, continuation) in enumerate(pairs):
        if not continuation:
            raise DataError(
                f"request {index + 1} of {len(pairs)}: the continuation of {len(context)} tokens "
                "is empty, so that there is nothing to score; see that the task's doc_to_choice "
                "and doc_to_target give a text for every item"
            )
        ids = [*context, *continuation][-(subject.max_len + 1) :]
        if len(ids) <= len(continuation):
            raise ConfigError(
                f"a continuation of {len(continuation)} tokens does not fit the model's context of "
                f"{subject.max_len}"
            )
        rows.append((ids, len(continuation)))
    return [(float(one.logps.sum()), bool(one.greedy.all())) for one in score(subject, rows)]


def rolling(subject: Any, texts: list[str]) -> list[float]:
    """Log-likelihood of whole texts, each token once, with as much context as fits.

    The first token's context is the end of a document; a text longer than the context is cut into
    windows that begin anew, each with the token before it as its only context, but for the last,
    which has all that fits.
    """
    rows, owners = [], []
    for owner, text in enumerate(texts):
        ids = encode(subject, text)
        for low in range(0, len(ids), subject.max_len):
            high = min(low + subject.max_len, len(ids))
            begin = max(0, high - subject.max_len)
            before = [subject.end_of_text] if begin == 0 else [ids[begin - 1]]
            rows.append((before + ids[begin:high], high - low))
            owners.append(owner)
    totals = [0.0] * len(texts)
    for owner, scored in zip(owners, score(subject, rows), strict=True):
        totals[owner] += float(scored.logps.sum())
    return totals


def generate(subject: Any, requests: list[tuple[str, dict[str, Any]]], seed: int) -> list[str]:
    """Answers to (prompt, settings) as lm-eval's tasks of generation ask them.

    Raises:
        ConfigError: the answer alone would fill the context.
    """
    from plm.rollout.sampling import Sampling

    found = [""] * len(requests)
    alike: dict[str, list[int]] = {}
    for index, (_, settings) in enumerate(requests):
        alike.setdefault(repr(sorted(settings.items())), []).append(index)
    end = subject.tokenizer.id_to_token(subject.end_of_text)
    for places in alike.values():
        asked = asked_of(requests[places[0]][1])
        room = subject.max_len - asked["max_new_tokens"]
        if room < 1:
            raise ConfigError(
                f"an answer of {asked['max_new_tokens']} tokens leaves no room for its prompt in "
                f"the model's context of {subject.max_len}; set <task>.max_new_tokens"
            )
        prompts = [encode(subject, requests[i][0])[-room:] for i in places]
        stop = tuple(s for s in asked.pop("stop") if s and s != end)
        with subject.device_context():
            done = subject.engine.generate(
                [prompt or [subject.end_of_text] for prompt in prompts],
                Sampling(stop=stop, seed=seed, **asked),
                seeds=[seed_of(seed, f"{i}/{requests[i][0]}") for i in places],
            )
        for completion in done:
            found[places[completion.prompt]] = completion.text
    return found


def asked_of(settings: dict[str, Any]) -> dict[str, Any]:
    """A task's generation settings in our names."""
    until = settings.get("until") or []
    lengths = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    length = next((settings[n] for n in lengths if settings.get(n) is not None), None)
    draws = settings.get("do_sample", bool(settings.get("temperature", 0)))
    found = {
        "max_new_tokens": int(length or DEFAULT_NEW_TOKENS),
        "temperature": float(settings.get("temperature", 1.0)) if draws else 0.0,
        "stop": [until] if isinstance(until, str) else list(until),
    }
    if draws:
        kinds = {"top_p": float, "top_k": int, "min_p": float}
        found |= {n: kind(settings[n]) for n, kind in kinds.items() if settings.get(n) is not None}
        # Other programs say -1 for all tokens, where ours says 0.
        if found.get("top_k") == -1:
            found["top_k"] = 0
    return found
