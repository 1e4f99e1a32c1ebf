"""A study on the market for studies: which share of the best possible score each candidate reached.

Only there is the best score known: by `market.json` beside the study's data the market is made again, and with it the
oracle `fixed`, which knows what the eras of a fold's training paid on average: the most that a model can have that is
fitted to them once. Read `shares`; what the oracle knows: `eraflow.rehearsal.market_oracle`.

Not done: a bound for a recipe that weights eras, which may know more than an average (`best` bounds that), and one for
BMC where the study's benchmark is made for another target.

    <home>/studies/<study>/oracle.json    the oracle's scores by era; made again where the market or the folds differ

Shape letters: N rows of an era, E eras, S seeds.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eraflow.errors import DataError
from eraflow.prepared import NUMERAI_CORR, SPEARMAN
from eraflow.rehearsal.market_files import BENCHMARKS
from eraflow.rehearsal.market_oracle import oracles
from eraflow.rehearsal.study_market import StudyMarket, read_market
from eraflow.store import write_json
from eraflow.study.exposure import FNC
from eraflow.study.plan import Study
from eraflow.study.scores import BMC, MMC, PAYOUT, Scores
from eraflow.uncertainty import Interval, share

F64 = npt.NDArray[np.float64]
ORACLE = "oracle.json"
BOUNDED = (SPEARMAN, NUMERAI_CORR, MMC, BMC, PAYOUT, FNC)
"""Scores that an oracle has; of these a study gives those that its data define."""
# Changes with what the oracle is, so that scores of an earlier one are not read.
_FORMAT = 1


def shares(study: Study, scores: Scores) -> dict[str, dict[str, Interval]]:
    """Metric -> candidate -> its share of the oracle's mean, with a 95 % interval (`uncertainty.share`).

    Empty where the data are of no market for studies, or the target is none of its. Takes 0.04 s an era at 5,000 rows x
    310 features, and 0.2 s with feature-neutral CORR; a second time nothing. Payout is bounded by the study's own
    multipliers, and the oracle's is clipped as a candidate's is, era by era: where the clip binds, its prediction is
    the best one for a payout without a clip. Raises `InputError` for a `market.json` that describes no market,
    `DataError` where the study's data are not of that market.
    """
    market = read_market(study.features_file.parent)
    if market is None or study.target not in market.targets or not len(scores.era_E):
        return {}
    _require_same(market, study, int(scores.era_E[0]))
    metrics = [name for name in BOUNDED if name in scores.by_metric and _bounded(name, study)]
    oracle = oracle_scores(market, study, scores, neutral=FNC in metrics)
    horizon = study.horizon_eras
    return {
        metric: {
            name: share(score_SE, oracle[metric], scores.era_E, horizon_eras=horizon, fold_E=scores.fold_E)
            for name, score_SE in scores.by_metric[metric].items()
        }
        for metric in metrics
    }


def oracle_scores(market: StudyMarket, study: Study, scores: Scores, *, neutral: bool) -> dict[str, F64]:
    """Metric -> the oracle's score `[E]` in each era of `scores`, from the study's folder where it is known there."""
    key = _key(market, study, scores, neutral)
    path = study.folder / ORACLE
    if kept := _kept(path, key):
        return kept
    found = _made(market, study, scores, neutral)
    plain = {name: [x if math.isfinite(x) else None for x in score_E.tolist()] for name, score_E in found.items()}
    write_json(path, {"key": key, "eras": scores.era_E.tolist(), "scores": plain})
    return found


def _kept(path: Path, key: str) -> dict[str, F64] | None:
    try:
        told = json.loads(path.read_bytes())
        if told["key"] != key:
            return None
        return {name: np.asarray(values, np.float64) for name, values in told["scores"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None  # never made, or damaged: made again


def _made(market: StudyMarket, study: Study, scores: Scores, neutral: bool) -> dict[str, F64]:
    """Fold by fold: each oracle knows the eras that its fold was trained on."""
    pays = study.config.payout
    found: dict[str, list[F64]] = {}
    for fold in study.folds:
        eras = scores.era_E[scores.fold_E == fold.number].tolist()
        # Of a stride too: what the eras between pay is hardly news.
        known = range(int(fold.train_E[0]), int(fold.train_E[-1]) + 1)
        multipliers = [pays.factor * pays.corr, pays.factor * pays.mmc] if _pays(study) else [1.0, 0.0]
        table = oracles(
            market, eras, column=study.target, known=known, multipliers=multipliers, neutral=neutral
        )["fixed"]  # fmt: skip
        for name in table:
            found.setdefault(str(name), []).append(table[name].to_numpy(np.float64))
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    return joined | {PAYOUT: np.clip(joined[PAYOUT], -pays.clip, pays.clip)}


def _bounded(metric: str, study: Study) -> bool:
    if metric == BMC:
        target = "target_ender_60" if study.target == "target" else study.target
        return BENCHMARKS.get(study.config.benchmark) == target
    return metric != PAYOUT or _pays(study)


def _pays(study: Study) -> bool:
    """The oracle knows how to order stocks for positive multipliers alone."""
    pays = study.config.payout
    return pays.factor > 0 and pays.corr >= 0 and pays.mmc >= 0 and pays.corr + pays.mmc > 0


def _key(market: StudyMarket, study: Study, scores: Scores, neutral: bool) -> str:
    decides: list[Any] = [
        _FORMAT,
        _plain(asdict(market.config)),
        study.target,
        _plain(asdict(study.config.payout)),
        neutral,
        [[fold.number, int(fold.train_E[0]), int(fold.train_E[-1])] for fold in study.folds],
        scores.era_E.tolist(),
        scores.fold_E.tolist(),
    ]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:24]


def _plain(table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(table.items())


def _require_same(market: StudyMarket, study: Study, era: int) -> None:
    """An era's targets, row by row: of two markets they never agree."""
    ours_N = np.concatenate([one.column(study.target)[one.era_N == era] for one in study.stored])
    if not np.array_equal(ours_N, market.era(era).targets[study.target]):
        raise DataError(
            f"{study.features_file.parent}/market.json must describe the market of the files beside it, however the"
            f" targets of era {era} differ; write the market again, or take the file away"
        )
