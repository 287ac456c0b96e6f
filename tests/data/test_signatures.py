"""Similar signatures are found, in whatever order and number they come."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from plm.data.signatures import SignatureIndex


def test_by_hand():
    index = SignatureIndex(4, 2)
    numbers = ([1, 2, 3, 4], [1, 2, 9, 9], [5, 6, 3, 4], [7, 7, 1, 2])
    one, two, three, four = (np.array(n, np.uint32).tobytes() for n in numbers)
    assert list(index.similar(one)) == []
    index.add(one)
    assert list(index.similar(two)) == [0.5]
    index.add(two)
    # One shares its first band with two and itself, and its second with itself.
    assert sorted(index.similar(one)) == [0.5, 1.0]
    assert list(index.similar(three)) == [0.5]
    # Equal numbers in another band are nothing in common.
    assert list(index.similar(four)) == []
    assert len(index) == 2


@given(st.integers(0, 2**32 - 1), st.integers(1, 500))
@settings(max_examples=15, deadline=None)
def test_as_a_search_through_all(seed, number):
    rng = np.random.default_rng(seed)
    signatures = rng.integers(0, 4, (number, 12), dtype=np.uint32)
    index = SignatureIndex(12, 4)
    for row, signature in enumerate(signatures):
        bands = (signatures[:row] == signature).reshape(row, 4, 3).all(axis=2).any(axis=1)
        expected = (signatures[:row] == signature).mean(axis=1)[bands]
        assert sorted(index.similar(signature.tobytes())) == sorted(expected.tolist())
        index.add(signature.tobytes())


def test_the_table_grows():
    rng = np.random.default_rng(0)
    signatures = rng.integers(0, 2**32, (3000, 8), dtype=np.uint32)
    index = SignatureIndex(8, 4)
    for signature in signatures:
        index.add(signature.tobytes())
    assert all(list(index.similar(s.tobytes())) == [1.0] for s in signatures[::7])
