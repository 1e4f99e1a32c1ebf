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
    assert "the dashboard could not be given the artifact training-undrawable (ZeroDivisionError" in tried.err


def test_each_recipe_has_keys_of_its_own_whatever_its_name(artifacts: dict[str, dict[str, Any]]) -> None:
    assert set(artifacts) == {
        "training-simple-mlp",
        "validation-simple-mlp",
        "training-my-recipe-2",
        "validation-my-recipe-2",
    }


def test_a_picture_of_300_kb_is_shown_and_a_larger_one_is_not(artifacts: dict[str, dict[str, Any]]) -> None:
    (encoded,) = re.findall(r"base64,([^)]*)\)", artifacts["training-simple-mlp"]["data"])
    assert len(base64.b64decode(encoded)) == 300_000
    assert "base64" not in artifacts["training-my-recipe-2"]["data"]
    assert "too large for the dashboard" in artifacts["training-my-recipe-2"]["data"]
    assert "1,000 rows, 8 features, target target, on cpu" in artifacts["training-my-recipe-2"]["data"]


def test_a_figure_that_is_undefined_says_so(artifacts: dict[str, dict[str, Any]]) -> None:
    text = artifacts["validation-my-recipe-2"]["data"]
    assert "| mean era Spearman | 0.0200 |" in text
    assert "| Sharpe | undefined |" in text
    assert "| eras scored | 20 |" in text


def test_the_dashboard_is_told_of_progress_about_once_a_second(tried: Tried, prefect_server: PrefectServer) -> None:
    updates = tried.found["updates"]
    assert set(updates) == {"progress of long", "progress of unknown"}
    assert 2 <= updates["progress of long"] <= 4
    assert updates["progress of unknown"] <= 3
    filters = {"flow_run_id": {"any_": [tried.found["run"]]}, "type": {"any_": ["progress"]}}
    shown = {one["description"]: one["data"] for one in prefect_server.read("artifacts", artifacts=filters)}
    assert shown == {"long: loss 0.05": 100.0, "unknown": 0.0}
