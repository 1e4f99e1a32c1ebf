"""A bit of one file of the home flips while nobody looks, file by file; the next run ends as if it had not.

Each file of the home after a round is harmed in a copy of its own. Then the next round is played, or the same one where
nothing was sent yet: it must end with 0 and send for each slot the very bytes of a home that nobody harmed. The ledger
alone is for people to move away, since what it knows of submissions is nowhere else. Every fourth file has its turn
with all the other tests, every file with `pytest -m "exhaustive or not exhaustive"
tests/behaviour/test_damage_at_rest.py`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from eraflow.rehearsal import Fault, LocalTournament
from eraflow.request import Request
from eraflow.runs import CHECKPOINT, FINISHED
from eraflow.store import manifest_path
from tests.behaviour.conftest import TINY
from tests.behaviour.week import SLOTS, Week, tree, without_report

# The files of each scene are taken in so many tests: every fourth, from the first one on, from the second one on...
PARTS = 4
NEXT, UNSENT, STOPPED = "the next round", "a round that was not sent", "a round stopped in its refit"
DATA = Path("data", "v5.3")
LEDGER = "ledger.sqlite"


class Stopped(BaseException):
    """As with Ctrl-C."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A tournament with an open round, and a home with what earlier runs left there."""

    folder: Path
    files: list[str]
    """Those of the home."""
    sha256: str | None
    """Of what a run sends if no file is harmed."""

    def copy(self, to: Path) -> tuple[LocalTournament, Path]:
        shutil.copytree(self.folder, to)
        return LocalTournament(to / "tournament", market=TINY), to / "home"

    def the_only(self, name: str, below: str = "") -> Path:
        """The path in the home of the one file of that name."""
        (found,) = [Path(path) for path in self.files if Path(path).name == name and below in path]
        return found


def request_of(week: Week) -> Request:
    return week.request(
        assignments={"training.epochs": "2", "training.refit": "true", "data.feature_set": "all"},
    )


@pytest.fixture(scope="module")
def scene_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Scene]:
    """Makes a scene when it is first asked for."""
    made: dict[str, Scene] = {}

    def scene(name: str) -> Scene:
        if name not in made:
            made[name] = _made(name, tmp_path_factory.mktemp("scene"))
        return made[name]

    return scene


def _made(name: str, folder: Path) -> Scene:
    begun, played = folder / "begun", folder / "played"
    with pytest.MonkeyPatch.context() as patch:
        with LocalTournament(begun / "tournament", market=TINY) as local:
            local.open_next_round(delay_s=0)
            _begin(name, _pointed(Week(local, begun / "home"), patch))
        shutil.copytree(begun, played)
        with LocalTournament(played / "tournament", market=TINY) as local:
            week = _pointed(Week(local, played / "home"), patch)
            sent = week.play(request_of(week)).receipts[0].sha256
    return Scene(folder=begun, files=sorted(tree(begun / "home")), sha256=sent)


def _begin(name: str, week: Week) -> None:
    if name == STOPPED:
        with pytest.raises(Stopped):
            week.play(request_of(week), steps=without_report(_stopping))
        return
    if name == UNSENT:
        week.local.faults.add(Fault(where="query:submissionUploadAuth", what="status", code=500, times=None))
    assert (week.play(request_of(week)).exit_code == 0) == (name == NEXT)
    if name == NEXT:
        week.local.open_next_round(delay_s=0)


def _stopping(stage: str, done: float, total: float, text: str = "") -> None:
    if stage.startswith("refit"):
        raise Stopped


def _pointed(week: Week, patch: pytest.MonkeyPatch) -> Week:
    for key, value in week.environment.items():
        patch.setenv(key, value)
    return week


def flip(path: Path, place: int | None = None) -> None:
    """The lowest bit of its byte at `place`, or of that in its middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    path.write_bytes(content)


def _is_played_as_unharmed(
    scene: Scene, folder: Path, patch: pytest.MonkeyPatch, harm: Callable[[Path], None], where: str
) -> None:
    local, home = scene.copy(folder)
    harm(home)
    with local:
        week = _pointed(Week(local, home), patch)
        result = week.play(request_of(week))
        told = [one.error_message for one in result.receipts]
        assert result.exit_code == 0, f"{where}: {told}"
        assert [(one.verified, one.sha256) for one in result.receipts] == [("bytes", scene.sha256)] * 2, where
        assert {slot: len(made) for slot, made in week.accepted().items()} == dict.fromkeys(SLOTS, 1), where
    shutil.rmtree(folder)


def _harm_each(scene: Scene, part: int, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    for name in [one for one in scene.files if one != LEDGER][part::PARTS]:

        def harm(home: Path, name: str = name) -> None:
            flip(home / name)

        _is_played_as_unharmed(scene, tmp_path / "world", patch, harm, name)


@pytest.mark.parametrize("name", [NEXT, UNSENT, STOPPED])
def test_after_a_flipped_bit_in_any_fourth_file_of_the_home_the_right_bytes_are_sent(
    name: str, scene_of: Callable[[str], Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _harm_each(scene_of(name), 0, tmp_path, monkeypatch)


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(1, PARTS))
@pytest.mark.parametrize("name", [NEXT, UNSENT, STOPPED])
def test_after_a_flipped_bit_in_any_other_file_too(
    name: str, part: int, scene_of: Callable[[str], Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _harm_each(scene_of(name), part, tmp_path, monkeypatch)


def test_a_damaged_ledger_stops_the_round_and_says_to_move_it_away_which_is_enough(
    scene_of: Callable[[str], Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scene_of(NEXT)
    local, home = scene.copy(tmp_path / "world")
    flip(home / LEDGER)
    with local:
        week = _pointed(Week(local, home), monkeypatch)
        result = week.play(request_of(week))
        assert result.exit_code == 1
        assert all("move it away: the tournament is asked" in str(one.error_message) for one in result.receipts)
        assert week.accepted() == {}
        (home / LEDGER).rename(tmp_path / LEDGER)
        result = week.play(request_of(week))
        assert [(one.verified, one.sha256) for one in result.receipts] == [("bytes", scene.sha256)] * 2


def _lines_about(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    return [record.message for record in caplog.records if name in record.message]


def test_a_damaged_features_json_is_fetched_again(
    scene_of: Callable[[str], Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="eraflow"):
        _is_played_as_unharmed(
            scene_of(NEXT), tmp_path / "world", monkeypatch, lambda home: flip(home / DATA / "features.json"), ""
        )
    (line,) = _lines_about(caplog, "features.json")
    assert line.endswith("has changed on this disk since it was fetched; it is fetched again")


def test_a_manifest_with_another_sha256_costs_a_download_and_no_round(
    scene_of: Callable[[str], Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def harm(home: Path) -> None:
        path = manifest_path(home / DATA / "train.parquet")
        flip(path, path.read_bytes().index(b'"sha256": "') + len(b'"sha256": "'))

    with caplog.at_level(logging.WARNING, logger="eraflow"):
        _is_played_as_unharmed(scene_of(NEXT), tmp_path / "world", monkeypatch, harm, "")
    assert len(_lines_about(caplog, "train.parquet or its manifest has changed on this disk")) == 1


@pytest.mark.parametrize("place", [None, -20, 200], ids=["middle", "footer", "first pages"])
def test_a_damaged_parquet_file_without_its_decoded_form_is_fetched_again(
    place: int | None, scene_of: Callable[[str], Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def harm(home: Path) -> None:
        flip(home / DATA / "train.parquet", place)
        shutil.rmtree(home / DATA / "decoded")

    with caplog.at_level(logging.WARNING, logger="eraflow"):
        _is_played_as_unharmed(scene_of(NEXT), tmp_path / "world", monkeypatch, harm, "")
    assert len(_lines_about(caplog, "train.parquet or its manifest has changed on this disk")) == 1


@pytest.mark.parametrize(("file", "below"), [(FINISHED, "holdout-0"), (CHECKPOINT, "final-0")])
def test_a_network_that_was_damaged_before_it_was_used_is_trained_again(
    file: str, below: str, scene_of: Callable[[str], Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    scene = scene_of(STOPPED)
    path = scene.the_only(file, below)
    with caplog.at_level(logging.WARNING, logger="eraflow"):
        _is_played_as_unharmed(scene, tmp_path / "world", monkeypatch, lambda home: flip(home / path), "")
    assert len(_lines_about(caplog, "what it held is trained again")) == 1
