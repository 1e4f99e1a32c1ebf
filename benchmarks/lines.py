"""Whether a cost grows with the rows as it should: the table of it, and its exponent.

An exponent of 1 is a straight line through the origin; one below 1 has a part that does not depend on the rows.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.claims import claim
from benchmarks.training_rounds import interleaved


def line(name: str, rows: Sequence[int], made: Callable[[int], Callable[[], Any]], given: argparse.Namespace) -> None:
    """Time `made(n)()` for each number of rows, interleaved, and claim that it grows at most as the rows do."""
    found = interleaved({str(n): made(n) for n in rows}, given)
    seconds = [statistics.median(found[str(n)]) for n in rows]
    print(f"  {name}, by rows")
    for n, each in zip(rows, seconds, strict=True):
        print(f"    {n:>10,}  {each * 1e3:9.2f} ms  {each / n * 1e9:7.1f} ns a row")
    exponent = float(np.polyfit(np.log(rows), np.log(seconds), 1)[0])
    claim(f"{name}: cost grows as rows to the power", exponent, at_most=1.1, note=f"{rows[0]:,} to {rows[-1]:,} rows")
