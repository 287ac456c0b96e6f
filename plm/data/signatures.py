"""MinHash signatures and the bands by which similar ones are found, in little memory.

Paper: Leskovec, Rajaraman and Ullman, Mining of massive datasets, section 3.4 (bands of signatures)
Cost: 4·P + 4·B + about 8·B bytes a signature of P permutations in B bands.
"""

from array import array
from collections.abc import Iterator

import numpy as np

_FIRST = 1 << 12


class SignatureIndex:
    """Signatures in the order they were added.

    A table of places, as large as it has to be, holds the last signature of each band's value; each
    entry names the one before it with the same value. Values are compared, not only their hashes.

    Args:
        permutations: P, 32-bit numbers of a signature.
        bands: B, which divides P.
    """

    def __init__(self, permutations: int, bands: int) -> None:
        self.bands = bands
        self._size, self._width = 4 * permutations, 4 * permutations // bands
        self._signatures = bytearray()
        self._before = array("i")
        self._table = array("i", [-1]) * _FIRST

    def __len__(self) -> int:
        return len(self._signatures) // self._size

    def _value(self, entry: int) -> bytes:
        start = entry * self._width
        return bytes(self._signatures[start : start + self._width])

    def _place(self, value: bytes, band: int) -> int:
        """Where in the table this band's value stands, or would stand."""
        mask = len(self._table) - 1
        place = hash((band, value)) & mask
        while (entry := self._table[place]) >= 0:
            if entry % self.bands == band and self._value(entry) == value:
                break
            place = (place + 1) & mask
        return place

    def similar(self, signature: bytes) -> Iterator[float]:
        """Shares of equal numbers with each signature that has a band in common.

        Args:
            signature: P 32-bit numbers.
        """
        seen: set[int] = set()
        own = np.frombuffer(signature, dtype=np.uint32)
        for band in range(self.bands):
            value = signature[band * self._width : (band + 1) * self._width]
            entry = self._table[self._place(value, band)]
            while entry >= 0:
                number = entry // self.bands
                if number not in seen:
                    seen.add(number)
                    other = self._signatures[number * self._size : (number + 1) * self._size]
                    equal = np.frombuffer(other, dtype=np.uint32) == own
                    yield int(equal.sum()) / len(own)
                entry = self._before[entry]

    def add(self, signature: bytes) -> None:
        """Add a signature."""
        first = len(self._before)
        if 3 * (first + self.bands) > 2 * len(self._table):
            self._grow()
        self._signatures += signature
        for band in range(self.bands):
            entry = first + band
            place = self._place(self._value(entry), band)
            self._before.append(self._table[place])
            self._table[place] = entry

    def _grow(self) -> None:
        """Twice the table; entries come in their order, so that the last of equals stays last."""
        self._table = array("i", [-1]) * (2 * len(self._table))
        for entry in range(len(self._before)):
            place = self._place(self._value(entry), entry % self.bands)
            self._table[place] = entry
