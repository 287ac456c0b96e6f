r"""1 for a final answer that equals the task's as mathematics: 1/2, 0.5 and \frac{2}{4} are one.

Source: huggingface/Math-Verify, in processes of their own; see `plm.evaluation.equivalence`
Departs: the final answer is read off as one, where math-verify looks for any that parses. What is
    equal only because the comparison works it out has 0: the problem's own expression, or a number
    with more left to work out than the task's answer has. Decimals are exact.
Cost: some 20 ms of processor time an answer that is not decided by its text or as a decimal number;
    two seconds once for the process that forks them.
"""

import logging
import re
from collections.abc import Sequence

from plm.errors import ConfigError
from plm.evaluation.answers import boxes, decimal_of, lines_of_answers, normalised
from plm.evaluation.equivalence import LONGEST, Equivalence
from plm.reward.common import Example, own_text

log = logging.getLogger("plm")

_SPAN = re.compile(r"(?<!\\)\$\$?([^$]+)(?<!\\)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_PERCENT = re.compile(r"\s*\\?%$")
_EQUALS = re.compile(r"(?<![\\<>!:])=")
_NAMED = re.compile(r"^[A-Za-z]\w*\s*(?:\([a-z]\)\s*)?=")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|operatorname)\s*\{[^{}]*\}")
_COMMAND = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
_NO_WORK = frozenset(
    "left right big Big bigl bigr displaystyle textstyle quad qquad pi infty circ cdots ldots dots"
    " { } , ; : ! % $ | alpha beta theta \\".split()
) | {" "}
"""Commands of LaTeX that ask for no work."""
# A product that might as well stand without its sign.
_PRODUCT = re.compile(
    r"(?<=\\pi)\s*\\(?:cdot|times)(?![A-Za-z])|\\(?:cdot|times)\s*(?=\\(?:pi|sqrt))"
)
_BINARY = re.compile(r"[*/^!]|(?<=[\w)}\]])\s*[-+\u2212]|(?<=[\d)}\]])\s*\(|(?<=\d)\s+(?=\d)")
_THIN = re.compile(r"\\[,;:!]")
_SPACE = re.compile(r"\\[,;:! ]|\\(?:left|right|displaystyle)(?![A-Za-z])|[\s$]")


class Maths:
    r"""Compares the last `Answer: …` or \boxed{…} of a completion with the task's answer.

    Args:
        cpu_s: processor time that the comparison of one answer may take; what takes more has 0.
        memory_mib: address space of its process.
        workers: comparisons at the same time; null: one for each processor.
    Raises:
        ConfigError: a value that cannot be.

    Attributes:
        equivalence: whose `verdicts` count what became of the comparisons.
        bad_golds: answers of the task that cannot be read; whatever comes to them has 0.
    """

    needs_grade = True

    def __init__(
        self, *, cpu_s: float = 5.0, memory_mib: int = 1024, workers: int | None = None
    ) -> None:
        self.equivalence = Equivalence(cpu_s=cpu_s, memory_mib=memory_mib, workers=workers)
        self.bad_golds: set[str] = set()

    def check(self) -> None:
        """Refuse a machine without math-verify.

        Raises:
            ConfigError: it is not there.
        """
        self.equivalence.check()

    def close(self) -> None:
        """End the process that compares; the next comparison starts another."""
        self.equivalence.close()

    def __call__(self, completion: str, example: Example) -> float:
        """1 or 0.

        Raises:
            ConfigError: the example is of no task, or math-verify is not there.
        """
        return self.many([completion], [example])[0]

    def many(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """The reward of each, with the comparisons side by side.

        Raises:
            ConfigError: as a call.
        """
        found, asked = [0.0] * len(completions), {}
        for index, (text, example) in enumerate(zip(completions, examples, strict=True)):
            if example.item is None:
                raise ConfigError(
                    "reward=maths: the prompts come from no task with answers; take those of a "
                    "task of configs/task, or set reward=reward_model or reward=rule"
                )
            gold, answer = plain(example.item.answer), final(text, example)
            if not gold:
                self._unreadable(example.item.answer)
            elif answer:
                # Of a chain only what it comes to.
                answer = answer if "=" in gold else _EQUALS.split(answer)[-1].strip()
                decided = decide(gold, answer, example.question)
                if decided is None:
                    asked[index] = gold, answer
                else:
                    found[index] = float(decided)
        verdicts = self.equivalence.many(list(asked.values()))
        for (index, (gold, _)), verdict in zip(asked.items(), verdicts, strict=True):
            found[index] = float(verdict == "equal")
            if verdict == "gold_unread":
                self._unreadable(gold)
        return found

    def _unreadable(self, gold: str) -> None:
        if not self.bad_golds:
            log.warning(
                "reward=maths cannot read the task's answer %r: whatever is said there has 0, "
                "unless it is the same text; said once, the count is bad_golds",
                gold[:80],
            )
        self.bad_golds.add(gold)


def final(completion: str, example: Example) -> str | None:
    r"""The one final answer: what the last `Answer:` line or \boxed{…} holds; None: there is none.

    Several answers before it do not matter, and several in it are one answer, a list.
    """
    text = own_text(completion, example)
    if example.cut:
        text = text[: text.rfind("\n") + 1]
    found = boxes(text)
    # The later of the two; a box within the line is what the line holds.
    if not found or lines_of_answers(text[text.rfind("\\boxed") :]):
        found = lines_of_answers(text)
    return plain(found[-1]) if found else None


def plain(answer: str) -> str | None:
    """An answer without what stands around mathematics; None: several pieces of it, or none."""
    if len(answer) > LONGEST:
        return None
    inside = boxes(answer)
    text = normalised(inside[0] if len(inside) == 1 else answer)
    if "\\boxed" in text:
        return None
    spans = [next(filter(None, found.groups())) for found in _SPAN.finditer(text)]
    if len(spans) > 1:
        return None
    # A dollar that encloses nothing is one of money, escaped or not.
    text = (spans[0] if spans else text).replace("\\$", "").replace("$", "")
    text = _PERCENT.sub("", text.strip())
    return (_NAMED.sub("", text) if len(_EQUALS.findall(text)) == 1 else text).strip() or None


def decide(gold: str, answer: str, question: str) -> bool | None:
    """What needs no comparison: equal texts, two decimals, an answer that is no result.

    Args:
        gold, answer: as `plain` gives them.
        question: an expression that stands in it, and is not the answer, is no result.
    """
    if normalised(gold) == normalised(answer):
        return True
    decimals = decimal_of(normalised(gold)), decimal_of(normalised(answer))
    if None not in decimals:
        return decimals[0] == decimals[1]
    left, bare = work(answer), _SPACE.sub("", answer)
    if left and bare in _SPACE.sub("", question) and bare != _SPACE.sub("", gold):
        return False
    if re.search(r"[A-Za-z]", _COMMAND.sub(" ", _TEXT.sub(" ", gold))):
        # With unknowns in it no form is more worked out than another.
        return None
    # A half may be 1/2 where the task says 0.5.
    fraction = decimals[0] is not None and decimals[0] % 1 != 0
    return None if left <= max(work(gold), fraction) else False


def work(text: str) -> int:
    r"""Operations that a piece of mathematics leaves to do: 0 for -12, 1 for 1/2 and for 2\pi^2."""
    text = _PRODUCT.sub("", _THIN.sub("", _TEXT.sub(" ", text)))
    commands = sum(found[1] not in _NO_WORK for found in _COMMAND.finditer(text))
    return commands + len(_BINARY.findall(_COMMAND.sub(" ", text)))
