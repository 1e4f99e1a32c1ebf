"""Prefect's surroundings, without Prefect: what the environment says before it is imported."""

from __future__ import annotations

import logging
import stat
import sys
from pathlib import Path

import pytest

from flows import prefect_home


def test_prefects_state_lies_below_the_home_for_its_owner_alone(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    (tmp_path / "prefect").mkdir(mode=0o755)
    prefect_home.prepare(environ, tmp_path)
    assert environ["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert stat.S_IMODE((tmp_path / "prefect").stat().st_mode) == 0o700


def test_prefect_is_quiet_offline_and_persists_nothing(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    prefect_home.prepare(environ, tmp_path)
    assert environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environ["DO_NOT_TRACK"] == "1"
    assert environ["PREFECT_RESULTS_PERSIST_BY_DEFAULT"] == "false"
    assert environ["PREFECT_LOGGING_LEVEL"] == environ["PREFECT_SERVER_LOGGING_LEVEL"] == "ERROR"


def test_the_logging_that_survives_a_closed_pipe_is_shipped_and_used(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    prefect_home.prepare(environ, tmp_path)
    text = Path(environ["PREFECT_LOGGING_CONFIG_PATH"]).read_text(encoding="utf-8")
    classes = {line.split()[1] for line in text.splitlines() if line.strip().startswith("class:")}
    api = {"prefect.logging.handlers.APILogHandler", "prefect.logging.handlers.WorkerAPILogHandler"}
    assert api < classes
    # Prefect's own console handler answers a closed pipe with SystemExit.
    assert classes - api <= {"logging.StreamHandler", "eraflow.progress.LineHandler"}


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    environ = {"PREFECT_HOME": "/somewhere/else", "PREFECT_LOGGING_LEVEL": "DEBUG"}
    prefect_home.prepare(environ, tmp_path)
    assert environ["PREFECT_HOME"] == "/somewhere/else"
    assert environ["PREFECT_LOGGING_LEVEL"] == "DEBUG"


@pytest.mark.parametrize(("level", "name"), [(logging.DEBUG, "DEBUG"), (logging.INFO, "INFO")])
def test_what_debug_asked_for_outlives_the_import_of_prefect(
    tmp_path: Path, level: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("eraflow"), "level", level)
    environ: dict[str, str] = {}
    prefect_home.prepare(environ, tmp_path)
    assert environ["PREFECT_LOGGING_LOGGERS_ERAFLOW_LEVEL"] == name


def test_preparing_imports_no_prefect() -> None:
    # The tests' own process never does, so it is enough to look.
    assert not any(name == "prefect" or name.startswith("prefect.") for name in sys.modules)


def test_an_environment_that_uses_no_proxy_at_all_is_left_so(tmp_path: Path) -> None:
    """A star stands for every host only where it stands alone."""
    environ = {"https_proxy": "http://proxy.invalid:3128", "http_proxy": "http://proxy.invalid:3128", "no_proxy": "*"}
    prefect_home.prepare(environ, tmp_path)
    assert environ["no_proxy"] == "*"
    assert "NO_PROXY" not in environ
