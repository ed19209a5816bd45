"""How the report writes numbers, for a reader and never for a parser."""

import math

from palimpsest.records import EstimateRecord
from palimpsest.statistics import Estimate

MINUS = "\u2212"
DASH = "\u2013"


def percent(share: float) -> str:
    """Return a share in whole percent, without the sign; only what is exactly 0 or 1 is written 0 or 100."""
    rounded = round(100 * share)
    if rounded == 0 and share > 0:
        return "<1"
    if rounded == 100 and share < 1:
        return ">99"
    return str(rounded)


def points(difference: float) -> str:
    """Return a difference of shares in signed percentage points."""
    rounded = round(100 * difference)
    return f"{MINUS if rounded < 0 else '+' if rounded > 0 else ''}{abs(rounded)}"


def number(value: float) -> str:
    """Return a value with four significant digits and a true minus sign."""
    if not math.isfinite(value):
        return "\u221e" if value == math.inf else f"{MINUS}\u221e" if value == -math.inf else "not a number"
    if value == int(value) and abs(value) < 1e6:
        text = f"{int(value):,}"
    else:
        text = f"{value:.4g}" if 1e-4 <= abs(value) < 1e6 else f"{value:.2e}"
    return text.replace("-", MINUS)


def bounded(found: Estimate | EstimateRecord) -> bool:
    """Whether an estimate has an interval at all."""
    return math.isfinite(found.low) and math.isfinite(found.high)


def tokens(count: int) -> str:
    """Return a number of tokens: ``256``, ``2K`` for exact multiples of 1,024, ``3,000`` otherwise."""
    if count >= 1024 * 1024 and count % (1024 * 1024) == 0:
        return f"{count // (1024 * 1024)}M"
    return f"{count // 1024}K" if count >= 1024 and count % 1024 == 0 else f"{count:,}"


def magnitude(value: float) -> str:
    """Return a large number with three significant digits and its decimal prefix: ``3.1 M``."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g}"


def size(count: float) -> str:
    """Return bytes with a binary prefix: ``24 KiB``."""
    for factor, prefix in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= factor:
            return f"{count / factor:.3g} {prefix}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    """Return a time span: ``48 s``, ``5 min 12 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def depth(value: float) -> str:
    """Return a depth as a percentage of the haystack."""
    return f"{100 * value:g} %"


def plural(count: int, noun: str, several: str | None = None) -> str:
    """Return the count with its noun: ``1 seed``, ``3 seeds``."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


def listed(words: list[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} and {words[-1]}"
