"""How a benchmark says what it found: one line a claim, with its aim and whether that was reached.

`python -m benchmarks` collects these lines of all scripts into a table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

COLLECT = "ERAFLOW_BENCH_CLAIMS"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One figure against its aim."""

    name: str
    value: float
    unit: str
    low: float | None
    high: float | None
    at_least: float | None
    at_most: float | None
    note: str

    @property
    def aim(self) -> str:
        """For people; empty where none was set."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}{self.unit}"
        return "" if self.at_most is None else f"≤ {self.at_most:g}{self.unit}"

    @property
    def found(self) -> str:
        """The value and its range over the rounds."""
        spread = "" if self.low is None else f" ({self.low:.3g} to {self.high:.3g})"
        return f"{self.value:.3g}{self.unit}{spread}"

    @property
    def verdict(self) -> str:
        if self.at_least is None and self.at_most is None:
            return ""
        reached = self.value >= self.at_least if self.at_least is not None else self.value <= (self.at_most or 0)
        return "reached" if reached else "not reached"


def claim(
    name: str,
    value: float,
    *,
    each: Sequence[float] = (),
    unit: str = "",
    at_least: float | None = None,
    at_most: float | None = None,
    note: str = "",
) -> Claim:
    """Print the figure `value`; `each` are those of the single rounds, `note` is what a reader must know."""
    low, high = (min(each), max(each)) if each else (None, None)
    made = Claim(name=name, value=value, unit=unit, low=low, high=high, at_least=at_least, at_most=at_most, note=note)
    parts = [made.name, made.found, f"aim {made.aim}" if made.aim else "", made.verdict, made.note]
    print("  CLAIM " + "; ".join(part for part in parts if part), flush=True)
    if COLLECT in os.environ:
        with Path(os.environ[COLLECT]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(made)) + "\n")
    return made
