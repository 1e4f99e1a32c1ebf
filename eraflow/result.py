"""What a round came to, as one value that is printed, stored and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eraflow.errors import EraflowError, worst_exit_code
from eraflow.receipt import Receipt


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """One trained model: figures for people and for the JSON output."""

    recipe: str
    model_id: str
    folder: Path
    device: str
    rows: int
    """Training rows after the purge."""
    features: int
    target: str
    epochs: int | None
    """None where steps rule."""
    refit: bool
    validation: Mapping[str, Any]
    untrained_spearman: float | None
    """Mean era Spearman of the same network before training."""
    best_reachable_spearman: float | None = None
    """What nobody can beat on this hold-out; known for a synthetic market only."""
    notes: tuple[str, ...] = ()
    cut: bool = False
    """There was no time to finish its training."""
    made_at_utc: str | None = None


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """Everything that one round's run can tell."""

    round: int | None
    opens_at_utc: str | None = None
    closes_at_utc: str | None = None
    models: tuple[ModelReport, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_rss_bytes: int | None = None
    peak_anonymous_bytes: int | None = None
    report: Path | None = None
    error: Mapping[str, Any] | None = None
    """`code`, `message` and `exit_code` of what stopped the whole round."""

    @property
    def exit_code(self) -> int:
        """The worst of the round's own and its slots' exit codes."""
        codes = [receipt.exit_code for receipt in self.receipts]
        return worst_exit_code([*codes, int(self.error["exit_code"])] if self.error else codes)


def error_entry(error: EraflowError) -> dict[str, Any]:
    """The stable form of an error."""
    return {"code": error.code, "message": error.message, "exit_code": error.exit_code}


RECEIPT_KEYS = (
    "recipe",
    "source",
    "model_id",
    "submission_id",
    "sha256",
    "status",
    "verified",
    "origin",
    "sent_at_utc",
)


def json_object(result: RoundResult) -> dict[str, Any]:
    """The object of one round in the JSON of `weekly` and `rehearse`; its keys are part of the contract."""
    found: dict[str, Any] = {
        "round": result.round,
        "models": [_model(model) for model in result.models],
        "submissions": [_submission(receipt) for receipt in result.receipts],
        "report": str(result.report) if result.report else None,
        "seconds": {stage: round(seconds, 3) for stage, seconds in result.seconds.items()},
        "peak_rss_bytes": result.peak_rss_bytes,
        "peak_anonymous_bytes": result.peak_anonymous_bytes,
    }
    error = result.error or next(
        (
            {"code": receipt.error_code, "message": receipt.error_message}
            for receipt in result.receipts
            if receipt.exit_code and receipt.exit_code == result.exit_code
        ),
        None,
    )
    if error:
        found["error"] = {"code": error["code"], "message": error["message"]}
    return found


def _model(model: ModelReport) -> dict[str, Any]:
    keys = (
        "recipe",
        "device",
        "rows",
        "features",
        "target",
        "epochs",
        "refit",
        "model_id",
        "cut",
        "made_at_utc",
        "untrained_spearman",
        "best_reachable_spearman",
    )
    return {
        **{key: getattr(model, key) for key in keys},
        "validation": dict(model.validation),
        "notes": list(model.notes),
    }


def _submission(receipt: Receipt) -> dict[str, Any]:
    found: dict[str, Any] = {
        "model": receipt.slot,
        **{key: getattr(receipt, key) for key in RECEIPT_KEYS},
    }
    if receipt.note:
        found["note"] = receipt.note
    if receipt.error_code:
        found["error"] = {"code": receipt.error_code, "message": receipt.error_message}
    return found


def summary_text(result: RoundResult) -> str:
    """The round for people: the models, each slot's receipt, and where the report is."""
    lines = [f"round {result.round}" if result.round is not None else "no round"]
    for model in result.models:
        found = model.validation
        lines.append(
            f"  model {model.recipe}: {model.rows:,} rows x {model.features} features, target {model.target},"
            f" on {model.device}"
        )
        lines.append(
            f"    mean era Spearman {_figure(found['spearman_mean'])} (untrained {_figure(model.untrained_spearman)}),"
            f" Sharpe {_figure(found['sharpe'])}, {found['eras']} eras scored, {found['undefined']} undefined"
        )
        if model.best_reachable_spearman is not None:
            lines.append(f"    best reachable in this market {_figure(model.best_reachable_spearman)}")
        lines += [f"    note: {note}" for note in model.notes]
    lines += [f"  {_receipt_text(receipt)}" for receipt in result.receipts]
    if result.report:
        lines.append(f"  report {result.report}")
        lines.append(f"  picture {result.report.with_name('week.png')}")
    return "\n".join(lines)


def _receipt_text(receipt: Receipt) -> str:
    if receipt.submission_id is None:
        return f"slot {receipt.slot}: {receipt.status}"
    state = f"verified by {receipt.verified}" if receipt.verified else "NOT VERIFIED"
    foreign = ", made by somebody else" if receipt.origin == "foreign" else ""
    source = f" ({receipt.source})" if receipt.source not in (None, "fresh") else ""
    note = f"\n    note: {receipt.note}" if receipt.note else ""
    return (
        f"slot {receipt.slot}: {receipt.status}{foreign}, {state}\n"
        f"    submission {receipt.submission_id}, sha256 {receipt.sha256 or 'unknown'}, recipe {receipt.recipe}{source}"
        f"{note}"
    )


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
