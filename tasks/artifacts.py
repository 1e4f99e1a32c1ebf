"""What the dashboard shows of a round: one artifact for each question a user has, with a key that stays.

    round                   which round, and until when
    data                    what the data look like, and what is new
    training-<recipe>       the training curve
    validation-<recipe>     how good the model is, era by era
    checks                  what the predictions were judged by
    receipts                is this week safe?

Whatever fails here is logged and costs nothing else. Pictures go into Markdown, which is the one kind that shows
them, and stay below 300 kB, because a list of artifacts carries all of their data.
"""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.settings import PREFECT_API_URL

from eraflow.files import Files
from eraflow.report import FIGURES, training_png, validation_png
from eraflow.result import ModelReport, RoundResult
from eraflow.rounds import Round
from eraflow.verdict import verdict
from tasks.health import answers

logger = logging.getLogger("eraflow")

T = TypeVar("T")
MAX_PICTURE_BYTES = 300_000


def show(what: str, call: Callable[[], T]) -> T | None:
    """Let `call` tell the dashboard something; None if it could not, for a record may never cost a submission."""
    try:
        # A server that has gone would hold up a call for many seconds.
        if not answers(PREFECT_API_URL.value() or ""):
            raise ConnectionError("its server does not answer")
        return call()
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        logger.warning("the dashboard could not be given the %s (%s: %s)", what, type(error).__name__, reason)
        return None


def round_and_deadline(opened: Round) -> None:
    """Key `round`: which round, and until when."""
    row = {
        "round": opened.number,
        "opened (UTC)": f"{opened.opens_at_utc:%a %Y-%m-%d %H:%M}",
        "on-time deadline (UTC)": f"{opened.closes_at_utc:%a %Y-%m-%d %H:%M}",
        "deadline, this machine's zone": f"{opened.closes_at_utc.astimezone():%a %Y-%m-%d %H:%M %Z}",
    }
    _table("round", [row], f"Round {opened.number}")


def data(files: Files) -> None:
    """Key `data`: what the data look like, and what is new."""
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
    _table("data", rows, f"The files of round {files.round}" if files.round is not None else "Local files")


def training(model: ModelReport) -> None:
    """Key `training-<recipe>`: the training curve."""
    text = f"{model.rows:,} rows, {model.features:,} features, target {model.target}, on {model.device}"
    _markdown("training", model, lambda: f"{text}\n\n{_picture(training_png(model))}")


def validation(model: ModelReport) -> None:
    """Key `validation-<recipe>`: how good the model is, era by era."""

    def text() -> str:
        figures = [(name, model.validation.get(key)) for key, name in FIGURES.items()]
        figures += [("untrained mean era Spearman", model.untrained_spearman)]
        figures += [(f"eras {key}", model.validation.get(known)) for key, known in _ERAS.items()]
        lines = ["| figure | value |", "|---|---|", *(f"| {name} | {_figure(value)} |" for name, value in figures)]
        return "\n".join([_picture(validation_png(model)), "", *lines])

    _markdown("validation", model, text)


_ERAS = {"scored": "eras", "undefined": "undefined"}


def checks(result: RoundResult) -> None:
    """Key `checks`: what the predictions were judged by, for every slot that sent some now."""
    rows = [
        {"slot": receipt.slot, "check": c.name, "must be": c.must, "found": c.found, "passed": c.passed}
        for receipt in result.receipts
        for c in receipt.checks
    ]
    if rows:
        _table("checks", rows, f"Checks before sending, round {result.round}")


def receipts(result: RoundResult) -> None:
    """Key `receipts`: is this week safe?"""
    rows = [
        {
            "slot": r.slot,
            "status": r.status,
            "verified": r.verified or "no",
            "recipe": r.recipe,
            "origin": r.origin,
            "submission": r.submission_id,
            "sha256": (r.sha256 or "")[:12],
            "sent (UTC)": r.sent_at_utc,
            "error": r.error_message,
        }
        for r in result.receipts
    ]
    _table("receipts", rows, verdict(result).sentence)


def _table(key: str, rows: Sequence[dict[str, Any]], text: str) -> None:
    show(f"artifact {key}", lambda: create_table_artifact(table=list(rows), key=key, description=text))


def _markdown(kind: str, model: ModelReport, text: Callable[[], str]) -> None:
    key = f"{kind}-{re.sub('[^a-z0-9]+', '-', model.recipe.lower())}"
    title = f"### {model.recipe}: {kind}"
    show(f"artifact {key}", lambda: create_markdown_artifact(markdown=f"{title}\n\n{text()}", key=key))


def _picture(png: bytes) -> str:
    if len(png) > MAX_PICTURE_BYTES:
        return f"The picture ({len(png):,} bytes) is too large for the dashboard; the round's report has it."
    return f"![picture](data:image/png;base64,{base64.b64encode(png).decode()})"


def _figure(value: object) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4f}" if isinstance(value, float) else f"{value}"
