"""A week to play in tests: a local tournament, a home, and runs in this process or in one that is killed."""

from __future__ import annotations

import dataclasses
import faulthandler
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from eraflow.progress import Progress, silent
from eraflow.receipt import Receipt
from eraflow.rehearsal import Fault, LocalTournament, Submission
from eraflow.request import Request, make_request
from eraflow.result import RoundResult
from eraflow.store import PARTIAL
from eraflow.weekly import Steps, plain_steps, play

SLOTS = ("rehearsal_one", "rehearsal_two")
# A lost answer is looked for this long, in place of a minute [s].
READBACK_S = 1
PATIENCE_S = 120.0
SENDING = ("submissionUploadAuth", "createSubmission")

# Children come from a process that has imported everything and runs no thread: a fork of this one would inherit the
# locks of the tournament's threads and of torch.
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(
    ["tests.behaviour.week", "torch._dynamo", "numerapi", "pandas", "safetensors.torch", "pyarrow.parquet"]
)


@dataclass
class Week:
    """One account's week: where it submits to, and where it keeps its files."""

    local: LocalTournament
    home: Path
    seen: int = field(default=0)

    @property
    def environment(self) -> dict[str, str]:
        """What points a process at the local tournament."""
        return {
            "ERAFLOW_API_URL": self.local.url,
            "NUMERAI_PUBLIC_ID": self.local.public_id,
            "NUMERAI_SECRET_KEY": self.local.secret_key,
            "ERAFLOW_HOME": str(self.home),
        }

    def request(
        self, *, slots: Sequence[str] = SLOTS, recipe: str | None = "simple-mlp", home: Path | None = None,
        late: str = "skip", data_from: Path | None = None, submit: bool = True, resubmit: bool = False,
        config_file: Path | None = None, assignments: Mapping[str, str] | None = None,
    ) -> Request:  # fmt: skip
        """A request for both slots unless told otherwise."""
        return make_request(
            home=home or self.home,
            config_file=config_file,
            recipe=recipe,
            slots=slots,
            assignments={
                "submission.readback_s": str(READBACK_S),
                "submission.late": late,
                "training.device": "cpu",
                **(assignments or {}),
            },
            submit=submit,
            resubmit=resubmit,
            data_from=data_from,
        )

    def play(self, request: Request | None = None, *, steps: Steps | None = None) -> RoundResult:
        """Play the round here and now, without its report unless the steps have it."""
        return play(request or self.request(), steps or without_report())

    def sent(self) -> list[str]:
        """What was sent since the last call of this: names of mutations and PUTs, in order."""
        new = self.local.requests[self.seen :]
        self.seen += len(new)
        return [root or method for method, _, root in new if method == "PUT" or root in SENDING]

    def accepted(self) -> dict[str, list[Submission]]:
        """Slot -> what the tournament accepted for the latest round, carried-over ones left out."""
        number = self.local.open_round()
        found: dict[str, list[Submission]] = {}
        for one in self.local.accepted(number):
            if not one.carried_over:
                found.setdefault(one.slot, []).append(one)
        return found

    def start(self, request: Request | None = None, hold: Hold | None = None) -> ForkServerProcess:
        """Play the round in another process."""
        child = CHILDREN.Process(target=_played, args=(self.environment, request or self.request(), hold), daemon=True)
        child.start()
        return child

    def kill_when(self, reached: Callable[[], bool], request: Request | None = None, hold: Hold | None = None) -> None:
        """Play the round in another process and end it by SIGKILL as soon as `reached` says so."""
        child = self.start(request, hold)
        try:
            wait_until(lambda: reached() or not child.is_alive())
            assert child.is_alive(), f"the run ended by itself with {child.exitcode}"
        finally:
            child.kill()
            child.join()
        self.local.faults.clear()

    def struck(self, fault: Fault) -> bool:
        return fault in self.local.faults.struck


@dataclass(frozen=True)
class Hold:
    """A progress that stops for ever in the n-th call of a stage, after writing `marker`."""

    stage: str
    marker: Path
    call: int = 1
    text: str = ""
    """Only calls whose text begins like this are counted."""


def without_report(progress: Progress = silent) -> Steps:
    """The plain steps with a report that draws nothing: pictures have tests of their own."""
    return dataclasses.replace(plain_steps(progress), report=lambda request, result: request.home / "report.html")


def wait_until(reached: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait until `reached` says so, and fail after `patience_s` [s]."""
    started = time.monotonic()
    while not reached():
        assert time.monotonic() - started < patience_s, "it never came so far"
        time.sleep(0.01)


def by_slot(result: RoundResult) -> dict[str, Receipt]:
    """Slot -> its receipt."""
    return {receipt.slot: receipt for receipt in result.receipts}


def tree(folder: Path) -> set[str]:
    """Every file below `folder` but locks, by its path there."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in files if not path.name.endswith(".lock")}


def half_written(folder: Path) -> list[Path]:
    """Files that a killed process left below `folder`."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in found if any(part.startswith(PARTIAL) for part in path.relative_to(folder).parts)]


def _played(environment: Mapping[str, str], request: Request, hold: Hold | None) -> None:
    import torch

    # Where it stands, should it never come so far.
    faulthandler.dump_traceback_later(PATIENCE_S / 2)
    os.environ.update(environment)
    torch.set_num_threads(1)
    progress = _held(hold) if hold else silent
    sys.exit(play(request, without_report(progress)).exit_code)


def _held(hold: Hold) -> Progress:
    calls = 0

    def progress(stage: str, done: float, total: float, text: str = "") -> None:
        nonlocal calls
        if stage.startswith(hold.stage) and text.startswith(hold.text):
            calls += 1
            if calls == hold.call:
                hold.marker.touch()
                time.sleep(PATIENCE_S)

    return progress
