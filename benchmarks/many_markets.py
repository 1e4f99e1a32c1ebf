"""One study on several synthetic markets of realistic size, and what it says of all of them together.

    python -m benchmarks.many_markets [--study benchmarks/pieces.toml] [--markets 2] [--full] [...]

Markets differ more than recipes do, so that one of them decides little. Each market (`eraflow.rehearsal`, by its seed)
is studied as `eraflow study` does it; then the eras of all are one long series, in which eras of different markets do
not overlap, and every recipe is compared with the baseline as always. Without --full a market has 120 eras of 1,000
rows x 64 features and two folds of 25 eras, with it 250 of 5,000 x 310 and the study's own folds. With a --home that
stays, what is finished is never done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.claims import claim
from eraflow.folds import Folds
from eraflow.progress import for_this_terminal
from eraflow.rehearsal.market_files import write_market
from eraflow.rehearsal.study_market import StudyMarket
from eraflow.rehearsal.study_rules import StudyConfig as MarketConfig
from eraflow.splits import horizon_eras
from eraflow.store import Store
from eraflow.study.config import StudyConfig, read_study
from eraflow.study.files import files_of
from eraflow.study.plan import Study, plan
from eraflow.study.run import references_of, run
from eraflow.study.scores import PAYOUT, Scores
from eraflow.uncertainty import Difference, differences, interval, seed_noise

F64 = npt.NDArray[np.float64]
# Weeks between one market's eras and the next one's: no target reaches so far.
APART = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path(__file__).with_name("pieces.toml"), metavar="FILE")
    parser.add_argument("--markets", type=int, default=2, help="so many, by seed")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first market's")
    parser.add_argument(
        "--train-eras", type=int, help="of all; the newest three quarters of the others have a meta model"
    )
    parser.add_argument("--home", type=Path, help="where markets and finished units are kept")
    parser.add_argument("--full", action="store_true", help="250 eras x 5,000 rows x 310 features")
    given = parser.parse_args()
    config = read_study(given.study)
    if not given.full:
        config = dataclasses.replace(config, folds=Folds(chunk_eras=25, number=2))
    with tempfile.TemporaryDirectory() as temporary:
        store = Store.open(given.home or Path(temporary))
        scores = list[Scores]()
        for seed in range(given.first, given.first + given.markets):
            scores.append(studied(config, size_of(seed, given.full, given.train_eras), store))
            print(f"\n{len(scores)} markets, {time.strftime('%H:%M:%S')}", flush=True)
            tell(config, scores)


def size_of(seed: int, full: bool, train_eras: int | None) -> MarketConfig:
    """The market of a seed; with `train_eras` as many of its eras are train ones, and as many in all as without."""
    size = MarketConfig(seed=seed) if full else MarketConfig.quick(seed=seed)
    if train_eras is None:
        return size
    eras = size.train_eras + size.validation_eras
    return dataclasses.replace(size, train_eras=train_eras, validation_eras=eras - train_eras)


def studied(config: StudyConfig, size: MarketConfig, store: Store) -> Scores:
    """The scores of the study on one market."""
    study = planned(config, size, store)
    found = run(study, references_of(study), for_this_terminal())
    for name, why in found.scores.unfinished.items():
        raise SystemExit(f"{name}: {why}")
    return found.scores


def planned(config: StudyConfig, size: MarketConfig, store: Store) -> Study:
    """The study of one market, whose files are written unless they are there."""
    folder = store.home / "markets" / f"{size.features}-{size.train_eras}-{size.validation_eras}-{size.seed}"
    if not (folder / "market.json").exists():
        write_market(StudyMarket(size), folder)
    files = files_of(folder, store)
    return plan(
        config,
        store=store,
        files=files.data,
        features_file=files.features,
        decoded=files.decoded,
        progress=for_this_terminal(),
    )


def tell(config: StudyConfig, scores: Sequence[Scores]) -> None:
    """A table for each metric: mean, interval, difference from the baseline, and that of each market."""
    horizon = horizon_eras(config.target)
    era_E = np.concatenate([one.era_E + APART * m for m, one in enumerate(scores)])
    fold_E = np.concatenate([one.fold_E + 100 * m for m, one in enumerate(scores)])
    for metric in scores[0].by_metric:
        tables = [one.by_metric[metric] for one in scores if metric in one.by_metric]
        if len(tables) < len(scores):
            continue
        joined = {name: np.concatenate([table[name] for table in tables], axis=1) for name in tables[0]}
        compared = _compared(joined, era_E, fold_E, horizon, config.against)
        print(f"\n| {metric} | mean | 95 % interval | less {config.against} | 95 % interval | p (Holm) | each market |")
        print("|---|---|---|---|---|---|---|")
        for name, score_SE in joined.items():
            print(_line(name, score_SE, compared.get(name), era_E, fold_E, horizon, config.against, tables))
            if metric == PAYOUT and name in compared:
                gain = compared[name].interval
                note = f"95 % interval {gain.low:+.3f} to {gain.high:+.3f}, {len(scores)} markets, {gain.eras} eras"
                claim(f"{name}: payout less that of {config.against}", gain.mean, note=note)


def _compared(
    joined: Mapping[str, F64], era_E: npt.NDArray[np.int64], fold_E: npt.NDArray[np.int64], horizon: int, against: str
) -> dict[str, Difference]:
    given = {name: score_SE[0] if len(score_SE) == 1 else score_SE for name, score_SE in joined.items()}
    found = differences(given, era_E, horizon_eras=horizon, against=against, fold_E=fold_E)
    return {name: one for (name, _), one in found.items()}


def _line(
    name: str,
    score_SE: F64,
    compared: Difference | None,
    era_E: npt.NDArray[np.int64],
    fold_E: npt.NDArray[np.int64],
    horizon: int,
    against: str,
    tables: Sequence[Mapping[str, F64]],
) -> str:
    alone = len(score_SE) == 1
    mean = (
        interval(score_SE[0], era_E, horizon_eras=horizon)
        if alone
        else seed_noise(score_SE, era_E, horizon_eras=horizon, fold_E=fold_E).interval
    )
    cells = [name, f"{mean.mean:+.4f}", f"{mean.low:+.4f} to {mean.high:+.4f}"]
    if compared is not None:
        less = compared.interval
        each = " ".join(f"{np.nanmean(table[name].mean(0) - table[against].mean(0)):+.4f}" for table in tables)
        cells += [f"{less.mean:+.4f}", f"{less.low:+.4f} to {less.high:+.4f}", f"{compared.adjusted_p_value:.2g}", each]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    # OpenMP's threads spin when idle; a neighbour's work would wait for them.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    main()
