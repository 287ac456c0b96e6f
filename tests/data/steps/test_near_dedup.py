"""Near copies go, unlike texts stay."""

import random

import pytest

from plm.data.steps import near_dedup as module
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
    assert list(shingles("a b, c d", 3)) == [["a b c", "b c d"]]
    assert list(shingles("a b", 3)) == [["a b"]]
    assert list(shingles("", 3)) == [[""]]


@pytest.mark.parametrize("ngram", [1, 2, 5])
@pytest.mark.parametrize("block", [1, 3, 10])
def test_blocks_hold_each_run_once(monkeypatch, ngram, block):
    monkeypatch.setattr(module, "_BLOCK", block)
    for n in range(1, 30):
        words = [f"w{i}" for i in range(n)]
        whole = [" ".join(words[i : i + ngram]) for i in range(max(1, n - ngram + 1))]
        blocks = list(shingles(" ".join(words), ngram))
        assert [run for block in blocks for run in block] == whole
        assert max(map(len, blocks)) <= block + 1


def test_blocks_give_the_same_signature(monkeypatch):
    from rensa import RMinHash

    whole, split = (RMinHash(num_perm=128, seed=42) for _ in range(2))
    (runs,) = shingles(text(1), 5)
    whole.update(runs)
    monkeypatch.setattr(module, "_BLOCK", 7)
    blocks = list(shingles(text(1), 5))
    assert len(blocks) > 40
    for block in blocks:
        split.update(block)
    assert split.digest() == whole.digest()


def test_settings_that_cannot_work(run):
    with pytest.raises(ConfigError, match="bands=7 must divide permutations=128"):
        run(near_dedup, ["a"], bands=7)
