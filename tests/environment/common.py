"""Subjects for tests of environments: one that says what is written down, one that draws."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from plm.data.tokenizer import END_OF_TEXT
from plm.evaluation.subject import Subject
from plm.rollout.completion import LENGTH, STOP, STOP_STRING, Completion
from tests.model.common import tiny
from tests.rollout.common import tokenizer

# Few, so that a model that knows nothing calls often; at times what it calls is a program.
WORDS = (
    "<code>",
    "</code>",
    "print(1)",
    "1/0",
    "\n",
    "Answer: ",
    "1",
    "?",
    "<result>",
    "</result>",
)


class Script:
    """An engine's `generate` that says, sample by sample, one text after another.

    Args:
        texts: of each sample; a text that ends in the end of text ends the answer.
    """

    rows = 8

    def __init__(self, *texts: Sequence[str]) -> None:
        self.texts = [list(some) for some in texts]
        self.asked: list[tuple[list[int], Any, int]] = []
        self.live = list(range(len(texts)))

    def generate(self, prompts, sampling, *, group=1, seeds, hold=0, held=None):
        """The next text of each sample that has one."""
        found = []
        self.live = [sample for sample in self.live if self.texts[sample]]
        assert len(self.live) == len(prompts) * group
        for index, (sample, one) in enumerate(
            zip(self.live, [s for s in sampling for _ in range(group)], strict=True)
        ):
            prompt = index // group
            self.asked.append((prompts[prompt], one, seeds[prompt]))
            found.append(self._completion(prompt, index % group, self.texts[sample].pop(0), one))
        return found

    def _completion(self, prompt: int, sample: int, text: str, sampling: Any) -> Completion:
        ids = tokenizer().encode(text, add_special_tokens=False).ids
        finish = STOP_STRING if any(text.endswith(stop) for stop in sampling.stop) else LENGTH
        finish = STOP if text.endswith(END_OF_TEXT) else finish
        logps = [-0.5] * len(ids)
        return Completion(prompt, sample, ids, logps, logps, finish, "")


def scripted(*texts: Sequence[str]) -> Subject:
    """Says these texts."""
    end = tokenizer().token_to_id(END_OF_TEXT)
    return Subject(tiny(), tokenizer(), end, _engine=Script(*texts))


def words() -> Tokenizer:
    """A word each; what it does not know is `?`."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    known = Regex("|".join(map(re.escape, sorted(WORDS, key=len, reverse=True))))
    made.pre_tokenizer = pre_tokenizers.Split(known, "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens([END_OF_TEXT])
    return made


def drawing(choice: str = "plm", rows: int = 32, dtype: torch.dtype = torch.float64) -> Subject:
    """Draws from a tiny model that knows nothing."""
    made = words()
    size = made.get_vocab_size()
    settings = f"scale.vocab_size={size}", "scale.max_position_embeddings=160"
    # With these weights it calls often.
    model = tiny(f"model={choice}", *settings, dtype=dtype, seed=4)
    return Subject(model, made, made.token_to_id(END_OF_TEXT), rows=rows)
