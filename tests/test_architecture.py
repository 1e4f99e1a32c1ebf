"""The rooms and their arrows: who imports whom, who touches disk and network, and how large a file gets."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Each may import those to its left.
ROOMS = ("eraflow", "tasks", "flows", "deployments")
LONGEST = 420
NETWORK = {"requests", "urllib3", "numerapi", "apprise"}
DOORS = {"eraflow/tournament.py", "eraflow/client.py", "eraflow/transport.py", "eraflow/alarms.py"}
# What moves or replaces a file; pandas and str have a `replace` and `rename` of their own.
MOVERS = {"os.replace", "os.rename", "os.renames", "shutil.move"}
EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "managers", "misc", "core_utils"}


def files(room: str) -> list[Path]:
    return sorted(path for path in (ROOT / room).rglob("*.py") if "__pycache__" not in path.parts)


ALL = [path for room in ROOMS for path in files(room)]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Every module that the file imports anywhere, inside functions and for type checkers too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            yield node.module or ""


def tops(path: Path) -> set[str]:
    return {module.partition(".")[0] for module in imported(path)}


def in_a_fresh_process(code: str, folder: Path) -> dict[str, list[str]]:
    """What `code` prints as JSON, run in an empty folder with no home of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    environment.pop("ERAFLOW_HOME", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_the_rooms_are_there() -> None:
    assert all(files(room) for room in ROOMS)


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_arrows_point_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    forbidden = {*ROOMS[ROOMS.index(room) + 1 :], "tests", "benchmarks"}
    assert tops(path) & forbidden == set()


def test_the_pure_package_names_prefect_nowhere_among_its_imports() -> None:
    assert [name_of(path) for path in files("eraflow") if "prefect" in tops(path)] == []


def test_only_the_door_to_the_network_knows_the_network() -> None:
    found = {name_of(path) for path in ALL if tops(path) & NETWORK}
    assert {name for name in found if not name.startswith("eraflow/rehearsal/")} <= DOORS


def test_the_rehearsal_serves_and_asks_without_the_door() -> None:
    """Its server must not share what it is there to test."""
    doors = {name.removesuffix(".py").replace("/", ".") for name in DOORS}
    assert [name_of(path) for path in files("eraflow/rehearsal") if set(imported(path)) & doors] == []


def test_only_the_door_to_the_disk_moves_files() -> None:
    found = {
        name_of(path)
        for path in ALL
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and f"{node.value.id}.{node.attr}" in MOVERS
    }
    assert {name for name in found if not name.startswith("eraflow/rehearsal/")} == {"eraflow/store.py"}


def test_only_the_ledger_knows_its_database() -> None:
    assert [name_of(path) for path in ALL if "sqlite3" in tops(path)] == ["eraflow/ledger.py"]


def test_nothing_of_ours_is_loaded_as_a_pickle() -> None:
    pickles = {"pickle", "cloudpickle", "joblib", "shelve", "marshal", "dill"}
    assert [name_of(path) for path in ALL if tops(path) & pickles] == []


def test_no_room_is_only_a_name() -> None:
    names = {part.removesuffix(".py") for path in ALL for part in path.relative_to(ROOT).parts}
    assert names & EMPTY_NAMES == set()


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_a_file_can_be_held_in_the_head_and_says_what_it_is(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST
    assert ast.get_docstring(tree(path)), "it has no docstring"


def test_importing_eraflow_imports_no_prefect_and_does_nothing(tmp_path: Path) -> None:
    code = """
import json, logging, os, pkgutil, signal, sys, threading
before = (list(logging.getLogger().handlers), dict(os.environ), signal.getsignal(signal.SIGTERM))
import importlib
import eraflow
names = [module.name for module in pkgutil.walk_packages(eraflow.__path__, "eraflow.")]
for name in names:
    importlib.import_module(name)
done = []
if logging.getLogger().handlers != before[0] or logging.getLogger("eraflow").handlers:
    done.append("logging")
if signal.getsignal(signal.SIGTERM) != before[2]:
    done.append("signals")
if threading.active_count() != 1:
    done.append("threads")
mine = {name: value for name, value in os.environ.items() if before[1].get(name) != value}
print(json.dumps({
    "modules": names,
    "prefect": sorted(name for name in sys.modules if name.partition(".")[0] == "prefect"),
    "late": sorted({"numerapi", "matplotlib", "apprise"} & set(sys.modules)),
    "done": done,
    "environment": sorted(name for name in mine if name.startswith(("ERAFLOW", "PREFECT", "NUMERAI"))),
}))
"""
    found = in_a_fresh_process(code, tmp_path)
    assert len(found["modules"]) >= len(files("eraflow")) - 2
    assert found["prefect"] == []
    assert found["late"] == [], "what costs half a second is imported where it is used"
    assert (found["done"], found["environment"]) == ([], [])
    assert list(tmp_path.iterdir()) == [], "importing made files"


def test_models_and_training_need_only_torch_and_numpy(tmp_path: Path) -> None:
    code = """
import json, sys
import torch, numpy
with_torch = set(sys.modules)
import eraflow.models, eraflow.training
foreign = {name.partition(".")[0] for name in set(sys.modules) - with_torch} - set(sys.stdlib_module_names)
print(json.dumps({"foreign": sorted(foreign)}))
"""
    assert in_a_fresh_process(code, tmp_path)["foreign"] in (["eraflow"], ["eraflow", "numpy"])


def test_tasks_and_flows_start_nothing_when_imported(tmp_path: Path) -> None:
    code = """
import json, os, sys, threading
import flows.command, flows.prefect_home
print(json.dumps({
    "prefect": sorted(name for name in sys.modules if name.partition(".")[0] == "prefect"),
    "threads": [thread.name for thread in threading.enumerate()][1:],
}))
"""
    assert in_a_fresh_process(code, tmp_path) == {"prefect": [], "threads": []}
    assert list(tmp_path.iterdir()) == []
