"""Numbers as people read them, and axes with round ones."""

import math
from collections.abc import Sequence

_NARROW_SPACE = "\u202f"
_MINUS = "\u2212"
DASH = "–"


def decimal(value: float | None, decimals: int = 3) -> str:
    """A number with a fixed number of digits after the point, a true minus sign, and a dash for None."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:,.{decimals}f}"
    return _signed(text.removeprefix("-") if float(text.replace(",", "")) == 0 else text)


def p_value(value: float) -> str:
    """A probability with four digits; smaller ones as a bound."""
    return "< 0.0001" if value < 1e-4 else decimal(value, 4)


def count(value: int) -> str:
    """A whole number with thin spaces between thousands."""
    return _signed(f"{value:,d}")


def tick(value: float) -> str:
    """A number on an axis, as short as it can be."""
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.2e}".split("e")
        return _signed(f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}")
    text = f"{value:,.6f}".rstrip("0").rstrip(".") if abs(value) < 1000 else f"{value:,.0f}"
    return _signed(text)


def round_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten that lie within a range.

    Args:
        low: Lower end.
        high: Upper end, above `low`.
        about: How many are wanted; there may be one or two more or fewer.
    """
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def padded_range(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """A range that holds all values with some room; never empty."""
    low, high = min(values), max(values)
    room = (high - low) * share or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _signed(text: str) -> str:
    return text.replace(",", _NARROW_SPACE).replace("-", _MINUS)
