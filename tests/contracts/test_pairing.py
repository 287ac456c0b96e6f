"""What every choice of configs/pairing must hold."""

import copy
import math
import random
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from plm.config import build
from plm.rounds.common import Answer
from tests.pairing.made import check_account

CHOICES = sorted((Path(__file__).parents[2] / "configs/pairing").glob("*.yaml"))


@pytest.fixture(params=CHOICES, ids=lambda path: path.stem)
def pairing(request):
    return build(OmegaConf.load(request.param))


def chain(number: int = 0) -> list[Answer]:
    """Wrong at first, and right in each of three refinements."""
    finals = [4, 5, 5, 5]
    return [
        Answer(f"turn {t} of {number}\nAnswer: {f}", t, number, 9, False, score=float(f == 5))
        for t, f in enumerate(finals)
    ]


def mixed(seed: int) -> list[Answer]:
    """Chains with everything that there may be: empty, cut, equal, without a score."""
    draw = random.Random(seed)
    return [
        Answer(
            draw.choice(["", " ", "a", "b", "Answer: 4", "Answer: 5", "so\nAnswer: 5"]),
            turn,
            number,
            9,
            draw.random() < 0.2,
            score=draw.choice([0.0, 0.5, 1.0, math.nan, math.inf, None]),
        )
        for number in range(draw.randint(0, 3))
        for turn in range(draw.randint(1, 5))
    ]


def test_there_are_choices():
    assert CHOICES


def test_a_chain_that_gets_it_right_gives_a_pair(pairing):
    given = chain()
    found = pairing(given)
    assert found.pairs and all(worse == 0 for _, worse in found.pairs)
    check_account(given, found)


@pytest.mark.parametrize("seed", range(40))
def test_everything_is_accounted_for(pairing, seed: int):
    given = mixed(seed) + (chain(9) if seed % 2 else [])
    before = copy.deepcopy(given)
    found = pairing(given)
    check_account(given, found)
    assert pairing(given) == found
    # NaN is unlike itself.
    assert repr(given) == repr(before)
    for index in found.used:
        assert given[index].text.strip() and not given[index].cut
    for better, worse in found.pairs:
        assert given[better].text.strip() != given[worse].text.strip()


@pytest.mark.parametrize(
    "given",
    [
        [],
        chain()[:1],
        [Answer("a\nAnswer: 5", turn, 0, 9, False, score=1.0) for turn in range(4)],
        [Answer(f"{turn}\nAnswer: 5", turn, 0, 9, False, score=0.5) for turn in range(4)],
        [Answer("", turn, 0, 9, False, score=turn / 4) for turn in range(4)],
        [Answer(f"{turn}\nAnswer: 5", turn, 0, 9, True, score=turn / 4) for turn in range(4)],
    ],
    ids=["none", "one", "equal texts", "equal answers and scores", "empty", "cut"],
)
def test_there_is_no_pair_where_nothing_is_better(pairing, given: list[Answer]):
    found = pairing(given)
    assert found.pairs == []
    check_account(given, found)
