"""The `eraflow` command for a round: its JSON, its exit codes, its pipes, and that no secret ever leaves it."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eraflow.request import Request
from eraflow.result import RoundResult
from eraflow.weekly import play
from flows import command
from tests.behaviour.week import READBACK_S, SLOTS, Week, without_report

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--recipe", "simple-mlp", "--set", f"submission.readback_s={READBACK_S}", "--set", "training.device=cpu"]
BOTH = [part for slot in SLOTS for part in ("--model", slot)]
WEEKLY = ["weekly", *BOTH, *QUICK]
LIMIT_S = 120

ROUND_KEYS = {
    "round", "models", "submissions", "report", "seconds", "wall_s", "peak_bytes", "peak_rss_bytes",
    "peak_anonymous_bytes",
}  # fmt: skip
MODEL_KEYS = {"recipe", "device", "rows", "features", "target", "epochs", "refit", "validation"}
VALIDATION_KEYS = {
    "eras", "undefined", "spearman_mean", "spearman_std", "sharpe", "max_drawdown", "numerai_corr_mean",
}  # fmt: skip
SUBMISSION_KEYS = {"model", "recipe", "source", "submission_id", "sha256", "status", "verified", "origin"}

Run = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """The command in this process, without Prefect: its exit code, the JSON of its last line, standard error."""

    def played(request: Request) -> RoundResult:
        return play(request, without_report())

    monkeypatch.setattr("flows.weekly.run_weekly", played)
    logger = logging.getLogger("eraflow")
    before = logger.handlers, logger.level, logger.propagate, logging.raiseExceptions
    sigterm = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
        capsys.readouterr()
        code = command.main([*arguments, "--json"])
        told = capsys.readouterr()
        return code, json.loads(told.out.splitlines()[-1]), told.err

    yield run
    logger.handlers, logger.level, logger.propagate, logging.raiseExceptions = before
    signal.signal(signal.SIGTERM, sigterm)


def test_the_json_has_every_key_of_the_contract(week: Week, run: Run) -> None:
    code, told, _ = run(*WEEKLY)
    assert code == 0
    assert set(told) == {"rounds"}
    (played,) = told["rounds"]
    assert set(played) == ROUND_KEYS
    assert played["round"] == 1401
    (model,) = played["models"]
    assert set(model) >= MODEL_KEYS
    assert set(model["validation"]) == VALIDATION_KEYS
    assert model["epochs"] == 6
    sent = played["submissions"]
    assert [set(one) >= SUBMISSION_KEYS for one in sent] == [True] * 2
    told_of = [tuple(one[key] for key in ("model", "status", "verified", "origin", "source")) for one in sent]
    assert told_of == [(slot, "submitted", "bytes", "own", "fresh") for slot in SLOTS]
    assert set(played["seconds"]) >= {"round", "download", "dataset", "training", "prediction", "submission"}
    assert played["peak_rss_bytes"] >= played["peak_anonymous_bytes"] > 0

    code, told, _ = run(*WEEKLY)
    assert code == 0
    assert [one["status"] for one in told["rounds"][0]["submissions"]] == ["already-submitted"] * 2


@pytest.mark.parametrize(
    ("arguments", "code", "error", "text"),
    [
        (["weekly"], 2, "wrong-input", "no slot"),
        (["weekly", "--model"], 2, "wrong-input", "--model"),
        (["weekly", "--mod", "rehearsal_one"], 2, "wrong-input", "--mod"),
        (["weekly", "--model", "rehearsal_ten", *QUICK], 2, "wrong-input", "rehearsal_ten"),
        (["weekly", *BOTH, "--recipe", "simple"], 2, "wrong-input", "simple-mlp"),
        (["weekly", *BOTH, "--set", "training.epoch=3"], 2, "wrong-input", "epochs"),
        (["weekly", *BOTH, "--set", "training.epochs"], 2, "wrong-input", "key=value"),
        (["weekly", *BOTH, "--config", "nowhere.toml"], 2, "wrong-input", "nowhere.toml"),
        (["weekly", *BOTH, "--data-from", "nowhere"], 2, "wrong-input", "nowhere"),
        (["weekly", *BOTH, "--no-submit", "--resubmit"], 2, "wrong-input", "exclude"),
        (["week"], 2, "wrong-input", "weekly"),
    ],
)
def test_wrong_input_ends_with_2_and_one_line(
    week: Week, run: Run, arguments: list[str], code: int, error: str, text: str
) -> None:
    found, told, err = run(*arguments)
    assert (found, told["error"]["code"]) == (code, error)
    assert text in told["error"]["message"]
    lines = [line for line in err.splitlines() if line.startswith("eraflow: ")]
    assert len(lines) == 1
    assert text in lines[0]
    assert "Traceback" not in err
    assert week.sent() == []
    assert not any(method == "GET" for method, _, _ in week.local.requests)


def test_a_closed_round_ends_with_3(week: Week, run: Run) -> None:
    week.local.close_round()
    code, told, err = run(*WEEKLY)
    assert (code, told["error"]["code"]) == (3, "round-closed")
    assert told["rounds"][0]["error"] == told["error"]
    assert [one["status"] for one in told["rounds"][0]["submissions"]] == ["skipped"] * 2
    assert "1401" in err


@pytest.mark.parametrize("secret", ["", "wrong-key-wrong-key"], ids=["missing", "wrong"])
def test_bad_keys_end_with_4(week: Week, run: Run, monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("NUMERAI_SECRET_KEY", secret)
    code, told, err = run(*WEEKLY)
    assert code == 4
    assert told["error"]["code"] == "credentials"
    assert "NUMERAI_SECRET_KEY" in err
    assert not secret or secret not in err + json.dumps(told)


def test_a_folder_with_a_missing_file_ends_with_5(week: Week, run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, told, _ = run("weekly", "--data-from", str(tmp_path / "empty"), "--no-submit", *QUICK)
    assert (code, told["error"]["code"]) == (5, "data-refused")
    assert told["rounds"][0]["round"] is None
    assert week.local.requests == []


def test_offline_has_no_round_and_skips_each_named_slot(week: Week, run: Run, market_folder: Path) -> None:
    code, told, _ = run("weekly", "--data-from", str(market_folder), "--no-submit", "--model", "mine", *QUICK)
    (played,) = told["rounds"]
    assert (code, played["round"]) == (0, None)
    assert [(one["model"], one["status"]) for one in played["submissions"]] == [("mine", "skipped")]


def test_the_worst_of_several_slots_is_the_exit_code(week: Week, run: Run) -> None:
    week.play(week.request(slots=["rehearsal_one"]))
    week.local.close_round()
    code, told, _ = run(*WEEKLY, "--set", "submission.late=skip")
    # After the deadline what was sent is still seen to be there, and what was not is skipped.
    states = {one["model"]: one["status"] for one in told["rounds"][0]["submissions"]}
    assert (code, states) == (3, {"rehearsal_one": "already-submitted", "rehearsal_two": "skipped"})


@pytest.mark.prefect_server
def test_under_prefect_a_round_is_verified_and_no_secret_is_left_anywhere(week: Week) -> None:
    done = _command(week, *WEEKLY, "--json", "--debug")
    assert done.returncode == 0, done.stderr
    (played,) = json.loads(done.stdout.splitlines()[-1])["rounds"]
    assert [one["verified"] for one in played["submissions"]] == ["bytes"] * 2
    assert Path(played["report"]).is_file()
    assert {slot: len(made) for slot, made in week.accepted().items()} == dict.fromkeys(SLOTS, 1)
    assert b"without Prefect" not in done.stderr
    assert any((week.home / "prefect").rglob("*.db"))
    _no_secrets(week, done)


@pytest.mark.prefect_server
def test_under_prefect_wrong_keys_end_with_4_at_once_and_are_kept_nowhere(week: Week) -> None:
    environment = week.environment | {"NUMERAI_SECRET_KEY": "wrong-key-that-nobody-may-see"}
    done = _command(week, *WEEKLY, "--json", "--debug", environment=environment)
    assert done.returncode == 4, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["error"]["code"] == "credentials"
    # Not tried again: neither by the door nor by a task.
    assert len(week.local.requests) == 1
    _no_secrets(week, done, "wrong-key-that-nobody-may-see")


@pytest.mark.prefect_server
def test_under_prefect_a_refused_file_ends_with_5_and_keeps_no_address(week: Week, tmp_path: Path) -> None:
    page = tmp_path / "page.parquet"
    page.write_text("<html>this is no parquet file</html>")
    week.local.set_file("v5.3/live.parquet", page)
    done = _command(week, *WEEKLY, "--json", "--debug")
    assert done.returncode == 5, done.stderr
    assert "live.parquet" in json.loads(done.stdout.splitlines()[-1])["error"]["message"]
    assert week.sent() == []
    _no_secrets(week, done)


@pytest.mark.prefect_server
def test_readers_that_close_at_once_change_nothing_about_the_round(week: Week) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "flows", *WEEKLY],
        env=_environment(week),
        cwd=week.home.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    child.stderr.close()
    assert child.wait(LIMIT_S) == 0
    assert {slot: len(made) for slot, made in week.accepted().items()} == dict.fromkeys(SLOTS, 1)


def _command(
    week: Week, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments],
        env=_environment(week) | (environment or {}),
        cwd=week.home.parent,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )


def _environment(week: Week) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | {"PYTHONPATH": str(ROOT)} | week.environment


def _no_secrets(week: Week, done: subprocess.CompletedProcess[bytes], *more: str) -> None:
    """No key and no signature in what was printed, nor in any file below the home, Prefect's database included."""
    secrets = [secret.encode() for secret in (week.local.public_id, week.local.secret_key, *more)]
    files = {path: path.read_bytes() for path in week.home.rglob("*") if path.is_file()}
    places = {str(path): data for path, data in files.items()} | {"stdout": done.stdout, "stderr": done.stderr}
    for place, data in places.items():
        assert not any(secret in data for secret in secrets), f"a key is in {place}"
        assert not re.search(rb"signature(=|%3D|\W{1,4})[0-9a-f]{16}", data), f"a signature is in {place}"
