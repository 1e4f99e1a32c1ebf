"""Is the market for studies as difficult as the real one is published to be? And writes such a market.

    python -m benchmarks.market [--full] [--seed 0]
    python -m benchmarks.market --write FOLDER [--quick] [--eras 250] [--rows 5000] [--features 310] [--seed 0]

Measures one market of 250 eras x 5,000 rows x 310 features (--full: eight, by seed), prints each figure beside the
published one, and claims how far it lies from it. The figures' sources are in `docs/market.md`; nothing that a recipe
reaches is among them. With --write it makes the files of v5.3's layout, three fifths of the eras in `train.parquet`,
and `market.json`, by which a report finds the oracle.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.claims import claim
from eraflow.prepared import NUMERAI_CORR, PreparedScores
from eraflow.rehearsal.market_files import write_market
from eraflow.rehearsal.market_oracle import ORACLES, oracles
from eraflow.rehearsal.study_market import StudyMarket
from eraflow.rehearsal.study_rules import StudyConfig

F64 = npt.NDArray[np.float64]
COLUMN = "target_ender_20"
WINDOW_ERAS = 71
"""Published autocorrelations are of 355 rounds, five a week: as short a series biases ours as much."""
ROWS_PUBLISHED = 4182
"""An era of the published feature correlations has this many rows (501,808 in 120 eras)."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one market is like; names as in `PUBLISHED`."""

    feature_abs: float
    feature_sd: float
    best_feature: float
    best_sharpe: float
    directions: float
    corr: float
    corr_sd: float
    benchmark_mmc: float
    lag_1: float
    lag_2: float
    lag_3: float
    lag_4: float


# Figure -> what it is, the published value, how far the market's may be from it.
PUBLISHED = {
    "feature_abs": ("a feature's correlation with the target by era, mean absolute value", 0.01585, 0.0010),
    "feature_sd": ("the same, standard deviation over features and eras", 0.0202, 0.0012),
    "best_feature": ("the best feature's mean correlation", 0.0135, 0.0040),
    "best_sharpe": ("the best feature's Sharpe", 0.67, 0.20),
    "directions": ("independent directions among the features' correlations", 25.5, 8.0),
    "corr": ("benchmark model, mean CORR20 (published: 0.02 to 0.03)", 0.025, 0.005),
    "corr_sd": ("benchmark model, standard deviation of CORR20 by era (published: 0.018 to 0.021)", 0.0195, 0.002),
    "benchmark_mmc": ("benchmark model, mean MMC20 (published: -0.004 to 0.0042)", 0.0, 0.0042),
    "lag_1": ("CORR20's autocorrelation, 1 era apart", 0.71, 0.1),
    "lag_2": ("2 eras apart", 0.47, 0.1),
    "lag_3": ("3 eras apart", 0.27, 0.1),
    "lag_4": ("4 eras apart", 0.14, 0.15),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="eight markets instead of one")
    parser.add_argument("--seed", type=int, default=0, help="the first market's")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the market's files and measure nothing")
    parser.add_argument("--quick", action="store_true", help="write 120 eras x 1,000 rows x 64 features")
    for size in ("eras", "rows", "features"):
        parser.add_argument(f"--{size}", type=int, help=f"of the written market: so many {size}")
    given = parser.parse_args()
    if given.write:
        config = sized(given.quick, given.seed, given.eras, given.rows, given.features)
        began = time.process_time()
        paths = write_market(StudyMarket(config), given.write)
        size_mb = sum(path.stat().st_size for path in paths) / 1e6
        print(f"{given.write}: {len(paths)} files, {size_mb:.0f} MB, {time.process_time() - began:.0f} s of CPU time")
        return
    markets = [StudyMarket(StudyConfig(seed=given.seed + i)) for i in range(8 if given.full else 1)]
    told([figures(market) for market in markets])
    shares(markets)


def sized(quick: bool, seed: int, eras: int | None, rows: int | None, features: int | None) -> StudyConfig:
    """The market of that size, by default the real one's or the quick one's."""
    config = StudyConfig.quick(seed=seed) if quick else StudyConfig(seed=seed)
    if eras:
        config = replace(config, train_eras=eras * 3 // 5, validation_eras=eras - eras * 3 // 5)
    return replace(config, rows_per_era=rows or config.rows_per_era, features=features or config.features)


def figures(market: StudyMarket) -> Figures:
    """Over all eras that have every feature."""
    first, last = market.config.train_eras // 4 + 1, market.last_era(0)
    measured = [of_era(market, number) for number in range(first, last + 1)]
    corr_EF = np.array([corr_F for corr_F, _, _ in measured])
    score_E, mmc_E = (np.array([one[i] for one in measured]) for i in (1, 2))
    mean_F, sd_F = corr_EF.mean(0), widened(corr_EF.std(0), market)
    best = int(np.abs(mean_F).argmax())
    share = np.linalg.eigvalsh(np.corrcoef(corr_EF.T))
    wide = widened(corr_EF.std(), market)
    return Figures(
        feature_abs=float(np.abs(corr_EF).mean() * wide / corr_EF.std()),
        feature_sd=float(wide),
        best_feature=float(np.abs(mean_F[best])),
        best_sharpe=float(np.abs(mean_F[best]) / sd_F[best]),
        directions=float(share.sum() ** 2 / (share**2).sum()),
        corr=float(score_E.mean()),
        corr_sd=float(score_E.std()),
        benchmark_mmc=float(mmc_E.mean()),
        **{f"lag_{lag}": autocorrelation(score_E, lag) for lag in (1, 2, 3, 4)},
    )


def of_era(market: StudyMarket, number: int) -> tuple[F64, float, float]:
    """Each feature's correlation with the target, and the benchmark's CORR and MMC."""
    era = market.era(number)
    target_N, x_FN = era.targets[COLUMN].astype(np.float64), era.codes_FN.astype(np.float32)
    x_FN = (x_FN - x_FN.mean(1, keepdims=True)) / x_FN.std(1, keepdims=True)
    corr_F = x_FN @ ((target_N - target_N.mean()) / target_N.std() / len(target_N)).astype(np.float32)
    prepared = PreparedScores(target_N, np.zeros(len(target_N), np.int64), {"mmc": market.meta_model(era)})
    scores = prepared(market.benchmark(era, COLUMN), (NUMERAI_CORR, "mmc"))
    return corr_F.astype(np.float64), float(scores[NUMERAI_CORR][0]), float(scores["mmc"][0])


def widened(sd: F64 | float, market: StudyMarket) -> F64:
    """A correlation's standard deviation as it would be in an era of as many rows as the published ones have."""
    return np.asarray(np.sqrt(np.square(sd) + 1 / ROWS_PUBLISHED - 1 / market.config.rows_per_era), dtype=np.float64)


def autocorrelation(score_E: F64, lag: int) -> float:
    """Mean over windows as long as the published series."""
    found = []
    for start in range(0, len(score_E) - WINDOW_ERAS + 1, 10):
        centred_E = score_E[start : start + WINDOW_ERAS] - score_E[start : start + WINDOW_ERAS].mean()
        found.append((centred_E[lag:] * centred_E[:-lag]).mean() / (centred_E**2).mean())
    return float(np.mean(found))


def told(found: list[Figures]) -> None:
    for one in fields(Figures):
        name, published, within = PUBLISHED[one.name]
        values = [float(getattr(figure, one.name)) for figure in found]
        mean = float(np.mean(values))
        print(f"{name}: {mean:.4g}, published {published:g}")
        note = f"found {mean:.4g}, published {published:g}; {len(found)} market(s)"
        each = [abs(value - published) for value in values] if len(values) > 1 else []
        claim(f"distance: {name}", abs(mean - published), each=each, at_most=within, note=note)


def shares(markets: list[StudyMarket]) -> None:
    """What the oracles reach in the validation eras, every fourth of them."""
    for column in (COLUMN, "target_ender_60"):
        print(f"\n{column}, mean of the validation eras")
        tables = [oracles(m, range(m.config.train_eras + 1, m.last_era(0) + 1, 4), column=column) for m in markets]
        for name in ORACLES:
            means = np.mean([table[name].mean() for table in tables], axis=0)
            print(f"  {name:13}" + "".join(f" {s} {v:.4f}" for s, v in zip(tables[0][name], means, strict=True)))


if __name__ == "__main__":
    main()
