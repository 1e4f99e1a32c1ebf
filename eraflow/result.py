"""What a round came to, as one value that is printed, stored and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eraflow.errors import EraflowError, worst_exit_code
from eraflow.measure import Cost
from eraflow.pace import speed_text
from eraflow.receipt import Receipt

STAGES = {
    "waiting": "for the round to open",
    "round": "what is open and what is there",
    "download": "getting and verifying the files",
    "dataset": "decoding them into matrices",
    "training": "fitting without the hold-out",
    "validation": "scoring the hold-out",
    "refit": "fitting again on all eras",
    "prediction": "predicting the live rows",
    "submission": "sending and reading back",
    "report": "drawing the report",
}
"""What a run does in each of its stages, in their order."""


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
    """Mean era Spearman of the same network before training, on `untrained_eras` of the hold-out."""
    untrained_eras: int | None = None
    """Evenly spread ones; None if it is not known, and then it was all of them."""
    best_reachable_spearman: float | None = None
    """What nobody can beat on this hold-out; known for a synthetic market only."""
    notes: tuple[str, ...] = ()
    cut: bool = False
    """There was no time to finish its training."""
    made_at_utc: str | None = None
    rows_a_second: float | None = None
    """Of its training (the median over epochs), as the two shares below; None for one that was over in a moment."""
    share_of_products: float | None = None
    """Of the speed that this machine's matrix products alone would have had."""
    share_of_cores: float | None = None
    """Of the time in which its threads wanted a core; None where the system does not tell."""
    costs: Mapping[str, Cost] = field(default_factory=dict)
    """What training, validation and refit took in this run."""

    @property
    def speed_text(self) -> str:
        """Empty where nothing is known."""
        return speed_text({"rows_a_second": self.rows_a_second, "share_of_products": self.share_of_products})


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """Everything that one round's run can tell."""

    round: int | None
    opens_at_utc: str | None = None
    closes_at_utc: str | None = None
    models: tuple[ModelReport, ...] = ()
    receipts: tuple[Receipt, ...] = ()
    costs: Mapping[str, Cost] = field(default_factory=dict)
    """What each stage took (`STAGES`)."""
    wall_s: float | None = None
    """The whole run, between the stages too [s]."""
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

    @property
    def between_stages_s(self) -> float | None:
        """The time that belongs to no stage [s]."""
        return None if self.wall_s is None else max(0.0, self.wall_s - sum(c.seconds for c in self.costs.values()))

    def share_of_time(self, stage: str) -> float:
        """Of all stages but the waiting for a round, which may take hours and has none."""
        busy_s = sum(cost.seconds for name, cost in self.costs.items() if name != "waiting")
        return 0.0 if stage == "waiting" or not busy_s else self.costs[stage].seconds / busy_s


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
        "seconds": {stage: round(cost.seconds, 3) for stage, cost in result.costs.items()},
        "wall_s": None if result.wall_s is None else round(result.wall_s, 3),
        "peak_bytes": {
            stage: {"rss": cost.peak_rss_bytes, "anonymous": cost.peak_anonymous_bytes}
            for stage, cost in result.costs.items()
        },
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
        "untrained_eras",
        "best_reachable_spearman",
        "rows_a_second",
        "share_of_products",
        "share_of_cores",
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
        if model.speed_text:
            lines.append(f"    trained at {model.speed_text}")
        lines += [f"    note: {note}" for note in model.notes]
    lines += [f"  {_receipt_text(receipt)}" for receipt in result.receipts]
    if result.wall_s is not None:
        lines.append(f"  {_cost_text(result, result.wall_s)}")
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


def _cost_text(result: RoundResult, wall_s: float) -> str:
    """`time 8.6 s (training 5.9, report 1.5, download 0.4), memory 583 MiB at most`."""
    longest = sorted(result.costs.items(), key=lambda item: -item[1].seconds)[:3]
    told = ", ".join(f"{stage} {cost.seconds:,.1f}" for stage, cost in longest)
    memory = "" if result.peak_rss_bytes is None else f", memory {result.peak_rss_bytes / 2**20:,.0f} MiB at most"
    return f"time {wall_s:,.1f} s ({told}){memory}" if told else f"time {wall_s:,.1f} s{memory}"


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
