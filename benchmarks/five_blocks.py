"""The write-up's simulation: what Spearman a perfect ranking of five blocks reaches, by simulation and by formula.

    python -m benchmarks.five_blocks [--full] [--rows 5000] [--shares .05 .2 .5 .2 .05]

The target has five values with the tournament's shares. The prediction has every row of a lower block below every row
of a higher one, and any order inside: nobody could know more. What such a prediction scores depends on what is done
with the target's ties, over 200 repeats (--full: 5,000) with a new order inside the blocks each time:

- averaged, as `eraflow.metrics.era_spearman` does: sqrt((n³ - sum n_k³) / (n³ - n)), the same in every repeat;
- ranked in an arbitrary order, as if there were none: (n³ - sum n_k³) / (n³ - n) on average, which is about
  1 - sum p_k³, and different in each repeat.

docs/write-up.md derives both.

Shape letters: N rows of all repeats, M rows of a repeat, R repeats, K blocks.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.claims import claim
from eraflow.metrics import era_spearman

F64 = npt.NDArray[np.float64]

SHARES = (0.05, 0.2, 0.5, 0.2, 0.05)
ROWS, REPEATS_AT_ONCE = 5000, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="5,000 repeats instead of 200")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, metavar="SHARE", help="of the blocks")
    given = parser.parse_args()
    try:
        sizes = block_sizes(given.rows, given.shares)
    except ValueError as error:
        parser.error(str(error))
    told(sizes, 5_000 if given.full else REPEATS_AT_ONCE)


def told(sizes: Sequence[int], repeats: int) -> None:
    averaged_R, arbitrary_R = simulated(sizes, repeats)
    exact, mean, deviation = averaged_ties(sizes), arbitrary_ties(sizes), arbitrary_ties_deviation(sizes)
    print(f"{sum(sizes):,} rows in blocks of {', '.join(map(str, sizes))}, {repeats:,} repeats: mean, deviation")
    for name, found_R, formula in (
        ("ties averaged, as era_spearman does", averaged_R, (exact, 0.0)),
        ("ties ranked in an arbitrary order", arbitrary_R, (mean, deviation)),
    ):
        found = f"{found_R.mean():.6f}, {found_R.std(ddof=1):.6f}"
        print(f"  {name:35}  simulated {found}   by formula {formula[0]:.6f}, {formula[1]:.6f}")
    apart = float(np.abs(averaged_R - exact).max())
    claim("five blocks, ties averaged: largest distance of a repeat from the formula", apart, at_most=1e-12)
    errors = abs(float(arbitrary_R.mean()) - mean) / (deviation / math.sqrt(repeats))
    name = "five blocks, ties in an arbitrary order: distance of the mean from the formula, in standard errors"
    claim(name, errors, at_most=3.0)


def block_sizes(rows: int, shares: Sequence[float]) -> list[int]:
    """Rows of each block. Raises `ValueError` unless the shares give whole blocks that make up all rows."""
    sizes = [round(rows * share) for share in shares]
    whole = all(math.isclose(rows * share, size, abs_tol=1e-6) for share, size in zip(shares, sizes, strict=True))
    if not whole or sum(sizes) != rows or min(sizes) < 1 or len(sizes) < 2:
        told = ", ".join(f"{share:g}" for share in shares)
        raise ValueError(f"shares must divide {rows} rows into two or more whole blocks, however they are {told}")
    return sizes


def averaged_ties(sizes: Sequence[int]) -> float:
    """Spearman of a target that is constant in each block and a prediction that keeps the blocks in order."""
    return math.sqrt(arbitrary_ties(sizes))


def arbitrary_ties(sizes: Sequence[int]) -> float:
    """The mean Spearman of two rankings without ties that agree on the blocks and on nothing inside them."""
    rows = sum(sizes)
    return (rows**3 - sum(size**3 for size in sizes)) / (rows**3 - rows)


def arbitrary_ties_deviation(sizes: Sequence[int]) -> float:
    """The standard deviation of what `arbitrary_ties` is the mean of.

    A block of m rows adds (m³ - m) / (n³ - n) times a Spearman of two random orders, whose variance is 1 / (m - 1).
    """
    rows = sum(sizes)
    parts = [((size**3 - size) / (rows**3 - rows)) ** 2 / (size - 1) for size in sizes if size > 1]
    return math.sqrt(sum(parts))


def simulated(sizes: Sequence[int], repeats: int) -> tuple[F64, F64]:
    """Spearman by repeat `[R]`: with the target's ties averaged, and with them ranked in the order of the rows."""
    parts = list(_simulated(sizes, repeats, np.random.default_rng(0)))
    return np.concatenate([averaged for averaged, _ in parts]), np.concatenate([arbitrary for _, arbitrary in parts])


def _simulated(sizes: Sequence[int], repeats: int, chance: np.random.Generator) -> Iterator[tuple[F64, F64]]:
    block_M = np.repeat(np.arange(len(sizes)), sizes)
    for first in range(0, repeats, REPEATS_AT_ONCE):
        era_N = np.repeat(np.arange(min(REPEATS_AT_ONCE, repeats - first)), len(block_M))
        count = len(era_N) // len(block_M)
        target_N = np.tile(block_M, count)
        # Whole numbers decide the block; the part behind the point is the order inside.
        prediction_N = target_N + chance.random(len(target_N))
        ordinal_N = np.tile(np.arange(len(block_M)), count)
        yield (
            era_spearman(prediction_N, target_N, era_N).to_numpy(),
            era_spearman(prediction_N, ordinal_N, era_N).to_numpy(),
        )


if __name__ == "__main__":
    main()
