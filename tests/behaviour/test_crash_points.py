"""A round is stopped before each single thing that it does to the disk, the ledger or the network, one by one.

After each stop the round is played again: it must end with exactly one accepted submission a slot, of the same bytes,
and with the same files as a round that nobody stopped. What the stopped round left half-written stays for a day, as
nobody can tell it from what another run is writing; the first run after that which gathers a round's files sweeps it.
Every sixth point has its turn with all the other tests, every point with `pytest -m "exhaustive or not exhaustive"
tests/behaviour/test_crash_points.py`, which says how many there are: some 240 in a round from nothing, some 210 in the
one after it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from eraflow import runs
from eraflow.rehearsal import LocalTournament
from eraflow.request import Request
from eraflow.store import ABANDONED_S, PARTIAL, Store
from tests.behaviour.conftest import TINY
from tests.behaviour.crash_points import Points, points_of, stopped_before
from tests.behaviour.week import SLOTS, Week, half_written, tree

ROOT = Path(__file__).resolve().parents[2]
# Each scene is cut into so many tests: every sixth point, from the first one on, from the second one on...
PARTS = 6
# What a stopped and a whole round must have alike to the last bit, and what holds times beside the weights, which must
# be; the others hold times.
ALIKE, WEIGHTS = (".parquet", ".npy", ".csv"), ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Where every stop of a scene begins: a tournament with an open round, and a home."""

    name: str
    folder: Path
    points: Points
    digests: dict[str, str]
    """File -> sha256 after a round that nobody stopped; empty for those that hold times."""
    sha256: str | None
    """Of what it submitted."""

    def world(self, to: Path) -> tuple[LocalTournament, Path]:
        """A copy of both to play with."""
        shutil.copytree(self.folder, to)
        return LocalTournament(to / "tournament", market=TINY), to / "home"


def request_of(week: Week) -> Request:
    return week.request(assignments={"training.epochs": "1", "data.feature_set": "all"})


@pytest.fixture(scope="module", params=["a round from nothing", "the round after it"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    begun, played = folder / "begun", folder / "played"
    with pytest.MonkeyPatch.context() as patch:
        with LocalTournament(begun / "tournament", market=TINY) as local:
            local.open_next_round(delay_s=0)
            week = Week(local, begun / "home")
            week.home.mkdir()
            if request.param == "the round after it":
                _point(week, patch)
                assert week.play(request_of(week)).exit_code == 0
                local.open_next_round(delay_s=0)
        shutil.copytree(begun, played)
        with LocalTournament(played / "tournament", market=TINY) as local:
            week = Week(local, played / "home")
            _point(week, patch)
            points = points_of(week.environment, request_of(week), folder / "told")
            sha256 = week.play(request_of(week)).receipts[0].sha256
    return Scene(
        name=request.param, folder=begun, points=points, digests=_digests(played / "home"), sha256=sha256
    )  # fmt: skip


def _stop_at_each(scene: Scene, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = swept = 0
    for point in range(part, len(scene.points.names), PARTS):
        local, home = scene.world(tmp_path / str(point))
        with local:
            week = Week(local, home)
            _point(week, monkeypatch)
            stopped += stopped_before(point, week.environment, request_of(week), tmp_path / "told")
            left = {str(path.relative_to(home)) for path in half_written(home)}
            where = f"stopped before point {point}, {scene.points.names[point]}"
            result = week.play(request_of(week))
            assert result.exit_code == 0, f"{where}: {[one.error_message for one in result.receipts]}"
            assert [(one.verified, one.sha256) for one in result.receipts] == [("bytes", scene.sha256)] * 2, where
            assert {slot: len(made) for slot, made in week.accepted().items()} == dict.fromkeys(SLOTS, 1), where
            assert {name: digest for name, digest in _digests(home).items() if name not in left} == scene.digests, where
            _age(home)
            swept += len(Store.open(home).sweep())
            assert [path for path in home.rglob("*") if path.name.startswith(PARTIAL)] == [], where
            assert _digests(home) == scene.digests, f"{where}, and swept"
        shutil.rmtree(tmp_path / str(point))
    assert swept > 0, "no stop left anything half-written"
    # The same round has the same points each time: none was played to its end.
    assert stopped == len(range(part, len(scene.points.names), PARTS))


def test_a_round_stopped_at_any_sixth_point_and_played_again_is_as_one_that_nobody_stopped(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stop_at_each(scene, 0, tmp_path, monkeypatch)


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(1, PARTS))
def test_a_round_stopped_at_any_other_point_is_too(
    scene: Scene, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stop_at_each(scene, part, tmp_path, monkeypatch)


def test_whatever_a_round_does_to_the_world_goes_through_the_doors(
    scene: Scene, record_property: Callable[[str, object], None]
) -> None:
    record_property("counted", f"{scene.name} can be stopped at {len(scene.points.names)} points")
    assert scene.points.around_the_doors == []


def test_no_file_of_a_round_came_to_its_place_unseen(scene: Scene) -> None:
    assert scene.points.unseen == []


def test_a_file_that_a_library_writes_in_its_place_by_itself_is_seen_to_have_come_unseen(tmp_path: Path) -> None:
    # In a process of its own: what listens to audit events never ends.
    script = f"""
import os, numpy, pathlib, safetensors.numpy as by_itself
from tests.behaviour.crash_points import Watch, _files
home = pathlib.Path({str(tmp_path)!r})
(home / "old").write_text("as before")
watch, before = Watch(home, None), _files(home)
(home / "opened").write_text("by Python")
by_itself.save_file({{"w": numpy.zeros(1)}}, home / ".partial-w")
os.replace(home / ".partial-w", home / "moved")
by_itself.save_file({{"w": numpy.zeros(1)}}, home / "by itself")
print(watch.unseen(before))
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['by itself']"


def _point(week: Week, patch: pytest.MonkeyPatch) -> None:
    for name, value in week.environment.items():
        patch.setenv(name, value)


def _digests(home: Path) -> dict[str, str]:
    def digest(path: Path) -> str:
        if path.name.endswith(WEIGHTS):
            return _of_weights(path)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.name.endswith(ALIKE) else ""

    return {name: digest(home / name) for name in tree(home)}


def _of_weights(path: Path) -> str:
    """Of all tensors, in the order of their names; none where a file was left half-written."""
    if path.name.startswith(PARTIAL):
        return ""
    digest = hashlib.sha256()
    for name, tensor in sorted(runs.read(path)[0].items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _age(home: Path) -> None:
    """Let a day and a second pass since anybody touched what was left half-written."""
    then_s = time.time() - ABANDONED_S - 1
    for path in home.rglob(f"{PARTIAL}*"):
        os.utime(path, (then_s, then_s))
