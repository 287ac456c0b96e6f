"""Near copies go, unlike texts stay."""

import random

import pytest

from plm.data.steps.near_dedup import near_dedup, shingles
from plm.errors import ConfigError

pytest.importorskip("rensa")


def text(seed, n=300):
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(1000)}" for _ in range(n))


def test_by_hand(run):
    first, other = text(1), text(2)
    near = first.replace(" w", " W", 1).replace(first.split()[150], "changed", 1)
    half = " ".join(first.split()[:150] + other.split()[:150])
    kept, drops = run(near_dedup, [first, other, near, half, first])
    assert kept == [first, other, half]
    assert drops == {"near duplicate": 2}
    assert run(near_dedup, [first, half], threshold=0.2, bands=64)[1] == {"near duplicate": 1}


def test_shingles():
    assert shingles("a b, c d", 3) == ["a b c", "b c d"]
    assert shingles("a b", 3) == ["a b"]


def test_settings_that_cannot_work(run):
    with pytest.raises(ConfigError, match="bands=7 must divide permutations=128"):
        run(near_dedup, ["a"], bands=7)
