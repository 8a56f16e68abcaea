"""Tables as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev

__all__ = ["columns", "spread"]


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words as lines: the first column begins on the left, the others end under each other."""
    widths = [max(len(word) for word in column) for column in zip(*rows, strict=True)]
    lines = ([word.rjust(width) for word, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join([row[0].ljust(widths[0]), *line[1:]]) for row, line in zip(rows, lines, strict=True))


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation, the latter where there are several values."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
