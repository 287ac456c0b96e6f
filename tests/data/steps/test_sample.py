"""The draw depends on seed and text alone."""

import random

import pytest

from plm.data.steps.sample import sample
from plm.errors import ConfigError

TEXTS = [f"text {i}" for i in range(4000)]


def test_the_share_is_kept(run):
    kept, drops = run(sample, TEXTS, share=0.25, seed=3)
    # Four standard deviations of a binomial draw.
    assert abs(len(kept) - 1000) < 110
    assert drops == {"not drawn": 4000 - len(kept)}
    assert run(sample, TEXTS, share=1) == (TEXTS, {})


def test_order_and_neighbours_play_no_part(run):
    kept = run(sample, TEXTS, share=0.25)[0]
    mixed = random.Random(1).sample(TEXTS, 2000)
    assert run(sample, mixed, share=0.25)[0] == [text for text in mixed if text in set(kept)]


def test_shares_are_nested_and_seeds_differ(run):
    small, large = (set(run(sample, TEXTS, share=s)[0]) for s in (0.1, 0.5))
    assert small < large
    other = set(run(sample, TEXTS, share=0.5, seed=1)[0])
    assert abs(len(large & other) - 1000) < 110


def test_the_draw_of_these_texts_never_changes(run):
    assert run(sample, TEXTS[:12], share=0.5)[0] == [TEXTS[i] for i in [1, 2, 3, 4, 7, 9, 11]]


@pytest.mark.parametrize("share", [0, -0.5, 1.5])
def test_settings_that_cannot_work(run, share):
    with pytest.raises(ConfigError, match=rf"sample: share={share} is not in \(0, 1\]; leave the"):
        run(sample, ["a"], share=share)
