"""What `eraflow study` leaves: its page beside its files, and an artifact whose charts both user interfaces show."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.browser import browser
from tests.eraflow.study.conftest import studied_folder
from tests.flows.test_study import STUDY
from tests.real_prefect import PrefectServer, clean_environment, last_json, prefect_server, run

__all__ = ["prefect_server", "studied_folder"]

pytestmark = pytest.mark.prefect_server
# One condition, asked until it holds: an interface may draw the text again when the rest of it has arrived, and between
# two questions the pictures are gone for a moment.
SHOWN = """(widths => widths.length === 3 && widths.every(width => width === 932))(
    [...document.images]
        .filter(one => one.src.startsWith('data:image/svg') && one.complete)
        .map(one => one.naturalWidth)
)"""


def test_a_study_ends_with_its_page_and_an_artifact_with_charts(
    tmp_path: Path, studied_folder: Path, prefect_server: PrefectServer
) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    environment = clean_environment() | {"ERAFLOW_HOME": str(tmp_path / "home"), "PREFECT_API_URL": prefect_server.url}
    given = [str(tmp_path / "study.toml"), "--data-from", str(studied_folder), "--seeds", "2"]
    command = [sys.executable, "-m", "flows", "study", *given]
    done = run(command, environment)
    assert done.returncode == 0, done.stderr
    head, _, path = done.stdout.strip().splitlines()[-1].partition(": ")
    assert head == "report"
    page = Path(path).read_text()
    sentence = done.stdout.splitlines()[0]
    assert sentence in page
    newest = prefect_server.newest_run()
    assert newest["state"]["data"] is None  # what it came to is handed over in the process, and in no database
    artifact = prefect_server.artifacts_of(newest["id"])["study"]
    assert artifact["description"] == sentence
    shown_in_both(prefect_server, artifact["id"])

    done = run([*command, "--json"], environment)
    assert done.returncode == 0, done.stderr
    assert last_json(done.stdout)["report"] == path


def shown_in_both(server: PrefectServer, artifact: str) -> None:
    """The new user interface and the old one show each chart as a picture that is not broken."""
    old = server.url.removesuffix("/api")
    with browser() as started:
        page = started.page()
        page.open(old, "location.pathname.endsWith('/dashboard')")
        new = str(page.evaluate("location.origin + location.pathname.replace('/dashboard', '')"))
        for address in dict.fromkeys((new, old)):
            page.open(f"{address}/artifacts/artifact/{artifact}", SHOWN)
