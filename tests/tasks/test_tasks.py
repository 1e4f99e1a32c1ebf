"""What all tasks have in common, tried in one real flow run: see `trying`."""

from __future__ import annotations

import base64
import re
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from tests.real_prefect import PrefectServer, clean_environment, last_json, run

pytestmark = pytest.mark.prefect_server

NETWORK = {"find_slots", "open_round", "look_up", "find_budget", "gather_files", "stand_in", "submit_slot"}


@dataclass(frozen=True)
class Tried:
    found: dict[str, Any]
    err: str


@pytest.fixture(scope="module")
def tried(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Tried:
    home = tmp_path_factory.mktemp("trying")
    environment = {**clean_environment(), "PREFECT_API_URL": prefect_server.url, "ERAFLOW_HOME": str(home)}
    done = run([sys.executable, "-m", "tests.tasks.trying"], environment)
    assert done.returncode == 0, done.stderr
    return Tried(last_json(done.stdout), done.stderr)


@pytest.fixture(scope="module")
def artifacts(tried: Tried, prefect_server: PrefectServer) -> dict[str, dict[str, Any]]:
    return prefect_server.artifacts_of(tried.found["run"])


def test_no_task_caches_or_persists_its_result(tried: Tried) -> None:
    assert len(tried.found["policies"]) == 11
    assert not any(one["cached"] or one["persisted"] for one in tried.found["policies"].values())


def test_tasks_that_use_the_network_have_a_time_limit_and_are_tried_again(tried: Tried) -> None:
    policies = tried.found["policies"]
    assert {name for name, one in policies.items() if one["retries"]} == NETWORK
    assert all(policies[name]["timeout_s"] for name in NETWORK)


def test_no_task_has_tags_which_would_ask_the_server_before_each_start(tried: Tried) -> None:
    assert {tag for one in tried.found["policies"].values() for tag in one["tags"]} == set()


def test_only_what_may_pass_by_itself_is_tried_again(tried: Tried) -> None:
    assert tried.found["tries"].pop("TransientError") == 3
    assert set(tried.found["tries"].values()) == {1}
    assert len(tried.found["tries"]) == 7


def test_a_task_that_sleeps_or_waits_for_a_socket_is_ended_in_time(tried: Tried) -> None:
    assert tried.found["timeouts"] == ["TimedOut", "TimedOut"]


def test_an_artifact_that_fails_is_one_line_and_nothing_else(tried: Tried) -> None:
    assert tried.found["harmless"] == [None, None, "shown"]
    assert "the dashboard could not be given the artifact (" in tried.err
    assert "the dashboard could not be given the other artifact (RuntimeError: two)\n" in tried.err
    assert "the dashboard could not be given the artifact model gone (StorageError" in tried.err


def test_a_server_that_is_well_and_does_not_answer_holds_nothing_up(tried: Tried) -> None:
    assert 0.2 < tried.found["hung_s"] < 10
    assert "the dashboard could not be given the page (ReadTimeout" in tried.err


def test_each_recipe_has_a_key_of_its_own_whatever_its_name(artifacts: dict[str, dict[str, Any]]) -> None:
    assert set(artifacts) == {"model-simple-mlp", "model-my-recipe-2", "week", "scores"}
    assert {one["type"] for one in artifacts.values()} == {"markdown"}


def test_the_description_alone_answers_the_question(artifacts: dict[str, dict[str, Any]]) -> None:
    assert artifacts["model-my-recipe-2"]["description"] == "Mean era Spearman 0.0200, first model of its recipe"
    assert artifacts["scores"]["description"] == "Round 1430: 0.0123"


def test_a_model_has_its_pictures_and_its_figures(artifacts: dict[str, dict[str, Any]]) -> None:
    text = artifacts["model-simple-mlp"]["data"]
    pictures = [base64.b64decode(one, validate=True) for one in re.findall(r"data:image/png;base64,([^)]*)", text)]
    assert [one[:8] for one in pictures] == [b"\x89PNG\r\n\x1a\n"] * 2
    assert "| mean era Spearman | 0.0200 |" in text
    assert "| Sharpe | undefined |" in text


def test_a_safe_week_is_not_said_again_by_runs_that_did_nothing(tried: Tried, prefect_server: PrefectServer) -> None:
    filters = {"flow_run_id": {"any_": [tried.found["run"]]}, "key": {"any_": ["week"]}}
    weeks = prefect_server.read("artifacts", artifacts=filters, sort="CREATED_DESC")
    said = [one["description"].partition(":")[0] for one in reversed(weeks)]
    safe, unsafe = "Round 1432 is safe", "Round 1432 is not safe"
    assert said == [safe, unsafe, unsafe, safe]


def test_a_run_is_named_by_its_round_and_how_many_were_there_before(
    tried: Tried, prefect_server: PrefectServer
) -> None:
    first, second = (prefect_server.run_of(tried.found[run]) for run in ("run", "again"))
    assert (first["name"], second["name"]) == ("round 77, attempt 1", "round 77, attempt 2")
    assert first["tags"] == second["tags"] == ["round-77", "simple-mlp"]


def test_the_dashboard_is_told_of_progress_about_once_a_second(tried: Tried, prefect_server: PrefectServer) -> None:
    updates = tried.found["updates"]
    assert set(updates) == {"progress of long", "progress of unknown"}
    assert 2 <= updates["progress of long"] <= 4
    assert updates["progress of unknown"] <= 3
    filters = {"flow_run_id": {"any_": [tried.found["run"]]}, "type": {"any_": ["progress"]}}
    shown = {one["description"]: one["data"] for one in prefect_server.read("artifacts", artifacts=filters)}
    assert shown == {"long: loss 0.05": 100.0, "unknown": 0.0}
