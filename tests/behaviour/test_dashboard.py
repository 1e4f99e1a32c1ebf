"""The dashboard as a user sees it: a real round under the real server, and a real browser that opens its pages.

With ERAFLOW_WRITE_DOCS=1 the round is a larger one, and its pictures become those of the documentation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eraflow.rehearsal import LocalTournament, MarketConfig
from tests.behaviour.conftest import TINY
from tests.behaviour.week import SLOTS
from tests.browser import Browser, Page, Theme, browser
from tests.real_prefect import ROOT, PrefectServer, environment_for, prefect_server, run, weekly_command

__all__ = ["prefect_server"]

pytestmark = pytest.mark.prefect_server

WRITE_DOCS = os.environ.get("ERAFLOW_WRITE_DOCS") == "1"
# The week's page from its verdict to its receipts [px].
WINDOW = (1280, 1080)
SHOWN = "[...document.images].find(one => one.alt === {!r})?.naturalWidth"


@dataclass(frozen=True)
class Played:
    """A safe round and what the server knows of it."""

    number: int
    run: dict[str, Any]
    artifacts: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def played(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Two slots, submitted under the server; for the documentation in the second of two rounds."""
    folder = tmp_path_factory.mktemp("dashboard")
    with LocalTournament(folder / "tournament", market=MarketConfig() if WRITE_DOCS else TINY) as local:
        for _ in range(2 if WRITE_DOCS else 1):
            number = local.open_next_round(delay_s=0)
            environment = {**environment_for(local, folder / "home", prefect_server), "TZ": "CET-1"}
            done = run(weekly_command(*SLOTS), environment)
            assert done.returncode == 0, done.stderr
    found = prefect_server.newest_run()
    return Played(number, found, prefect_server.artifacts_of(found["id"]))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def page(chromium: Browser, played: Played) -> Page:
    """A page of somebody whose system is light."""
    found = chromium.page(width=WINDOW[0], height=WINDOW[1])
    found.prefer("light")
    return found


@pytest.fixture(scope="module")
def dashboard(page: Page, prefect_server: PrefectServer) -> str:
    """The address of the user interface that the server itself chooses."""
    page.open(prefect_server.url.removesuffix("/api"), "location.pathname.endsWith('/dashboard')")
    return str(page.evaluate("location.origin + location.pathname.replace('/dashboard', '')"))


def shows(*texts: str) -> str:
    """The condition that all of these can be read on the page."""
    return " && ".join(f"document.body.innerText.includes({text!r})" for text in texts)


def address_of(dashboard: str, artifact: dict[str, Any]) -> str:
    return f"{dashboard}/artifacts/artifact/{artifact['id']}"


def document(shot: Path, name: str) -> None:
    """Keep a screenshot in the documentation, with a palette: a third of its bytes, and no difference can be seen."""
    with Image.open(shot) as picture:
        palette = picture.convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        palette.save(ROOT / "docs" / name, optimize=True)


def test_the_dashboard_counts_the_run_and_none_that_failed(page: Page, dashboard: str) -> None:
    page.open(f"{dashboard}/dashboard", shows("Flow Runs", "Completed"))
    page.wait_for(shows("You currently have 0 failed or crashed runs"))


def test_a_run_is_listed_by_its_round_its_attempt_and_its_recipe(page: Page, dashboard: str, played: Played) -> None:
    page.open(f"{dashboard}/runs", shows(played.run["name"], f"round-{played.number}", "simple-mlp"))
    assert re.fullmatch(rf"round {played.number}, attempt \d+", played.run["name"])


def test_the_page_of_the_run_says_what_it_came_to(page: Page, dashboard: str, played: Played) -> None:
    address = f"{dashboard}/runs/flow-run/{played.run['id']}?tab=Details"
    page.open(address, shows(played.run["name"], f"Round {played.number} is safe: 2 of 2 slots verified"))


def test_the_list_of_artifacts_answers_each_question_in_a_sentence(page: Page, dashboard: str, played: Played) -> None:
    page.open(f"{dashboard}/artifacts", shows("week", "model-simple-mlp", "data", "checks"))
    sentences = [played.artifacts[key]["description"] for key in ("week", "model-simple-mlp", "data", "checks")]
    page.wait_for(shows(*sentences))


def test_the_training_curve_is_a_picture_and_no_broken_one(
    page: Page, dashboard: str, prefect_server: PrefectServer, played: Played, tmp_path: Path
) -> None:
    old = prefect_server.url.removesuffix("/api")
    for of_prefect in dict.fromkeys((dashboard, old)):  # its new user interface and its old one
        page.open(address_of(of_prefect, played.artifacts["model-simple-mlp"]), shows("mean era Spearman"))
        for picture in ("the training curve", "Spearman by era"):
            assert page.wait_for(SHOWN.format(picture)) == 1200
        if WRITE_DOCS and of_prefect == dashboard:
            document(page.screenshot(tmp_path / "model.png"), "dashboard-model.png")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_week_is_seen_to_be_safe_in_light_and_in_dark(
    page: Page, dashboard: str, played: Played, theme: Theme, tmp_path: Path
) -> None:
    page.prefer(theme)
    week = played.artifacts["week"]
    told = (f"Round {played.number} is safe", "on-time deadline", "this machine (CET)", *SLOTS, "State Message")
    page.open(address_of(dashboard, week), shows(*told))
    assert page.wait_for(SHOWN.format("the week")) == 1200
    for _, code in re.findall(r"\| (\w+) \| `([0-9a-f-]{36})`", week["data"]):
        assert code in page.text()
    shot = page.screenshot(tmp_path / f"{theme}.png")
    with Image.open(shot) as picture:
        assert picture.size == WINDOW
        paper = picture.convert("L").getpixel((WINDOW[0] - 4, WINDOW[1] - 4))
        assert isinstance(paper, int)
        assert (paper > 200) == (theme == "light")
    if WRITE_DOCS:
        document(shot, "dashboard.png" if theme == "light" else "dashboard-dark.png")


def test_no_page_raised_an_error(page: Page) -> None:
    """Prefect's pages ask for icons that are not there, and for an address outside this machine; no more than that."""
    assert [text for text in page.errors() if not text.startswith("Failed to load resource")] == []


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_a_missing_browser_is_said_and_fails_on_ci(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="no browser is installed"), browser():
        pass
