"""What happens in a chain, and which chains are chosen."""

from collections import Counter

import pytest

from plm.rounds.chosen import KINDS, Choice, kinds_of, rows_of
from plm.rounds.common import Sampled
from tests.rounds.made import prompt


@pytest.mark.parametrize(
    ("chain", "kinds"),
    [
        ([("a", 0.0), ("b", 1.0)], ["gained"]),
        ([("a", 1.0), ("b", 0.0)], ["lost"]),
        ([("a", 1.0), ("b", 0.0), ("c", 1.0)], ["gained", "lost"]),
        ([("a", 1.0), ("a", 1.0)], ["copied"]),
        ([("a", 0.0), ("b", 1.0), (" b", 1.0)], ["gained", "copied"]),
        ([("a", 1.0), ("b", 1.0)], ["same"]),
        ([("a", 0.2), ("b", 0.3)], ["gained"]),
        ([("a", 1.0)], ["unrefined"]),
        ([("a", None), ("b", 1.0)], ["unscored"]),
        ([("a", 1.0), ("b", float("nan"))], ["unscored"]),
    ],
)
def test_kinds(chain, kinds):
    one = prompt(0, chain)
    assert kinds_of(one, one.answers) == kinds


def test_rows_are_chains_or_all_answers_where_none_refines():
    chains = rows_of(prompt(0, [("a", 0.0), ("b", 1.0)], [("c", 1.0)]))
    assert [[a.text for a in row.answers] for row in chains] == [["a", "b"], ["c"]]
    (alone,) = rows_of(prompt(0, [("a", 0.0)], [("c", 1.0)]))
    assert [a.text for a in alone.answers] == ["a", "c"] and alone.kinds == ["unrefined"]
    (empty,) = rows_of(Sampled(0, "n", "q"))
    assert empty.answers == [] and empty.kinds == ["unrefined"]


def _many(number: int):
    """Of a hundred prompts one gains and one loses; half of the others copy."""
    for i in range(number):
        after = {0: ("b", 1.0), 1: ("b", 0.0)}.get(i % 100, ("a" if i % 2 else "c", 0.5))
        before = 0.0 if i % 100 == 0 else 1.0 if i % 100 == 1 else 0.5
        yield prompt(i, [("a", before), after])


def test_rare_kinds_are_among_the_chosen():
    choice = Choice(12)
    passed = list(choice.passing(_many(1000)))
    assert passed == list(_many(1000)) and choice.rows == 1000
    assert choice.counts == {**dict.fromkeys(KINDS, 0), "gained": 10, "lost": 10} | {
        "copied": 490,
        "same": 490,
    }
    chosen = choice.chosen()
    assert Counter(kind for row in chosen for kind in row.kinds) == {
        "gained": 3,
        "lost": 3,
        "copied": 3,
        "same": 3,
    }
    order = [row.sampled.index for row in chosen]
    assert order == sorted(order) and max(order) > 500


def test_the_choice_is_the_same_every_time_and_another_for_another_seed():
    def indices(seed: int) -> list[int]:
        choice = Choice(10, seed)
        assert len(list(choice.passing(_many(400)))) == 400
        return [row.sampled.index for row in choice.chosen()]

    assert indices(0) == indices(0) != indices(1)


def test_few_chains_are_all_chosen_once():
    choice = Choice(60)
    list(choice.passing([prompt(0, [("a", 0.0), ("b", 1.0), ("b", 1.0), ("c", 0.0)])]))
    assert len(choice.chosen()) == 1
