"""1 for a completion of a given form, whatever it says: a shaping term, or a control on its own.

Paper: Wang et al., Reinforcement learning for reasoning with one training example
    (arXiv:2504.20571), where a reward for the form alone is the control of an outcome reward
Departs: our forms; the control's is that of an answer that the tasks can read.
Cost: one pass over the text. A pattern of one's own has no limit on its processor time: one with
    repeats inside repeats can take for ever.
"""

import re

from plm.errors import ConfigError
from plm.evaluation.answers import LONGEST, boxes, lines_of_answers
from plm.evaluation.kinds import check_kinds
from plm.reward.common import Example, own_text

FORMS = ("answer", "boxed", "think")
_THINK = re.compile(r"\s*<think>(.*)</think>(.*)", re.DOTALL)


def well_formed(
    completion: str,
    example: Example,
    *,
    form: str | None = "answer",
    pattern: str | None = None,
    whole: bool = True,
) -> float:
    r"""1 or 0; what is empty, was cut, or only says the question again has 0.

    Args:
        completion: a copy of the question in it is left out first.
        example: whether it was cut, and the question.
        form: `answer`: exactly one line `Answer: …`, with that word once in it, and nothing after
            it. `boxed`: exactly one \boxed{…}, in the last line. `think`: `<think>…</think>`, once
            and first, and text after it. The last line of the first two has `LONGEST` characters at
            most. null: the pattern.
        pattern: a regular expression instead of a form; `.` is any character but a line's end.
        whole: the pattern must match the whole completion; false: its last line that is not empty.
    Raises:
        ConfigError: no form and no pattern, both, a form that is not there, or no pattern at all.
    """
    _check(form, pattern, whole)
    text = own_text(completion, example)
    if example.cut or not text:
        return 0.0
    last = text.rpartition("\n")[2].strip()
    if pattern is not None:
        return float(re.fullmatch(pattern, text if whole else last) is not None)
    return float({"answer": _answer, "boxed": _boxed, "think": _think}[form](text, last))


def _answer(text: str, last: str) -> bool:
    found = lines_of_answers(text)
    if len(found) != 1 or lines_of_answers(last) != found or len(last) > LONGEST:
        return False
    return bool(found[0].strip("*_` ")) and "answer" not in found[0].lower()


def _boxed(text: str, last: str) -> bool:
    found = boxes(text)
    once = len(found) == text.count("\\boxed") == 1 and len(last) <= LONGEST
    return once and bool(found[0].strip()) and boxes(last) == found


def _think(text: str, last: str) -> bool:
    found = _THINK.fullmatch(text)
    once = all(text.count(tag) == 1 for tag in ("<think>", "</think>"))
    return once and found is not None and all(part.strip() for part in found.groups())


def _check(form: str | None, pattern: str | None, whole: bool) -> None:
    told = {"reward.form": form, "reward.pattern": pattern, "reward.whole": whole}
    kinds = {"reward.form": (str, None), "reward.pattern": (str, None), "reward.whole": bool}
    check_kinds(told, kinds)
    if (form is None) == (pattern is None):
        raise ConfigError(
            f"reward.form={form} and reward.pattern={pattern}: set one of them and the other null"
        )
    if form is not None and form not in FORMS:
        raise ConfigError(f"reward.form={form} is none of {', '.join(FORMS)}; or set a pattern")
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"reward.pattern={pattern} is no pattern: {error}") from error
