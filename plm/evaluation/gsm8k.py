"""GSM8K: grade-school problems in words, scored by the final number.

Paper: Cobbe et al., Training verifiers to solve math word problems (arXiv:2110.14168)
"""

import random
import re
from typing import Any

from plm.errors import ConfigError, DataError
from plm.evaluation.answers import answer_of, only_number, same_number
from plm.evaluation.exercises import STOP
from plm.evaluation.generated import Generated, Item, drawing
from plm.evaluation.kinds import check_kinds
from plm.evaluation.rows import read_rows

HUB, CONFIG = "openai/gsm8k", "main"
FIELDS = ("question", "answer")
_CALCULATOR = re.compile(r"<<[^<>]*>>")


def gsm8k(
    path: str | None = None,
    *,
    split: str = "test",
    shots: int = 0,
    shots_path: str | None = None,
    shots_seed: int = 0,
    **draw: Any,
) -> Generated:
    """Share of problems whose final number is right.

    Args:
        path: a .jsonl with `question` and `answer`, or a folder with <split>.jsonl; null: the Hub's
            openai/gsm8k.
        split: of it.
        shots: worked problems of the split train before the question, for a model prompted with
            text.
        shots_path: where they come from, as path; null: the same place, which must be no file.
        shots_seed: which ones.
        draw: settings of `plm.evaluation.generated.Drawing`.
    Raises:
        ConfigError: a value of the wrong kind, or settings that do not go together.
    """
    told = {"path": path, "split": split, "shots": shots}
    told |= {"shots_path": shots_path, "shots_seed": shots_seed}
    text = (str, None)
    kinds = {"path": text, "split": str, "shots": int, "shots_path": text, "shots_seed": int}
    check_kinds(told, kinds)
    if shots < 0:
        raise ConfigError(f"shots={shots} is negative")
    if shots and shots_path is None and path is not None and path.endswith((".jsonl", ".gz")):
        raise ConfigError(f"shots={shots}: path={path} is one file; name shots_path=<train.jsonl>")

    def items() -> tuple[list[Item], list[str]]:
        rows = read_rows(path, split, FIELDS, hub=HUB, config=CONFIG)
        examples = _examples(shots, shots_path or path, shots_seed)
        return [
            Item(
                name=f"{split}/{number}",
                question=row["question"].strip(),
                text=f"{examples}Question: {row['question'].strip()}\nSolution:\n",
                answer=_wanted(row["answer"], f"{path or HUB} row {number + 1}"),
                solution=row["answer"].strip(),
            )
            for number, row in enumerate(rows)
        ], []

    settings = {"split": split, "shots": shots, "shots_seed": shots_seed}
    return Generated(items, grade, drawing(draw, gsm8k), stop=STOP, settings=settings)


def _examples(shots: int, path: str | None, seed: int) -> str:
    if not shots:
        return ""
    rows = read_rows(path, "train", FIELDS, hub=HUB, config=CONFIG)
    chosen = random.Random(seed).sample(rows, min(shots, len(rows)))
    return "".join(worked(row["question"], row["answer"]) + "\n" for row in chosen)


def worked(question: str, answer: str) -> str:
    """A problem with its solution in the form that training writes: `Answer:` in the place of ####.

    Args:
        question, answer: of a row; the calculator's marks `<<…>>` are left out.
    """
    steps, _, final = _CALCULATOR.sub("", answer).rpartition("####")
    return f"Question: {question.strip()}\nSolution:\n{steps.strip()}\nAnswer: {final.strip()}\n"


def _wanted(answer: str, where: str) -> str:
    number = only_number(answer.rpartition("####")[2])
    if "####" not in answer or number is None:
        raise DataError(f"{where}: the answer does not end with a line '#### <number>'")
    return number


def grade(flat: list[tuple[Item, str, bool]]) -> list[tuple[bool, str | None]]:
    """The one number behind the last `Answer:` or `####`, against that of the problem."""
    found = []
    for item, text, cut in flat:
        answer = answer_of(text, question=item.question, cut=cut, hashes=True)
        found.append((same_number(only_number(answer), item.answer), answer))
    return found
