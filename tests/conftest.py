"""What several tests share. Nothing here starts Prefect."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from eraflow.rehearsal.market import Market, MarketConfig
from eraflow.rehearsal.market_files import ROUND_FILES, TRAIN_FILES, WEEK_FILES, write_file
from eraflow.rehearsal.server import LocalTournament

ROOT = Path(__file__).resolve().parents[1]

# A busy machine must not fail a property by its time; on CI the same examples are tried each time.
settings.register_profile(
    "eraflow", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=os.environ.get("CI") == "true"
)
settings.load_profile("eraflow")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests have counted, whichever process they ran in."""
    reports = [one for found in terminalreporter.stats.values() for one in found]
    told = {text for one in reports for name, text in getattr(one, "user_properties", ()) if name == "counted"}
    for line in sorted(told):
        terminalreporter.line(line)


@pytest.fixture
def shared_real() -> Path:
    """The folder of real material beside the checkout; skips where there is none, and fails on CI."""
    folder = ROOT.parent / "shared" / "real"
    if not folder.is_dir():
        reason = f"the real material is not at {folder}"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}, and on CI nothing may be skipped")
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def market_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of one round of a tiny market, in v5.3 layout: 8 features, 20 + 21 eras of about 40 rows."""
    folder = tmp_path_factory.mktemp("market")
    market = Market(MarketConfig(features=8, train_eras=20, validation_eras=20, rows_per_era=40))
    for name in (*TRAIN_FILES, *WEEK_FILES, *ROUND_FILES):
        write_file(market, name, folder / name, week=1, number=1401)
    return folder


@pytest.fixture
def local(tmp_path: Path, market_folder: Path) -> Iterator[LocalTournament]:
    """A local tournament with two free slots and round 1401 open; it serves the files of `market_folder`."""
    with LocalTournament(tmp_path / "tournament", data_from=market_folder) as tournament:
        tournament.open_next_round(delay_s=0)
        yield tournament
