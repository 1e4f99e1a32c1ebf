"""A run on disk: killed, cut, damaged, finished; each goes on from what is whole and from nothing else."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

import eraflow.runs
from eraflow.errors import OutOfTimeError, TrainingError
from eraflow.runs import CHECKPOINT, FINISHED, read
from eraflow.training import TrainingConfig, load_fitted
from tests.eraflow.fitting import (
    ERAWISE,
    ROWWISE,
    SMALL,
    Enough,
    KillAfter,
    Killed,
    market,
    run,
    run_members,
    same_weights,
)

TIMED = {"seconds", "rows_a_second", "share_of_products", "share_of_cores"}


@pytest.mark.parametrize("training", [ROWWISE, ERAWISE])
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(
    tmp_path: Path, training: TrainingConfig, epochs: int
) -> None:
    holdout = market(3, first_era=30)
    whole = run(tmp_path / "whole", training, holdout=holdout)
    with pytest.raises(Killed):
        run(tmp_path / "killed", training, holdout=holdout, progress=KillAfter(epochs))
    assert (tmp_path / "killed" / CHECKPOINT).exists()
    seen: list[float] = []
    resumed = run(
        tmp_path / "killed", training, holdout=holdout, progress=lambda stage, done, total, text="": seen.append(done)
    )
    assert min(seen) > whole.history[epochs - 1]["step"]
    assert same_weights(whole, resumed)
    for one, other in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in one.items() if k not in TIMED} == {k: v for k, v in other.items() if k not in TIMED}


def test_a_finished_folder_is_loaded_and_not_trained_again(tmp_path: Path) -> None:
    first = run(tmp_path, holdout=market(3, first_era=30))
    assert sorted(path.name for path in tmp_path.iterdir()) == [FINISHED]
    second = run(tmp_path, holdout=market(3, first_era=30), progress=KillAfter(1))
    assert same_weights(first, second)
    assert (second.history, second.steps, second.rows) == (first.history, first.steps, first.rows)
    loaded = load_fitted(tmp_path, SMALL, "cpu")
    assert same_weights(first, loaded)
    assert loaded.history == first.history


def test_a_checkpoint_that_a_kill_left_beside_a_finished_network_goes(tmp_path: Path) -> None:
    first = run(tmp_path)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / FINISHED).read_bytes())
    assert same_weights(first, run(tmp_path, progress=KillAfter(1)))
    assert sorted(path.name for path in tmp_path.iterdir()) == [FINISHED]


@pytest.mark.parametrize("what", ["rows", "seed", "training"])
def test_what_was_made_from_other_things_is_not_gone_on_from(tmp_path: Path, what: str) -> None:
    run(tmp_path)
    values: dict[str, Any] = {
        "rows": market(1),
        "seed": 1,
        "training": dataclasses.replace(ROWWISE, learning_rate=1e-3),
    }
    changed = {what: values[what]}
    assert same_weights(run(tmp_path, **changed), run(tmp_path / "fresh", **changed))


@pytest.mark.parametrize("damage", [b"", b"nonsense" * 100])
def test_a_damaged_checkpoint_is_trained_anew(tmp_path: Path, damage: bytes) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "a", progress=KillAfter(2))
    (tmp_path / "a" / CHECKPOINT).write_bytes(damage)
    assert same_weights(run(tmp_path / "a"), run(tmp_path / "b"))


@pytest.mark.parametrize("place", [12, -1, -300, 0.5], ids=str)
def test_a_finished_network_of_which_a_bit_flipped_is_trained_again(
    tmp_path: Path, place: float, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(tmp_path)
    flip(tmp_path / FINISHED, place)
    with pytest.raises(TrainingError, match=r"fitted\.safetensors must hold a trained network"):
        load_fitted(tmp_path, SMALL)
    with caplog.at_level(logging.WARNING, logger="eraflow"):
        assert same_weights(first, run(tmp_path))
    assert [record.message for record in caplog.records] == [
        f"{tmp_path / FINISHED} is damaged, or of another version of eraflow; what it held is trained again"
    ]


def test_what_a_finished_network_says_of_itself_is_hashed_too(tmp_path: Path) -> None:
    run(tmp_path)
    path = tmp_path / FINISHED
    path.write_bytes(path.read_bytes().replace(b'\\"complete\\": true', b'\\"complete\\": null'))
    with pytest.raises(TrainingError, match="it has changed since it was written"):
        load_fitted(tmp_path, SMALL)


@pytest.mark.parametrize("place", [12, -1, 0.5], ids=str)
def test_a_checkpoint_of_which_a_bit_flipped_is_not_gone_on_from(tmp_path: Path, place: float) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "a", progress=KillAfter(2))
    flip(tmp_path / "a" / CHECKPOINT, place)
    assert same_weights(run(tmp_path / "a"), run(tmp_path / "b"))


def test_a_network_of_other_layers_than_its_recipe_tells_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(TrainingError, match="must be of its recipe's layers"):
        load_fitted(tmp_path, dataclasses.replace(SMALL, hidden=(7,)))


def test_a_network_from_before_there_was_a_hash_is_taken_as_it_is(tmp_path: Path) -> None:
    first, path = run(tmp_path), tmp_path / FINISHED
    with safe_open(path, framework="pt") as file:
        told = file.metadata()
    path.write_bytes(save(load_file(path), {"eraflow": told["eraflow"]}))
    assert same_weights(first, run(tmp_path, progress=KillAfter(1)))


def flip(path: Path, place: float) -> None:
    """A bit of the byte at `place`, or at that share of the file."""
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) if 0 < place < 1 else int(place)] ^= 1
    path.write_bytes(content)


def test_a_missing_network_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"fitted\.safetensors must hold a trained network"):
        load_fitted(tmp_path, SMALL)


def test_a_checkpoint_of_another_kind_of_device_is_not_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "a", progress=KillAfter(2))
    read = eraflow.runs.read

    def as_from_cuda(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        tensors, told = read(path)
        return tensors | {"0.masks": torch.zeros(16, dtype=torch.uint8)}, told | {"device": "cuda"}

    monkeypatch.setattr(eraflow.runs, "read", as_from_cuda)
    seen: list[float] = []
    run(tmp_path / "a", progress=lambda stage, done, total, text="": seen.append(done))
    assert min(seen) == 6


def test_weights_on_disk_are_plain_safetensors(tmp_path: Path) -> None:
    fitted = run(tmp_path)
    stored = load_file(tmp_path / FINISHED)
    assert stored.keys() == {f"model.{name}" for name in fitted.model.state_dict()}


def test_members_that_were_killed_go_on_together_and_end_with_the_same_bits(tmp_path: Path) -> None:
    whole = run_members([tmp_path / f"w{m}" for m in range(3)], ROWWISE, [0, 1, 2])
    folders = [tmp_path / f"k{m}" for m in range(3)]
    with pytest.raises(Killed):
        run_members(folders, ROWWISE, [0, 1, 2], progress=KillAfter(2))
    assert [(folder / CHECKPOINT).exists() for folder in folders] == [True, False, False]
    resumed = run_members(folders, ROWWISE, [0, 1, 2])
    assert all(same_weights(one, other) for one, other in zip(whole, resumed, strict=True))
    for folder, fitted in zip(folders, whole, strict=True):
        assert [path.name for path in folder.iterdir()] == [FINISHED]
        assert same_weights(load_fitted(folder, SMALL, "cpu"), fitted)


def test_a_run_that_has_no_more_time_is_cut_at_its_last_epoch_and_gone_on_with(tmp_path: Path) -> None:
    folders = [tmp_path / "0", tmp_path / "1"]
    whole = run_members([tmp_path / "w0", tmp_path / "w1"], ROWWISE, [0, 1])
    found = run_members(folders, ROWWISE, [0, 1], enough=Enough(15))
    assert [(each.complete, each.steps, len(each.history)) for each in found] == [(False, 12, 2)] * 2
    for folder, cut in zip(folders, found, strict=True):
        loaded = load_fitted(folder, SMALL, "cpu")
        assert same_weights(loaded, cut)
        assert (loaded.complete, loaded.history) == (False, cut.history)
    resumed = run_members(folders, ROWWISE, [0, 1])
    assert all(same_weights(one, other) for one, other in zip(whole, resumed, strict=True))
    assert all(each.complete for each in resumed)


def test_without_time_for_an_epoch_nothing_is_returned(tmp_path: Path) -> None:
    with pytest.raises(OutOfTimeError, match="not one epoch could be finished"):
        run(tmp_path, enough=Enough(3))


def test_a_checkpoint_of_other_members_is_not_gone_on_from(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run_members([tmp_path / "0", tmp_path / "1"], ROWWISE, [0, 1], progress=KillAfter(2))
    seen: list[float] = []
    alone = run(tmp_path / "0", progress=lambda stage, done, total, text="": seen.append(done))
    assert min(seen) == 6
    assert same_weights(alone, run(tmp_path / "fresh"))


def test_members_share_the_seconds_and_those_before_a_kill_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders, clock = [tmp_path / "0", tmp_path / "1"], iter(range(10_000))
    monkeypatch.setattr("eraflow.gauge.time.perf_counter", lambda: float(next(clock)))
    with pytest.raises(Killed):
        run_members(folders, ROWWISE, [0, 1], progress=KillAfter(2))
    before = read(folders[0] / CHECKPOINT)[1]["history"][-1]
    assert before[0]["seconds"] == before[1]["seconds"] > 0
    first, second = (fitted.history for fitted in run_members(folders, ROWWISE, [0, 1]))
    assert [entry["seconds"] for entry in first] == [entry["seconds"] for entry in second]
    assert first[1]["seconds"] == before[0]["seconds"] < first[2]["seconds"]
