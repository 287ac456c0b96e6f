"""What a round makes of its prompts: answers, refinements of them, and what they are worth."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Answer:
    """One answer of a model.

    Attributes:
        text: without special tokens.
        turn: 0 for an answer to the question alone, k for the k-th refinement in its chain.
        chain: which of the prompt's chains it belongs to, from 0.
        tokens: drawn, the stop token included.
        cut: it ended because it was too long.
        shown: index in the prompt's answers of the one that it refines; None at turn 0.
        score: what a reward gave it; None: not scored yet.
    """

    text: str
    turn: int
    chain: int
    tokens: int
    cut: bool
    shown: int | None = None
    score: float | None = None


@dataclass
class Sampled:
    """A prompt with its answers.

    Attributes:
        index: of the prompt in the order that the rounds draw them in, over all epochs.
        name: of its item.
        question: what the user says.
        group: part of the prompts that has figures of its own; "" for none.
        answers: chain by chain, each in the order of its turns.
        solution: a worked one of the prompts' own, which may be the better answer of pairs; "":
            none is to be.
    """

    index: int
    name: str
    question: str
    group: str = ""
    answers: list[Answer] = field(default_factory=list)
    solution: str = ""

    def candidates(self) -> list[Answer]:
        """What pairs are made of: the answers and, last and right, the solution."""
        if not self.solution:
            return self.answers
        chain = 1 + max((answer.chain for answer in self.answers), default=-1)
        return [*self.answers, Answer(self.solution, 0, chain, 0, False, score=1.0)]

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Sampled":
        """From what `plain` gave."""
        return cls(**{**row, "answers": [Answer(**answer) for answer in row["answers"]]})

    def chains(self) -> list[list[Answer]]:
        """The answers of each chain, by turn."""
        found: dict[int, list[Answer]] = {}
        for answer in self.answers:
            found.setdefault(answer.chain, []).append(answer)
        return [found[number] for number in sorted(found)]
