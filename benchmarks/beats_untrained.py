"""Does training help? `simple-mlp` against its untrained self on the synthetic market, era by era.

    python benchmarks/beats_untrained.py [--validation-eras 160] [--seed 0]

Prints the mean paired difference of the era Spearman with its standard error, and the share of the best reachable
score. Neighbouring eras share weeks of their target, so the standard error counts an overlap of 12 eras: the series'
autocorrelation at distance k is taken as 1 - k/12 (for the 60-day target), which leaves n / 12 independent eras.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from eraflow import recipes, trained
from eraflow.dataset import decode
from eraflow.feature_sets import read_features_json
from eraflow.metrics import PreparedSpearman
from eraflow.rehearsal.market import Market, MarketConfig
from eraflow.rehearsal.market_files import write_file
from eraflow.rows import Rows
from eraflow.store import sha256_of
from eraflow.training import initial, load_fitted, predict

HORIZON_ERAS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--validation-eras", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    market = Market(MarketConfig(validation_eras=given.validation_eras, seed=given.seed))
    with tempfile.TemporaryDirectory() as folder:
        trained_E, untrained_E = scores(market, Path(folder))
    gain_E = trained_E - untrained_E
    best = float(np.mean(list(market.oracle().values())))
    naive = gain_E.std(ddof=1) / np.sqrt(len(gain_E))
    overlap = 1 + 2 * sum(1 - k / HORIZON_ERAS for k in range(1, HORIZON_ERAS))
    error = naive * np.sqrt(overlap)
    print(f"simple-mlp {trained_E.mean():.4f}, untrained {untrained_E.mean():.4f}, {len(gain_E)} eras")
    print(f"difference {gain_E.mean():.4f}, standard error {error:.4f} ({naive:.4f} if eras were independent)")
    print(f"best reachable {best:.4f}: simple-mlp has {trained_E.mean() / best:.0%} of it")


def scores(market: Market, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Era Spearman [E] of the trained network and of the same network before training."""
    for name in ("features.json", "train.parquet", "validation.parquet"):
        write_file(market, name, folder / name, week=0, number=0)
    features = read_features_json(folder / "features.json").columns("medium")
    train, validation = (
        decode(folder / name, into=folder, sha256=sha256_of(folder / name), features=features)
        for name in ("train.parquet", "validation.parquet")
    )
    recipe = recipes.simple_mlp()
    made = trained.train(recipe, train=train, validation=validation, features=features, folder=folder / "model")
    rows = Rows.of(
        validation.codes_NF, validation.column("target"), validation.era_N, columns=validation.columns(features)
    ).labelled()
    fitted = load_fitted(made.folder / "holdout-0", recipe.model)
    before = initial(recipe.model, rows.n_features, recipe.training.seed).to(fitted.device)
    spearman = PreparedSpearman(rows.target_M, rows.era_M)
    after_M, before_M = predict([fitted.model, before], rows)
    return spearman(after_M)[1], spearman(before_M)[1]


if __name__ == "__main__":
    main()
