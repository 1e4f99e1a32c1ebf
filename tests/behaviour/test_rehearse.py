"""`rehearse`: whole weeks against a tournament of its own, whatever the environment says about the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from eraflow.errors import DataError, InputError
from eraflow.request import Request
from eraflow.result import RoundResult
from eraflow.weekly import play
from flows.rehearse import rehearse
from tests.behaviour.week import READBACK_S, tree, without_report

QUICK = {"submission.readback_s": str(READBACK_S), "training.device": "cpu"}
REAL = {
    # Nobody listens there: whoever used it would fail.
    "ERAFLOW_API_URL": "https://127.0.0.1:9",
    "NUMERAI_PUBLIC_ID": "the-real-public-id",
    "NUMERAI_SECRET_KEY": "the-real-secret-key",
}


@pytest.fixture(autouse=True)
def _without_prefect(monkeypatch: pytest.MonkeyPatch) -> None:
    def played(request: Request) -> RoundResult:
        return play(request, without_report())

    monkeypatch.setattr("flows.weekly.run_weekly", played)


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has real keys; it is the process's own, as for the command."""
    import os

    for name, value in {**REAL, "ERAFLOW_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    return os.environ  # type: ignore[return-value]  # as good as a dict here


def test_each_week_is_a_new_round_and_each_call_goes_on_with_the_next(environ: dict[str, str], tmp_path: Path) -> None:
    first = rehearse(environ, rows=1600, features=8, rounds=2, assignments=QUICK)
    second = rehearse(environ, rows=1600, features=8, assignments=QUICK)
    numbers = [result.round for result in (*first, *second)]
    assert numbers == [1401, 1402, 1403]
    assert [result.exit_code for result in (*first, *second)] == [0, 0, 0]
    assert {receipt.status for result in first for receipt in result.receipts} == {"submitted"}


def test_the_real_keys_and_address_are_never_used_and_come_back(environ: dict[str, str], tmp_path: Path) -> None:
    (result,) = rehearse(environ, rows=1600, features=8, assignments=QUICK)
    assert result.exit_code == 0
    assert {name: environ[name] for name in REAL} == REAL
    assert {Path(name).parts[0] for name in tree(tmp_path / "home")} == {"rehearsal"}
    secrets = [value.encode() for name, value in REAL.items() if "KEY" in name or "ID" in name]
    for path in (tmp_path / "home").rglob("*"):
        assert not path.is_file() or not any(secret in path.read_bytes() for secret in secrets)


def test_a_rehearsal_without_real_keys_leaves_the_environment_without_them(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in REAL:
        monkeypatch.delenv(name)
    assert rehearse(environ, rows=1600, features=8, assignments=QUICK)[0].exit_code == 0
    assert not set(REAL) & set(environ)


@pytest.mark.parametrize("seed", [1, 7])
def test_a_rehearsal_with_faults_submits_all_the_same(environ: dict[str, str], seed: int) -> None:
    results = rehearse(
        environ, rows=1600, features=8, rounds=2, fault_seed=seed, slots=["one", "two"], assignments=QUICK
    )
    assert [result.exit_code for result in results] == [0, 0]
    assert [receipt.status for result in results for receipt in result.receipts] == ["submitted"] * 4


def test_a_rehearsal_on_real_files_submits_their_198_live_ids(environ: dict[str, str], shared_real: Path) -> None:
    (result,) = rehearse(environ, data_from=shared_real / "rounds_2017", assignments=QUICK)
    (receipt,) = result.receipts
    assert (receipt.status, receipt.verified) == ("submitted", "bytes")
    rows = next(check for check in receipt.checks if check.name == "rows")
    assert rows.found == "198"


def test_a_rehearsal_that_changes_its_market_goes_on_with_the_new_files(environ: dict[str, str]) -> None:
    every = QUICK | {"data.feature_set": "all"}
    first = rehearse(environ, rows=1600, features=8, assignments=every)[0]
    second = rehearse(environ, rows=2000, features=12, assignments=every)[0]
    assert [result.exit_code for result in (first, second)] == [0, 0]
    assert [result.models[0].features for result in (first, second)] == [8, 12]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"rounds": 0}, "--rounds"),
        ({"rows": 10}, "--rows"),
        ({"features": 1}, "--features"),
        ({"data_from": Path("nowhere")}, "--data-from"),
        ({"recipe": "simple"}, "simple-mlp"),
        ({"assignments": {"training.epoch": "1"}}, "epochs"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(
    environ: dict[str, str], tmp_path: Path, wrong: dict[str, object], text: str
) -> None:
    with pytest.raises(InputError, match=text):
        rehearse(environ, **wrong)  # type: ignore[arg-type]  # each of its own kind
    assert not any((tmp_path / "home").rglob("tournament.json"))


def test_a_folder_without_the_files_is_refused_before_the_tournament_starts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    environ = {"ERAFLOW_HOME": str(tmp_path / "home")}
    with pytest.raises(DataError, match=r"train\.parquet is missing"):
        rehearse(environ, data_from=tmp_path / "empty")
    assert not (tmp_path / "home" / "rehearsal" / "tournament").exists()
