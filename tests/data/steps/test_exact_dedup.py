"""The first of equal texts stays."""

from plm.data.steps.exact_dedup import exact_dedup


def test_by_hand(run):
    kept, drops = run(exact_dedup, ["a\n", "b", "\na", "A", "b"])
    assert kept == ["a\n", "b", "A"]
    assert drops == {"seen before": 2}
