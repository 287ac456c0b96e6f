import pytest

from plm.errors import ConfigError
from plm.pairing.agreeing import agreeing
from tests.pairing.made import chain, check_account, reasons


def said(*finals: str | None, number: int = 0):
    """A chain whose turns differ in text and end with these answers."""
    texts = [f"turn {t}" + (f"\nAnswer: {f}" if f else "") for t, f in enumerate(finals)]
    return chain(*texts, scores=[None] * len(texts), number=number)


def test_the_last_ones_agree_on_what_the_first_does_not_say():
    given = said("4", "5", "5", "5")
    found = agreeing(given)
    assert found.pairs == [(3, 0)] and found.unused == {"not chosen": 2}
    check_account(given, found)
    assert agreeing(said(None, "5", "5", "5")).pairs == [(3, 0)]


def test_a_line_of_hashes_says_it_too():
    texts = ["#### 4", "a\n#### 5", "b\n#### 5", "Answer: 5"]
    assert agreeing(chain(*texts, scores=[None] * 4)).pairs == [(3, 0)]


def test_only_as_many_as_asked_for_must_agree():
    given = said("4", "3", "5", "5")
    assert agreeing(given, turns=2).pairs == [(3, 0)]
    assert reasons(agreeing(given))[1] == "last answers disagree"


@pytest.mark.parametrize(
    "finals",
    [("4", "$5", "5.0", "5"), ("a", "**b**", "b.", "b"), ("4", "1,000", "1000 eggs", "1000")],
)
def test_one_answer_may_be_written_in_several_ways(finals: tuple[str, ...]):
    assert agreeing(said(*finals)).pairs == [(3, 0)]


@pytest.mark.parametrize(
    ("finals", "reason"),
    [
        (("4", "5", "6", "5"), "last answers disagree"),
        (("4", "5", None, "5"), "last answers disagree"),
        (("4", "5", "5", None), "no final answer"),
        (("5", "5", "5", "5.0"), "first answer agrees with the last"),
        (("4", "5", "5"), "fewer refinements than must agree"),
        (("4",), "one answer only"),
        ((), "no answer"),
    ],
)
def test_each_reason_for_no_pair(finals: tuple[str, ...], reason: str):
    given = said(*finals)
    found = agreeing(given)
    check_account(given, found)
    assert found.pairs == [] and reasons(found)[1] == reason


def test_scores_are_not_looked_at():
    given = said("4", "5", "5", "5")
    for answer, score in zip(given, (1.0, float("nan"), 0.0, 0.0), strict=True):
        answer.score = score
    assert agreeing(given).pairs == [(3, 0)]


def test_each_chain_is_by_itself():
    given = said("4", "5", "5", "5") + said("5", "4", "4", "4", number=1)
    assert agreeing(given).pairs == [(3, 0), (7, 4)]


def test_a_cut_answer_has_not_said_its_last_line():
    given = said("4", "5", "5", "5")
    given[2].cut = True
    assert reasons(agreeing(given))[1] == "last answers disagree"
    given[2].text += "\nand"
    assert agreeing(given).pairs == [(3, 0)]
    given[0].cut = True
    assert reasons(agreeing(given))[1] == "first or last answer left out"
    assert agreeing(given, drop_cut=False).pairs == [(3, 0)]


def test_exchanged_answers_exchange_the_pair():
    assert agreeing(said("4", "5"), turns=1).pairs == [(1, 0)]
    a, b = said("4", "5")
    a.turn, b.turn = 1, 0
    assert agreeing([a, b], turns=1).pairs == [(0, 1)]


def test_settings_are_checked():
    with pytest.raises(ConfigError, match=r"pairing\.turns=0"):
        agreeing([], turns=0)
