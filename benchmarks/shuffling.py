"""What the order of the rows does to the score: in order, all rows shuffled, and blocks of rows shuffled.

    python -m benchmarks.shuffling [--full]

Trains `fastai-tabular` on a made-up market of 200 eras (--full: 400) of 500 rows with several seeds an order, and
prints the mean era Spearman on the 120 eras that follow the purge, with its standard deviation over the seeds, and
for each order the difference from all rows shuffled: seed by seed, so with the same first weights, its mean and
standard error. Blocks of 150 and of 300 rows: 16 of them are 2.4 % and 4.8 % of 100,000 rows, as 16 blocks of 4096
are 2.4 % of the 2.75 million of `train.parquet`. Nothing is aimed at: the figure says what the option costs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.claims import claim
from eraflow.inference import predict
from eraflow.metrics import PreparedSpearman
from eraflow.recipes import get
from eraflow.rehearsal.market import Market, MarketConfig
from eraflow.rows import Rows
from eraflow.training import fit

PURGED_ERAS, HOLDOUT_ERAS = 16, 120
ORDERS: dict[str, dict[str, Any]] = {
    "all rows shuffled": {},
    "in order": {"shuffle": False},
    "blocks of 150 rows shuffled": {"shuffle_block_rows": 150},
    "blocks of 300 rows shuffled": {"shuffle_block_rows": 300},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="400 eras, 3 markets, 10 seeds each")
    given = parser.parse_args()
    eras, markets, seeds = (400, 3, 10) if given.full else (200, 1, 6)
    torch.set_num_threads(1)  # the network is small: a second thread waits more than it works
    found: dict[str, list[float]] = {order: [] for order in ORDERS}
    for number in range(markets):
        market = Market(MarketConfig(train_eras=eras, validation_eras=PURGED_ERAS + HOLDOUT_ERAS, seed=number))
        train, holdout = rows_of(market, 1, eras), rows_of(market, eras + PURGED_ERAS + 1, market.last_era(0))
        for order in ORDERS:
            found[order] += [score(train, holdout, order, seed) for seed in range(seeds)]
    print(f"{len(train):,} rows, {holdout.n_features} features, {markets} markets, {seeds} seeds each")
    uniform = found["all rows shuffled"]
    for order, scores in found.items():
        spread = statistics.stdev(scores)
        print(f"  {order:28} mean era Spearman {statistics.mean(scores):.4f}, over all runs ± {spread:.4f}")
    for order in [order for order in ORDERS if order != "all rows shuffled"]:
        each = [one - other for one, other in zip(found[order], uniform, strict=True)]
        error = statistics.stdev(each) / len(each) ** 0.5
        claim(f"{order}: Spearman against all rows shuffled", statistics.mean(each), note=f"standard error {error:.4f}")


def score(train: Rows, holdout: Rows, order: str, seed: int) -> float:
    """The mean era Spearman of the recipe trained in that order."""
    recipe = get("fastai-tabular")
    training = replace(recipe.training, device="cpu", seed=seed, **ORDERS[order])
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(train, model=recipe.model, training=training, seeds=[seed], folders=[Path(folder)])[0]
    spearman_E = PreparedSpearman(holdout.target_M, holdout.era_M)(predict([fitted.model], holdout)[0])[1]
    return float(np.nanmean(spearman_E))


def rows_of(market: Market, first: int, last: int) -> Rows:
    eras = [market.era(number) for number in range(first, last + 1)]
    code_NF = np.ascontiguousarray(np.concatenate([era.codes_FN for era in eras], axis=1).T) - np.int8(2)
    target_N = np.concatenate([era.targets["target"] for era in eras])
    return Rows.of(code_NF, target_N, np.repeat([era.number for era in eras], [len(era.id_N) for era in eras]))


if __name__ == "__main__":
    main()
