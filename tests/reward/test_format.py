r"""Forms: exactly one answer where it belongs, whatever it says."""

from functools import partial

import pytest

from plm.errors import ConfigError
from plm.reward.common import Example, score
from plm.reward.format import well_formed

ASKED = Example("Say it:\nAnswer: 3")
THOUGHT = "<think>hm</think>\n"


@pytest.mark.parametrize(
    ("form", "text", "wanted"),
    [
        ("answer", "2 + 2\nAnswer: 4", 1),
        ("answer", "**Answer:** 4\n\n", 1),
        ("answer", "Answer: 3\nAnswer: 4", 0),
        ("answer", "Answer: 4\nor so", 0),
        ("answer", "Answer:", 0),
        ("answer", "Answer: **", 0),
        ("answer", "the answer: 4", 0),
        ("answer", f"{ASKED.question}\nAnswer: 4", 1),
        ("boxed", r"so \boxed{\frac{1}{2}}", 1),
        ("boxed", r"\boxed{1} or \boxed{2}", 0),
        ("answer", "Answer: 1 Answer: 2", 0),
        ("answer", "Answer: " + "1" * 200, 0),
        ("boxed", r"\boxed{\boxed{2}}", 0),
        ("boxed", r"\boxed{ \boxed{2}", 0),
        ("boxed", r"\boxed{" + "1" * 200 + "}", 0),
        ("boxed", "\\boxed{1}\nand", 0),
        ("boxed", r"\boxed{ }", 0),
        ("boxed", r"\boxed{1", 0),
        ("think", f"{THOUGHT}4", 1),
        ("think", THOUGHT, 0),
        ("think", "<think> </think>4", 0),
        ("think", f"4{THOUGHT}4", 0),
        ("think", f"{THOUGHT}4{THOUGHT}4", 0),
        ("think", "4", 0),
    ],
)
def test_forms(form: str, text: str, wanted: float):
    assert well_formed(text, ASKED, form=form) == wanted


def test_a_pattern_of_ones_own():
    number = partial(well_formed, form=None, pattern=r"\d+", whole=False)
    assert score(number, ["so\n12\n", "12\nso", "12"], [ASKED] * 3) == [1, 0, 1]
    whole = partial(well_formed, form=None, pattern=r"\d+")
    assert score(whole, ["so\n12\n", "12"], [ASKED] * 2) == [0, 1]


def test_what_was_cut_has_no_form():
    assert well_formed("Answer: 4", Example("?", cut=True)) == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"form": "box"}, "reward.form=box is none of answer, boxed, think"),
        ({"form": None}, "set one of them and the other null"),
        ({"pattern": "x"}, "set one of them and the other null"),
        ({"form": None, "pattern": "("}, r"reward.pattern=\( is no pattern: "),
        ({"whole": "yes"}, "reward.whole=yes is not true or false"),
    ],
)
def test_settings_that_cannot_be(settings: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        well_formed("Answer: 4", ASKED, **settings)
