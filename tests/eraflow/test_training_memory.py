"""Memory: what a step takes is known before it is taken, and what does not fit is refused with what would."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from eraflow import footprint
from eraflow.errors import TrainingError
from eraflow.footprint import bytes_a_row, bytes_of_weights, free_bytes
from eraflow.layers import Buffer
from eraflow.members import Members
from eraflow.models import ModelConfig, parameter_count
from eraflow.training import initial, members_at_once
from tests.eraflow.fitting import ERAWISE, ROWWISE, SMALL, market, run, run_members
from tests.eraflow.test_models_members import NETWORKS

CPU = torch.device("cpu")


def give(patch: pytest.MonkeyPatch, size_bytes: int | None) -> None:
    patch.setattr(footprint, "free_bytes", lambda device: size_bytes)


@pytest.mark.parametrize("targets", [1, 5])
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_and_buffers_are_those_that_are_made(name: str, targets: int) -> None:
    model = ModelConfig(**NETWORKS[name])
    made: list[torch.Tensor] = []

    class Watched(Members):
        def _buffer(self, units: int) -> Buffer:
            made.append((buffer := super()._buffer(units)).flat)
            return buffer

        def _mask(self, units: int) -> torch.Tensor:
            made.append(super()._mask(units))
            return made[-1]

    Watched([initial(model, 30, k, targets) for k in range(3)], 64, [torch.Generator() for _ in range(3)])
    buffers = sum(tensor.nbytes for tensor in made)
    # A norm gives back tensors of its own: what comes out, and the slope.
    norms = 3 * 2 * 4 * sum(model.hidden) * 64 if model.batch_norm else 0
    assert bytes_a_row(model, 30, 3, targets) * 64 == buffers + norms + 64 * 30 * 6
    at_least = 3 * parameter_count(initial(model, 30, 0, targets)) * 4 * 10
    assert at_least <= bytes_of_weights(model, 30, 3, targets) < 1.6 * at_least


def test_a_batch_too_large_is_refused_with_the_one_that_would_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = round(bytes_of_weights(SMALL, 12, 1) + 50 * bytes_a_row(SMALL, 12, 1)) / footprint.SHARE
    give(monkeypatch, round(free) + 10)
    with pytest.raises(TrainingError, match=r"a step of 64 rows of 12 features must fit .* training\.batch_size=50"):
        run(tmp_path)
    assert run(tmp_path, dataclasses.replace(ROWWISE, batch_size=50)).steps == 32
    with pytest.raises(TrainingError, match=r"training\.eras_per_step=1 would fit"):
        run(tmp_path, ERAWISE)
    give(monkeypatch, 1000)
    with pytest.raises(TrainingError, match=r"set a smaller data\.feature_set or model\.hidden"):
        run(tmp_path)


def test_members_too_many_are_refused_with_how_many_would_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = bytes_of_weights(SMALL, 12, 2) + 64 * bytes_a_row(SMALL, 12, 2)
    give(monkeypatch, round(two / footprint.SHARE) + 10)
    with pytest.raises(TrainingError, match="however 3 do not; 2 would"):
        run_members([tmp_path / f"{m}" for m in range(3)], ROWWISE, [0, 1, 2])
    assert members_at_once(market(), SMALL, ROWWISE, 3) == 2
    give(monkeypatch, None)
    assert members_at_once(market(), SMALL, ROWWISE, 3) == 3


def test_what_is_finished_is_loaded_whatever_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    give(monkeypatch, 1)
    assert run(tmp_path).complete


def test_free_memory_is_what_the_machine_and_its_container_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       900 kB\nMemAvailable:   800 kB\n")
    monkeypatch.setattr(footprint, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(footprint, "CGROUP", tmp_path)
    assert free_bytes(CPU) == 800 * 1024
    (tmp_path / "memory.stat").write_text("anon 100000\nfile 50\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) == 800 * 1024
    (tmp_path / "memory.max").write_text("300000\n")
    assert free_bytes(CPU) == 200_000
    (tmp_path / "meminfo").unlink()
    assert free_bytes(CPU) is None


def test_large_steps_are_not_shared_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert members_at_once(market(), SMALL, ROWWISE, 3) == 3
    monkeypatch.setattr("eraflow.training.LARGE_STEP", 64 * (16 + 8) - 1)
    assert members_at_once(market(), SMALL, ROWWISE, 3) == 1
