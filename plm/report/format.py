"""Numbers as a person reads them: tokens, times, shares."""

import math
from itertools import pairwise

_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def human_tokens(count: float) -> str:
    """A count in three digits: 1_234_567 is 1.23M, 999 stays 999."""
    if abs(count) < 999.5:
        return f"{count:.0f}"
    # From the smallest unit up, so that 999_999 becomes 1.00M and not 1000k.
    for size, letter in reversed(_UNITS):
        scaled = count / size
        digits = max(0, 2 - math.floor(math.log10(abs(scaled))))
        text = f"{scaled:.{digits}f}"
        if abs(float(text)) < 1000:
            return _three_digits(text) + letter
    return f"{count / 1e12:.0f}T"


def _three_digits(text: str) -> str:
    """9.999 printed with two decimals is 10.00: drop the digit that the carry added."""
    whole, _, decimals = text.partition(".")
    keep = max(0, 3 - len(whole.lstrip("-")))
    return f"{whole}.{decimals[:keep]}" if keep and decimals else whole


def human_time(seconds: float) -> str:
    """A duration in seconds as a clock shows it: 70 is 1:10, 3725 is 1:02:05."""
    whole = max(0, round(seconds))
    days, whole = divmod(whole, 86_400)
    hours, whole = divmod(whole, 3600)
    minutes, rest = divmod(whole, 60)
    if days:
        return f"{days}d {hours}:{minutes:02d}:{rest:02d}"
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}"


def human_share(share: float) -> str:
    """A share in [0, 1] in per cent, one decimal."""
    return f"{100 * share:.1f} %"


def axis_labels(ticks: list[float]) -> list[str]:
    """One label a tick, all in one unit and with just the decimals that tell them apart."""
    step = min((b - a for a, b in pairwise(ticks)), default=0) or 1
    largest = max((abs(tick) for tick in ticks), default=0)
    if 0 < largest < 1e-3:
        return ["0" if tick == 0 else _scientific(tick) for tick in ticks]
    size, letter = next((unit for unit in _UNITS if largest >= unit[0]), (1, ""))
    decimals = min(6, max(0, math.ceil(-math.log10(step / size) - 1e-9)))
    if size == 1 and largest < 1e3:
        return ["0" if tick == 0 else f"{tick:.{decimals}f}" for tick in ticks]
    return ["0" if tick == 0 else _trim(f"{tick / size:.{decimals}f}") + letter for tick in ticks]


def log_labels(ticks: list[float]) -> list[str]:
    """One label a tick of a logarithmic axis, each with its own decimals."""
    return [axis_labels([tick])[0] if tick >= 1 else f"{tick:.3g}" for tick in ticks]


def _trim(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scientific(value: float) -> str:
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{_trim(mantissa)}e{int(exponent)}"
