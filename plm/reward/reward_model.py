"""The score of a reward model: any sequence classifier of Hugging Face's format.

With one output the score is its sigmoid, the form that Bradley and Terry's model of preferences
gives it; with several it is the probability of one class.

Paper: Ouyang et al., Training language models to follow instructions (arXiv:2203.02155)
Departs: a text longer than the model's input has no score, since the score of its beginning is
    that of another text; what is empty, was cut, or only copies the question has 0 unasked.
Cost: one forward pass of the reward model an answer.
"""

import gc
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from plm.errors import ConfigError
from plm.evaluation.kinds import check_kinds
from plm.reward.common import Example, worthless

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_KINDS = {
    "model": str,
    "revision": (str, None),
    "batch_size": int,
    "max_length": (int, None),
    "dtype": str,
    "device": (str, None),
}


class RewardModel:
    """Scores answers with a sequence classifier, loaded when the first one comes.

    The text is the model's own chat template of question and answer. Without a template it is the
    two as a pair, if the tokenizer has a separator, else both with a line break between them.

    Args:
        model: a folder, or a repository of the Hub.
        revision: of the repository; null: its main branch.
        label: class whose probability is the score, by name or number; null: the last one. A model
            with one output has no classes.
        batch_size: texts at once; 1 where the model names no padding token.
        max_length: longest text, in tokens; null: what tokenizer and model say.
        dtype: of the weights.
        device: null: the GPU if there is one.
    Raises:
        ConfigError: a value that cannot be.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        revision: str | None = None,
        label: str | int | None = None,
        batch_size: int = 8,
        max_length: int | None = None,
        dtype: str = "float32",
        device: str | None = None,
    ) -> None:
        if model is None:
            raise ConfigError(
                "reward.model is not set; name a folder or a repository with a sequence classifier"
            )
        told = {"model": model, "revision": revision, "batch_size": batch_size}
        told |= {"max_length": max_length, "dtype": dtype, "device": device}
        dotted = {f"reward.{name}": value for name, value in told.items()}
        check_kinds(dotted, {f"reward.{name}": kind for name, kind in _KINDS.items()})
        for name in ("batch_size", "max_length"):
            if told[name] is not None and told[name] < 1:
                raise ConfigError(f"reward.{name}={told[name]} must be at least 1")
        if dtype not in DTYPES:
            raise ConfigError(f"reward.dtype={dtype} is none of {', '.join(DTYPES)}")
        self.model, self.revision, self.label = model, revision, label
        self.batch_size, self.max_length, self.dtype = batch_size, max_length, DTYPES[dtype]
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, completion: str, example: Example) -> float:
        """The score of one completion, from 0 to 1; NaN: its text is too long.

        Raises:
            ConfigError: the model cannot be loaded, or its template does not take the text.
        """
        return self.many([completion], [example])[0]

    def many(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """The score of each completion, whatever stands beside it up to rounding.

        Raises:
            ConfigError: as a call.
        """
        found = [0.0] * len(completions)
        asked = [i for i, text in enumerate(completions) if not worthless(text, examples[i])]
        if not asked:
            return found
        network, tokenizer = self._load()
        longest = self._longest(network, tokenizer)
        inputs = {}
        for index in asked:
            encoded = self._encode(tokenizer, examples[index].question, completions[index])
            if len(encoded["input_ids"]) > longest:
                found[index] = math.nan
            else:
                inputs[index] = encoded
        for chosen in self._batches(network, inputs):
            scores = self._scores(network, [inputs[index] for index in chosen])
            for index, value in zip(chosen, scores, strict=True):
                found[index] = value
        return found

    def check(self) -> None:
        """Load the model, and let it go again: what is wrong with it is said before sampling.

        Raises:
            ConfigError: the model cannot be loaded, or does not have the label.
        """
        if self._loaded is None:
            self._load()
            self.close()

    def close(self) -> None:
        """Free the model's memory; the next score loads it again."""
        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _load(self) -> tuple[Any, Any]:
        """The network and its tokenizer."""
        if self._loaded is None:
            from transformers import AutoModelForSequenceClassification, AutoTokenizer

            source = {"revision": self.revision, "trust_remote_code": False}
            try:
                tokenizer = AutoTokenizer.from_pretrained(self.model, **source)
                # Safetensors only: a pickle runs what its author wrote into it.
                network, told = AutoModelForSequenceClassification.from_pretrained(
                    self.model,
                    **source,
                    use_safetensors=True,
                    dtype=self.dtype,
                    output_loading_info=True,
                )
            except (OSError, ValueError, ImportError, RuntimeError) as error:
                raise ConfigError(
                    f"reward.model={self.model} cannot be loaded as a sequence classifier in "
                    f"safetensors: {_line(error)}"
                ) from error
            # transformers draws weights that are missing: any language model would load.
            if missing := sorted(told["missing_keys"]):
                raise ConfigError(
                    f"reward.model={self.model} has no weights for {', '.join(missing[:3])}; name "
                    "a model that was trained as a sequence classifier"
                )
            self._output(network.config)
            self._loaded = network.to(self.device).eval(), tokenizer
        return self._loaded

    def _output(self, config: Any) -> int:
        """Which of the outputs the score comes from."""
        names = [config.id2label.get(i, str(i)) for i in range(config.num_labels)]
        if self.label is None:
            return len(names) - 1
        if self.label in names:
            return names.index(self.label)
        number = isinstance(self.label, int) and not isinstance(self.label, bool)
        if number and 0 <= self.label < len(names):
            return self.label
        raise ConfigError(
            f"reward.label={self.label} is no class of {self.model}, which has {', '.join(names)}"
        )

    def _longest(self, network: Any, tokenizer: Any) -> int:
        positions = getattr(network.config.get_text_config(), "max_position_embeddings", None)
        limits = (self.max_length, tokenizer.model_max_length, positions)
        return min(limit for limit in limits if limit is not None)

    def _encode(self, tokenizer: Any, question: str, answer: str) -> dict[str, list[int]]:
        if getattr(tokenizer, "chat_template", None):
            said = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
            try:
                ids = tokenizer.apply_chat_template(said, tokenize=True, return_dict=True)
            # A template may raise whatever it likes.
            except Exception as error:
                raise ConfigError(
                    f"reward.model={self.model}: its chat template does not take a question and "
                    f"an answer: {_line(error)}"
                ) from error
        elif tokenizer.sep_token_id is not None:
            ids = tokenizer(question, answer, verbose=False)
        else:
            ids = tokenizer(f"{question}\n{answer}", verbose=False)
        return {name: list(values) for name, values in ids.items()}

    def _batches(self, network: Any, inputs: dict[int, Any]) -> Iterator[list[int]]:
        """Indices of the texts that go through the model together, those of like length."""
        # Only a token that the model itself calls padding may be added: its head looks for it.
        padded = network.config.get_text_config().pad_token_id is not None
        size = self.batch_size if padded else 1
        order = sorted(inputs, key=lambda index: len(inputs[index]["input_ids"]), reverse=True)
        for start in range(0, len(order), size):
            yield order[start : start + size]

    def _scores(self, network: Any, rows: list[dict[str, list[int]]]) -> list[float]:
        padding = network.config.get_text_config().pad_token_id
        width = max(len(row["input_ids"]) for row in rows)
        batch = {
            name: torch.tensor(
                [
                    # On the right: positions then count from the text's own beginning.
                    row[name] + [padding if name == "input_ids" else 0] * (width - len(row[name]))
                    for row in rows
                ],
                device=self.device,
            )
            for name in rows[0]
        }
        with torch.inference_mode():
            # float64: the sigmoid of two large logits must not be one number.
            logits = network(**batch).logits.double()
        output = self._output(network.config)
        kind = network.config.problem_type
        if logits.shape[1] == 1 or kind in ("multi_label_classification", "regression"):
            return logits[:, output].sigmoid().tolist()
        return logits.softmax(dim=1)[:, output].tolist()


def _line(error: Exception) -> str:
    """What an error of many lines says first."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
