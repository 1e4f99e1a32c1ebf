"""The temporary server: quick to tell its address, closed to strangers, and gone with its parent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import requests

from flows.temporary_server import temporary_server
from tasks.health import answers
from tests.real_prefect import PrefectServer, clean_environment, processes_of, with_database

pytestmark = pytest.mark.prefect_server
SECRET = "s3cr3t-of-the-account"


@pytest.fixture
def home(tmp_path: Path, prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = with_database(tmp_path / "home", prefect_server)
    for name, value in {
        "ERAFLOW_HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "NUMERAI_SECRET_KEY": SECRET,
    }.items():
        monkeypatch.setenv(name, value)
    return home


def test_a_temporary_server_answers_its_parent_alone_and_ends_with_the_block(home: Path) -> None:
    with temporary_server() as url:
        (process,) = processes_of(home)
        assert answers(url, timeout_s=60), "requests that come before it is ready wait for it"
        foreign = requests.get(f"{url}/health", headers={"Origin": "http://evil.example"}, timeout=10)
        assert "access-control-allow-origin" not in foreign.headers
        assert SECRET.encode() not in Path(f"/proc/{process}/environ").read_bytes()
    assert not answers(url)
    assert processes_of(home) == {}


def test_an_error_inside_the_block_ends_it_too_even_before_it_is_ready(home: Path) -> None:
    with pytest.raises(ZeroDivisionError), temporary_server():
        raise ZeroDivisionError
    assert processes_of(home) == {}


def test_a_damaged_database_is_told_in_lines_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_bytes(b"not a database " * 1000)
    environment = {**clean_environment(), "PREFECT_HOME": str(tmp_path)}
    program = str(sys.modules[temporary_server.__module__].__file__)
    with subprocess.Popen(
        [sys.executable, "-P", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert server.stderr is not None
        told = server.stderr.read()  # until it has ended
    assert "file is not a database" in told
    assert "move it away" in told
    assert "Traceback" not in told
    assert "Fatal" not in told
