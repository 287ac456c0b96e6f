import math

import numpy as np
import pytest
import torch

from plm.errors import ConfigError
from plm.rollout.sampling import Sampling, Stacked, draw, likeliest, row_seed, uniforms

CPU = torch.device("cpu")


def slow(scores: list[float], sampling: Sampling, seen: set[int]) -> list[float]:
    """What a row is drawn from, written out token by token."""
    penalty = sampling.repetition_penalty
    scores = [
        (s / penalty if s > 0 else s * penalty) if i in seen else s for i, s in enumerate(scores)
    ]
    if sampling.temperature == 0:
        return [float(i == scores.index(max(scores))) for i in range(len(scores))]
    scores = [s / sampling.temperature for s in scores]
    kept = set(range(len(scores)))
    if sampling.top_k:
        least = sorted(scores, reverse=True)[min(sampling.top_k, len(scores)) - 1]
        kept = {i for i in kept if scores[i] >= least}
    weights = {i: math.exp(scores[i] - max(scores)) for i in kept}
    if sampling.top_p < 1:
        wanted, mass, least = sampling.top_p * sum(weights.values()), 0.0, 0.0
        for weight in sorted(weights.values(), reverse=True):
            if mass >= wanted:
                break
            mass, least = mass + weight, weight
        weights = {i: w for i, w in weights.items() if w >= least}
    top = max(weights.values())
    weights = {i: w for i, w in weights.items() if w >= sampling.min_p * top}
    return [weights.get(i, 0.0) / sum(weights.values()) for i in range(len(scores))]


SETTINGS = [
    Sampling(),
    Sampling(temperature=1.0),
    Sampling(temperature=0.7, top_k=5),
    Sampling(temperature=1.3, top_k=500),
    Sampling(temperature=1.0, top_p=0.6),
    Sampling(temperature=2.0, top_p=0.999),
    Sampling(temperature=1.0, min_p=0.2),
    Sampling(temperature=0.9, top_k=9, top_p=0.8, min_p=0.1, repetition_penalty=1.4),
    Sampling(temperature=1.0, repetition_penalty=0.6),
    Sampling(repetition_penalty=3.0),
    Sampling(temperature=1.0, top_p=1e-9),
    Sampling(temperature=1.0, top_k=1),
]


@pytest.mark.parametrize("size", [11, 64, 640])
@pytest.mark.parametrize("together", [True, False])
def test_filters_and_draws_against_the_slow_version(size: int, together: bool):
    """Every share of [0, 1) falls to the token that the slow running sum gives it to."""
    generator = torch.Generator().manual_seed(size)
    logits = 3 * torch.randn(len(SETTINGS), size, generator=generator, dtype=torch.float64)
    logits[:, 3] = logits[:, 7]
    seen = torch.zeros(len(SETTINGS), size, dtype=torch.bool)
    seen[:, [1, 4, 7]] = True
    for share in (0.0, 0.123, 0.5, 0.77, 1 - 2**-53):
        rows = [range(len(SETTINGS))] if together else [[i] for i in range(len(SETTINGS))]
        found = []
        for index in map(list, rows):
            stacked = Stacked.of([SETTINGS[i] for i in index], CPU)
            uniform = torch.full((len(index),), share, dtype=torch.float64)
            found += zip(*draw(logits[index], stacked, uniform, seen[index]), strict=True)
        for row, (token, logp, sampled) in enumerate(found):
            chances = slow(logits[row].tolist(), SETTINGS[row], {1, 4, 7})
            last = max(i for i, chance in enumerate(chances) if chance)
            mass = np.cumsum(chances)
            at = next((i for i, m in enumerate(mass) if m > share * mass[-1]), last)
            assert token == at
            assert logp == pytest.approx(logits[row].log_softmax(-1)[at].item(), abs=1e-12)
            assert sampled == pytest.approx(math.log(chances[at]), abs=1e-9)


def test_top_p_looks_further_where_the_likeliest_do_not_hold_the_mass():
    logits = torch.zeros(2, 1000, dtype=torch.float64)
    logits[1, 5] = 20.0
    stacked = Stacked.of([Sampling(temperature=1.0, top_p=0.9)] * 2, CPU)
    token, _, sampled = draw(logits, stacked, torch.tensor([0.9999, 0.9999]).double())
    # All are as likely as the last that is kept.
    assert token.tolist() == [999, 5]
    assert sampled[0].item() == pytest.approx(-math.log(1000))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_share_points_past_the_last_token(dtype: torch.dtype):
    logits = torch.full((1, 128), -30.0, dtype=dtype)
    logits[0, 9] = 5.0
    stacked = Stacked.of([Sampling(temperature=1.0, top_k=1)], CPU)
    for share in (0.0, 0.5, 1 - 2**-53):
        token, *_ = draw(logits, stacked, torch.tensor([share]).double())
        assert token.tolist() == [9]


def test_draws_are_distributed_as_the_slow_version_says():
    logits = torch.tensor([[0.3, 2.0, -1.0, 1.2, 0.0, 1.9]])
    sampling = Sampling(temperature=0.8, top_p=0.9)
    number = 20_000
    stacked = Stacked.of([sampling] * number, CPU)
    uniform = torch.from_numpy(uniforms(3, 0, number))
    tokens, *_ = draw(logits.expand(number, -1), stacked, uniform)
    shares = tokens.bincount(minlength=6) / number
    expected = torch.tensor(slow(logits[0].tolist(), sampling, set()))
    assert (shares - expected).abs().max() < 4 * (0.25 / number) ** 0.5
    assert (shares[expected == 0] == 0).all()


def test_likeliest_is_argmax_with_equals():
    for size in (64, 100, 256):
        scores = torch.randint(0, 9, (50, size)).float()
        assert torch.equal(likeliest(scores), scores.argmax(-1))


def test_uniforms_are_a_function_of_seed_sample_and_place():
    base = uniforms(7, 2, 1000)
    assert np.array_equal(uniforms(7, 2, 10), base[:10])
    assert ((base >= 0) & (base < 1)).all()
    # The mean and the spread of evenly spread numbers, within five standard deviations.
    assert abs(base.mean() - 0.5) < 5 / (12 * 1000) ** 0.5
    assert abs(np.corrcoef(base[:-1], base[1:])[0, 1]) < 5 / 1000**0.5
    for other in (uniforms(8, 2, 1000), uniforms(7, 3, 1000), uniforms(-7, 2, 1000)):
        assert abs(np.corrcoef(base, other)[0, 1]) < 5 / 1000**0.5


def test_row_seeds_do_not_meet():
    assert row_seed(5, 0) == 5
    found = {row_seed(seed, index) for seed in range(50) for index in range(50)}
    assert len(found) == 2500


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 cannot be; it must be at least 1"),
        ({"temperature": -0.1}, "temperature=-0.1 cannot be"),
        ({"temperature": float("nan")}, "temperature=nan cannot be"),
        ({"top_k": -1}, "top_k=-1 cannot be"),
        ({"top_p": 0.0}, "top_p=0.0 cannot be; it must be above 0"),
        ({"top_p": 1.1}, "top_p=1.1 cannot be"),
        ({"min_p": -0.1}, "min_p=-0.1 cannot be"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 cannot be"),
        ({"stop": ("",)}, "must hold texts of at least one character"),
        ({"stop": (3,)}, "must hold texts"),
    ],
)
def test_settings_out_of_their_range(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        Sampling(**settings)


def test_one_stop_string_may_come_alone():
    assert Sampling(stop="end").stop == ("end",)
