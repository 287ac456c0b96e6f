"""Paired comparisons by hand, and what is refused."""

import math
from typing import Any

import pytest

from plm.errors import ConfigError
from plm.evaluation.paired import compare
from plm.evaluation.statistics import normal_p


def answers(bits: str, **changes: Any) -> dict[str, Any]:
    items = [
        {"index": i, "id": f"i{i}", "group": "ab"[i % 2], "correct": [bit == "1"]}
        for i, bit in enumerate(bits)
    ]
    return {"items": items, "settings": {"seed": 0, "k": [1]}, "digest": "d", **changes}


def test_mcnemar_by_hand():
    #         both, neither, one alone: 1 and 6
    first, second = answers("11001" + "0" * 5), answers("11010" + "1" * 5)
    found = compare("t", first, second)[0]
    assert (found.figure, found.test, found.n) == ("accuracy", "mcnemar", 10)
    assert (found.only_first, found.only_second) == (1, 6)
    assert (found.first, found.second) == (0.3, 0.8) and found.difference == pytest.approx(0.5)
    assert found.p == pytest.approx(2 * (1 + 7) / 2**7)
    assert found.low < 0.5 < found.high
    back = compare("t", second, first)[0]
    assert back.p == found.p and back.difference == pytest.approx(-0.5)


def test_groups_are_compared_by_themselves():
    found = compare("t", answers("0101"), answers("1101"))
    assert [(f.figure, f.n, f.difference) for f in found] == [
        ("accuracy", 4, 0.25),
        ("accuracy/a", 2, 0.5),
        ("accuracy/b", 2, 0.0),
    ]


def test_equal_results_tell_nothing():
    found = compare("t", answers("0110"), answers("0110"))[0]
    assert found.p == 1.0 and math.isnan(found.low) and found.plain()["low"] is None


def test_samples_use_flipped_signs_and_pass_at_k():
    def several(counts: list[int]) -> dict[str, Any]:
        told = answers("0" * len(counts))
        for record, count in zip(told["items"], counts, strict=True):
            record["correct"] = [i < count for i in range(4)]
        return {**told, "settings": {"samples": 4, "k": [1, 2]}}

    accuracy, *_, passed = compare("t", several([0, 1, 2, 3]), several([1, 2, 3, 4]))
    assert accuracy.test == passed.test == "sign_flip" and passed.figure == "pass@2"
    # Four items of the same sign: 2 ways of 16, and not the least that a bootstrap can say.
    assert accuracy.p == 2 / 16
    assert accuracy.difference == pytest.approx(0.25) and accuracy.low == pytest.approx(0.25)
    assert passed.first == pytest.approx((0 + 1 / 2 + 5 / 6 + 1) / 4)


def windows(nats: list[float], **changes: Any) -> dict[str, Any]:
    items = [
        {"index": i, "id": f"s/{i}", "group": "s", "nats": x, "tokens": 10, "bytes": 40}
        for i, x in enumerate(nats)
    ]
    return {"items": items, "settings": {}, "digest": "d", **changes}


def test_losses_by_hand():
    loss, bpb = compare("t", windows([20, 30, 40, 50]), windows([21, 33, 41, 53]))
    # Differences a token of .1, .3, .1, .3: mean .2, deviation sqrt(.04 / 3), over sqrt(4).
    error = math.sqrt(0.04 / 3) / 2
    assert (loss.figure, loss.first, loss.second) == ("loss/s", 3.5, 3.7)
    assert loss.difference == pytest.approx(0.2)
    assert (loss.low, loss.high) == pytest.approx((0.2 - 1.959964 * error, 0.2 + 1.959964 * error))
    assert loss.p == pytest.approx(normal_p(0.2, error))
    assert bpb.figure == "bpb/s" and bpb.difference == pytest.approx(0.2 / 4 / math.log(2))


def test_metrics_of_lm_eval():
    def told(accs: list[float], f1: list[float]) -> dict[str, Any]:
        items = [
            {"index": i, "id": f"x/{i}", "group": "x", "values": {"acc": a, "f1": f}}
            for i, (a, f) in enumerate(zip(accs, f1, strict=True))
        ]
        return {"items": items, "settings": {}, "digest": "d"}

    acc, f1 = compare("t", told([0, 0, 1], [0.2, 0.2, 0.4]), told([1, 0, 1], [0.4, 0.2, 0.6]))
    assert (acc.test, acc.only_second, acc.p) == ("mcnemar", 1, 1.0)
    assert f1.test == "sign_flip" and f1.p == 2 / 4 and f1.difference == pytest.approx(0.4 / 3)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (answers("01", digest="e"), r"t: the two are on different items \(2 and 2; hashes d and e"),
        (answers("011"), r"different items \(2 and 3"),
        (answers("01", settings={"seed": 1, "k": [1]}), r"not evaluated alike \(seed=0 and 1\)"),
        (answers("01", settings={"seed": 0}), r"not evaluated alike \(k=\[1\] and None\)"),
    ],
)
def test_other_items_or_settings_are_refused(second, message: str):
    with pytest.raises(ConfigError, match=message):
        compare("t", answers("01"), second)


def test_windows_of_other_lengths_are_refused():
    other = windows([20, 30])
    other["items"][0]["bytes"] = 41
    with pytest.raises(ConfigError, match="hold other bytes"):
        compare("t", windows([20, 30]), other)
