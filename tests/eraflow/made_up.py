"""Rounds, receipts and trained models made up for the report's tests; nothing is trained."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from eraflow import recipes
from eraflow.checks import Check
from eraflow.config import to_table, to_toml
from eraflow.measure import Cost
from eraflow.receipt import Receipt
from eraflow.result import ModelReport, RoundResult
from eraflow.store import utc_text, write_json
from eraflow.trained import EraScore, Trained, Validation

OPENS = datetime(2026, 11, 21, 12, 4, 8, tzinfo=UTC)
CLOSES = datetime(2026, 11, 22, 14, 0, 0, tzinfo=UTC)
ERROR = {"code": "data-refused", "message": "train.parquet must have a column era, however it has none", "exit_code": 5}


def model_of(
    folder: Path,
    scores: Sequence[float | None] = (0.02, -0.01, 0.05),
    *,
    recipe: str = "simple-mlp",
    members: int = 1,
    notes: tuple[str, ...] = (),
    eras_examined: int | None = None,
) -> ModelReport:
    """A model folder as `trained.train` leaves it, without weights, and its report."""
    known = [score for score in scores if score is not None]
    mean = sum(known) / len(known) if known else None
    validation = Validation(
        eras=len(known),
        undefined=len(scores) - len(known),
        spearman_mean=mean,
        spearman_std=0.02 if known else None,
        sharpe=None,
        max_drawdown=0.01 if known else None,
        numerai_corr_mean=mean,
        per_era=tuple(
            EraScore(era=575 + i, rows=100, spearman=score, numerai_corr=score) for i, score in enumerate(scores)
        ),
    )
    history = tuple(
        {
            "epoch": e,
            "step": 50 * e,
            "train_loss": 1 / e,
            "validation_loss": 1.1 / e,
            "spearman_mean": mean,
            "eras": eras_examined,
        }
        for e in (1, 2, 3)
    )
    made = Trained(
        model_id=f"{recipe}-024d6879acf5",
        folder=folder,
        recipe=recipes.get(recipe),
        features=("feature_a", "feature_b"),
        train_sha256="0" * 64,
        validation_sha256="1" * 64,
        target_equals=None,
        purged_eras=8,
        rows=10777,
        eras=77,
        refit_rows=None,
        steps=150,
        device="cpu",
        validation=validation,
        untrained_spearman=None if mean is None else -0.001,
        histories=(history,) * members,
        seconds=1.0,
        versions={},
        notes=notes,
        predicting=tuple(f"holdout-{m}" for m in range(members)),
        cut=False,
        data_version="v5.3",
        made_at_utc="2026-08-22T12:30:00+00:00",
    )
    folder.mkdir(parents=True, exist_ok=True)
    told = dataclasses.asdict(made)
    del told["folder"], told["recipe"]
    write_json(folder / "model.json", told)
    (folder / "recipe.toml").write_text(to_toml(to_table(made.recipe)))
    return ModelReport(
        recipe=recipe,
        model_id=made.model_id,
        folder=folder,
        device="cpu",
        rows=made.rows,
        features=2,
        target="target",
        epochs=made.recipe.training.epochs,
        refit=False,
        validation=validation.figures(),
        untrained_spearman=made.untrained_spearman,
        notes=notes,
    )


def sent(slot: str = "main", after: timedelta = timedelta(hours=2), **changes: Any) -> Receipt:
    """A receipt of a submission that was sent so long after the opening, and read back."""
    moment = OPENS + after
    check = Check(name="rows", must="one for each of the 6,712 live ids", found="6,712", passed=True)
    known: dict[str, Any] = {
        "round": 1432,
        "slot": slot,
        "recipe": "simple-mlp",
        "source": "fresh",
        "status": "submitted",
        "submission_id": "4d56d93d-36a1-557a-9a1a-bd47b506c7b8",
        "sha256": "1da7c9b6814f" + "0" * 52,
        "verified": "bytes",
        "origin": "own",
        "sent_at_utc": utc_text(moment),
        "left_s": (CLOSES - moment).total_seconds(),
        "checks": (check,),
    }
    return Receipt(**known | changes)


def failed(slot: str = "second", message: str = "the tournament must answer, however it did not") -> Receipt:
    """A receipt of a slot that nothing was sent for."""
    return Receipt(
        round=1432,
        slot=slot,
        recipe="simple-mlp",
        source=None,
        status="failed",
        error_code="tournament-unreachable",
        error_message=message,
        exit_code=1,
    )


def skipped(slot: str = "main") -> Receipt:
    return Receipt(round=None, slot=slot, recipe="simple-mlp", source=None, status="skipped")


def round_of(*receipts: Receipt, **changes: Any) -> RoundResult:
    """Round 1432, open for 25 h 56 min."""
    known: dict[str, Any] = {
        "round": 1432,
        "opens_at_utc": utc_text(OPENS),
        "closes_at_utc": utc_text(CLOSES),
        "receipts": receipts,
        "costs": {
            "download": Cost(seconds=41.23),
            "training": Cost(seconds=812.4, peak_rss_bytes=3 << 30, peak_anonymous_bytes=1 << 30),
        },
        "wall_s": 860.0,
        "peak_rss_bytes": 3 << 30,
        "peak_anonymous_bytes": 1 << 30,
    }
    return RoundResult(**known | changes)


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG [px]; fails if it is none."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[-12:] == b"\x00\x00\x00\x00IEND\xaeB`\x82"
    width, height = struct.unpack(">II", data[16:24])
    return int(width), int(height)
