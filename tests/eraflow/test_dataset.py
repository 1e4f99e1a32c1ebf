"""`NumeraiDataset` as torch sees it: rows, batches, loaders, workers."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from eraflow.dataset import ERA_LIVE, NumeraiDataset, StoredDataset, decode
from eraflow.errors import InputError
from eraflow.feature_sets import read_features_json
from eraflow.store import sha256_of
from tests.eraflow.tables import FEATURES, write

Open = Callable[..., StoredDataset]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Decodes `table_of(**changes)`: six rows, three features, two targets."""

    def run(**changes: Any) -> StoredDataset:
        path = write(tmp_path, **changes)
        return decode(path, into=tmp_path / "decoded", sha256=sha256_of(path), features=FEATURES)

    return run


def test_a_row_is_the_write_ups_triple(opened: Open) -> None:
    x_F, y_T, era = NumeraiDataset(opened())[1]
    assert x_F.dtype == y_T.dtype == torch.float32
    assert x_F.tolist() == [0.25, 1, 0.25]
    assert y_T.tolist() == [0.25]
    assert (era, type(era)) == (1, int)


def test_a_row_is_found_by_int_numpy_number_and_0_d_tensor(opened: Open) -> None:
    dataset = NumeraiDataset(opened())
    for index in (3, np.int64(3), torch.tensor(3), -3):
        assert dataset[index][0].tolist() == [0.75, 0, 0.75]


def test_rows_beyond_either_end_raise_as_of_a_list(opened: Open) -> None:
    dataset = NumeraiDataset(opened())
    for index in (6, -7, [0, 6], torch.tensor([-7])):
        with pytest.raises(IndexError, match="out of range for 6 rows"):
            dataset[index]
    assert len(list(dataset)) == len(dataset) == 6  # type: ignore[call-overload]  # the sequence protocol
    with pytest.raises(TypeError, match="whole numbers"):
        dataset.batch(np.array([0.5]))


@pytest.mark.parametrize("indices", [[0, 5, -1], torch.tensor([0, 5, -1]), np.array([0, 5, -1]), (0, 5, 5)])
def test_a_batch_keeps_the_axis_of_the_targets(opened: Open, indices: Any) -> None:
    dataset = NumeraiDataset(opened())
    for batch in (dataset.__getitems__(indices), dataset[indices], dataset.batch(indices)):
        x_BF, y_BT, era_B = batch
        assert x_BF.tolist() == [[0, 1, 0.25], [0, 0, 0.5], [0, 0, 0.5]]
        assert y_BT.tolist() == [[0], [0.5], [0.5]]
        assert era_B.tolist() == [1, 2, 2]
        assert [part.dtype for part in batch] == [torch.float32, torch.float32, torch.int64]


def test_a_batch_of_none_is_empty(opened: Open) -> None:
    assert [tuple(part.shape) for part in NumeraiDataset(opened()).batch([])] == [(0, 3), (0, 1), (0,)]


def test_a_batch_may_be_written_to(opened: Open) -> None:
    dataset = NumeraiDataset(opened())
    x_BF, y_BT, era_B = dataset.batch([0])
    for part in (x_BF, y_BT, era_B):
        part.zero_()
    assert dataset[0][0].tolist() == [0, 1, 0.25]


def test_a_missing_feature_is_a_half(opened: Open) -> None:
    stored = opened(feature_a=pa.array([None, 0, 1, 2, 3, 4], pa.int8()))
    assert NumeraiDataset(stored).batch(range(6))[0][:, 0].tolist() == [0.5, 0, 0.25, 0.5, 0.75, 1]


def test_features_and_targets_are_chosen_by_name_and_order(opened: Open) -> None:
    stored = opened()
    dataset = NumeraiDataset(stored, features=("feature_c", "feature_a"), targets=("target_ender_60", "target"))
    x_BF, y_BT, _ = dataset.batch([0, 1])
    assert x_BF.tolist() == [[0.25, 0], [0.25, 0.25]]
    assert y_BT.tolist() == [[0, 0], [0.25, 0.25]]
    with pytest.raises(InputError, match="'feature_z'"):
        NumeraiDataset(stored, features=("feature_z",))
    with pytest.raises(InputError, match="'target_z'"):
        NumeraiDataset(stored, targets=("target_z",))


def test_rows_that_miss_a_target_are_left_out(opened: Open) -> None:
    stored = opened()
    assert NumeraiDataset(stored, targets=("target_ender_60",)).row_N.tolist() == [0, 1, 3, 4]
    assert len(NumeraiDataset(stored, targets=("target", "target_ender_60"))) == 4
    every = NumeraiDataset(stored, targets=("target_ender_60",), labelled_only=False)
    assert len(every) == 6
    assert torch.isnan(every[2][1]).all()


def test_rows_are_selected_by_number_and_by_mask(opened: Open) -> None:
    stored = opened()
    assert NumeraiDataset(stored, rows=[5, 0, -2]).row_N.tolist() == [5, 0, 4]
    assert NumeraiDataset(stored, rows=stored.era_N == 2).row_N.tolist() == [3, 4, 5]
    assert NumeraiDataset(stored, rows=[2, 3], targets=("target_ender_60",)).row_N.tolist() == [3]
    assert len(NumeraiDataset(stored, rows=[])) == 0
    with pytest.raises(InputError, match="index 6 is out of range"):
        NumeraiDataset(stored, rows=[6])


def test_a_plain_loader_yields_the_triple(opened: Open) -> None:
    dataset = NumeraiDataset(opened())
    batches = list(DataLoader(dataset, batch_size=4))
    assert [[tuple(part.shape) for part in batch] for batch in batches] == [
        [(4, 3), (4, 1), (4,)],
        [(2, 3), (2, 1), (2,)],
    ]
    assert_same(batches[0], dataset.batch([0, 1, 2, 3]))


def test_a_batch_sampler_yields_whole_batches(opened: Open) -> None:
    dataset = NumeraiDataset(opened())
    sampler = BatchSampler(SequentialSampler(dataset), 4, drop_last=False)
    batches = list(DataLoader(dataset, batch_size=None, sampler=sampler))
    assert_same(batches[0], dataset.batch([0, 1, 2, 3]))
    assert_same(batches[1], dataset.batch([4, 5]))
    shuffled = BatchSampler(RandomSampler(dataset), 6, drop_last=False)
    (x_BF, _, _), *_ = DataLoader(dataset, batch_size=None, sampler=shuffled)
    assert sorted(x_BF.tolist()) == sorted(dataset.batch(range(6))[0].tolist())


def test_loader_workers_yield_the_same(opened: Open) -> None:
    dataset = NumeraiDataset(opened())
    for kept, given in zip(
        DataLoader(dataset, batch_size=4), DataLoader(dataset, batch_size=4, num_workers=2), strict=True
    ):
        assert_same(given, kept)


def test_pickling_carries_no_matrix(opened: Open) -> None:
    rows = 20_000
    zeros = {name: np.zeros(rows, np.int8) for name in (*FEATURES, "target")}
    stored = opened(
        id=[f"{n:05}" for n in range(rows)], era=["1"] * rows, data_type=None, target_ender_60=None, **zeros
    )
    dataset = NumeraiDataset(stored, rows=range(10))
    assert dataset[0][0].tolist() == [0, 0, 0]
    sent = pickle.dumps(dataset)
    assert len(sent) < 5_000
    assert pickle.loads(sent)[9][2] == 1  # noqa: S301  (our own bytes)


def test_importing_the_dataset_needs_torch_and_numpy_alone() -> None:
    program = (
        "import sys, eraflow.dataset, eraflow.stored\n"
        "print([name for name in ('pyarrow', 'pandas', 'filelock', 'prefect') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == "[]"


@pytest.mark.parametrize(("year", "labelled"), [(2017, 1858), (2018, 556)])
def test_real_rows_are_served(shared_real: Path, tmp_path: Path, year: int, labelled: int) -> None:
    folder = shared_real / f"rounds_{year}"
    features = read_features_json(folder / "features.json").columns("all")
    validation, live = folder / "validation.parquet", folder / "live.parquet"
    stored = decode(validation, into=tmp_path, sha256=sha256_of(validation), features=features, kind="validation")
    assert len(NumeraiDataset(stored)) == labelled
    stored = decode(live, into=tmp_path, sha256=sha256_of(live), features=features, kind="live")
    x_BF, y_BT, era_B = NumeraiDataset(stored, labelled_only=False).batch(range(stored.rows))
    assert set(np.unique(x_BF.numpy())) <= {0, 0.25, 0.5, 0.75, 1}
    assert torch.isnan(y_BT).all()
    assert set(era_B.tolist()) == {ERA_LIVE}


def assert_same(given: Any, expected: Any) -> None:
    assert len(given) == len(expected) == 3
    for part, other in zip(given, expected, strict=True):
        torch.testing.assert_close(part, other, rtol=0, atol=0)
