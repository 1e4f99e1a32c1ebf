"""What the dashboard shows of a round: one artifact for each question a user has, with a stable key.

A failed artifact is logged and costs nothing else.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from eraflow import report
from eraflow.files import Files
from eraflow.result import ModelReport, RoundResult, headline
from eraflow.rounds import Round
from eraflow.submission import Receipt

logger = logging.getLogger("eraflow")


@contextmanager
def harmless(what: str) -> Iterator[None]:
    """Whatever goes wrong inside is logged only: a record may never cost a submission."""
    try:
        yield
    except Exception as error:
        logger.warning("the dashboard could not be given the %s (%s)", what, type(error).__name__)


def round_and_deadline(opened: Round) -> None:
    """Key `round`: which round, and until when."""
    rows = {
        "round": opened.number,
        "opened (UTC)": f"{opened.opens_at_utc:%a %Y-%m-%d %H:%M}",
        "on-time deadline (UTC)": f"{opened.closes_at_utc:%a %Y-%m-%d %H:%M}",
        "deadline, this machine's zone": f"{opened.closes_at_utc.astimezone():%a %Y-%m-%d %H:%M %Z}",
    }
    _table("round", [rows], f"Round {opened.number}")


def data(files: Files) -> None:
    """Key `data`: what the data look like and what is new."""
    rows = [
        {
            "file": file.name,
            "rows": file.rows,
            "megabytes": round(file.size_bytes / 1e6, 1),
            "new": "fetched" if file.changed else "kept",
            "sha256": file.sha256[:12],
        }
        for file in (files.train, files.validation, files.live, files.features)
    ]
    _table("data", rows, "The round's files")


def training(model: ModelReport) -> None:
    """Key `training`: the training curve."""
    with harmless("training curve"):
        _markdown("training", f"### {model.recipe}: training\n\n{_picture(report.training_png(model))}")


def validation(model: ModelReport) -> None:
    """Key `validation`: how good the model is, era by era."""
    with harmless("validation"):
        found = model.validation
        table = "| figure | value |\n|---|---|\n" + "".join(
            f"| {name} | {_text(value)} |\n" for name, value in found.items()
        )
        _markdown(
            "validation", f"### {model.recipe}: validation\n\n{_picture(report.validation_png(model))}\n\n{table}"
        )


def checks(receipt: Receipt) -> None:
    """Key `checks`: what the predictions were judged by."""
    rows = [{"check": c.name, "must be": c.must, "found": c.found, "passed": c.passed} for c in receipt.checks]
    if rows:
        _table("checks", rows, f"Slot {receipt.slot}: what the predictions were judged by")


def receipts(result: RoundResult) -> None:
    """Key `receipts`: is this week safe?"""
    rows = [
        {
            "slot": r.slot,
            "status": r.status,
            "verified": r.verified or "no",
            "recipe": r.recipe,
            "submission": r.submission_id,
            "sha256": (r.sha256 or "")[:12],
            "sent (UTC)": r.sent_at_utc,
            "error": r.error_message,
        }
        for r in result.receipts
    ]
    _table("receipts", rows, headline(result))


def _table(key: str, rows: Sequence[dict[str, Any]], text: str) -> None:
    with harmless(key):
        create_table_artifact(table=list(rows), key=key, description=text)


def _markdown(key: str, text: str) -> None:
    create_markdown_artifact(markdown=text, key=key)


def _picture(png: bytes) -> str:
    return f"![picture](data:image/png;base64,{base64.b64encode(png).decode()})"


def _text(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
