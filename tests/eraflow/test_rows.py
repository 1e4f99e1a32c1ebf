"""Rows and their order: every row once a pass, whole eras, two matrices as one, slices where rows are in order."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from eraflow.batches import Batches
from eraflow.errors import InputError, TrainingError
from eraflow.rows import Plan, Rows
from tests.eraflow.fitting import ERAWISE, ROWWISE, market, run, same_weights


def test_a_pass_sees_every_row_once_and_shuffles_anew() -> None:
    rows = market().labelled()
    plan = Plan(rows, ROWWISE, None)
    passes = [
        np.concatenate([plan.batch(p * plan.steps_a_pass + i)[0] for i in range(plan.steps_a_pass)]) for p in (0, 1)
    ]
    for seen in passes:
        assert sorted(seen) == list(range(len(rows)))
    assert not np.array_equal(passes[0], passes[1])
    assert plan.steps == 4 * math.ceil(len(rows) / 64)


def test_drop_last_drops_the_partial_batch_unless_it_is_the_only_one() -> None:
    rows = market().labelled()
    dropping = dataclasses.replace(ROWWISE, drop_last=True)
    plan = Plan(rows, dropping, None)
    assert {len(plan.batch(step)[0]) for step in range(plan.steps)} == {64}
    few = Plan(rows.take(np.arange(10)), dropping, None)
    assert (few.steps, len(few.batch(0)[0])) == (4, 10)


def test_steps_are_of_whole_eras() -> None:
    rows = market().labelled().by_era()
    plan = Plan(rows, ERAWISE, None)
    index, sizes = plan.batch(6)
    eras = rows.era_M[index]
    assert len(sizes) == len(np.unique(eras)) == 3
    for era in np.unique(eras):
        assert (eras == era).sum() == (rows.era_M == era).sum()
    assert len(index) <= plan.largest


def test_rows_without_a_target_are_never_trained_on(tmp_path: Path) -> None:
    rows = market()
    labelled = rows.labelled()
    assert len(labelled) < len(rows)
    assert same_weights(run(tmp_path / "a", rows=rows), run(tmp_path / "b", rows=labelled))
    assert run(tmp_path / "a", rows=rows).rows == len(labelled)
    with pytest.raises(TrainingError, match="none of the 400 given has one"):
        run(tmp_path / "c", rows=Rows.of(np.zeros((400, 12), np.int8), None, np.ones(400, np.int32)))


def test_rows_of_two_matrices_are_those_of_one(tmp_path: Path) -> None:
    """A refit reads train and validation without joining their matrices; here with columns in different places."""
    one, other = market(1), market(2, first_era=20)
    code = np.empty((800, 12), np.int8)
    one.gather(np.arange(400), code[:400])
    other.gather(np.arange(400), code[400:])
    target, era = np.concatenate([one.target_M, other.target_M]), np.concatenate([one.era_M, other.era_M])
    whole = Rows.of(code, target, era)
    shift: npt.NDArray[np.int64] = np.roll(np.arange(12), 3)
    moved = Rows.of(np.ascontiguousarray(code[400:][:, shift]), target[400:], era[400:], columns=np.argsort(shift))
    both = Rows.joined([one, moved])
    assert same_weights(run(tmp_path / "a", rows=whole), run(tmp_path / "b", rows=both))
    chosen = np.array([799, 0, 400, 5])
    found = np.empty((4, 12), np.int8)
    both.take(np.arange(800)[::-1]).gather(799 - chosen, found)
    np.testing.assert_array_equal(found, code[chosen])


def test_extra_targets_follow_their_rows_wherever_these_go() -> None:
    code, era = np.zeros((6, 2), np.int8), np.array([3, 3, 1, 1, 2, 2])
    target = np.array([0.1, np.nan, 0.3, 0.4, 0.5, 0.6])
    extra = np.column_stack([np.arange(6.0), [np.nan, 1, 2, 3, 4, 5]])
    rows = Rows.of(code, target, era, extra_NX=extra)
    assert (rows.n_targets, rows.extra_MX.dtype.name) == (3, "float32")
    assert rows.labelled().by_era().extra_MX[:, 0].tolist() == [2, 3, 4, 5, 0]
    chosen = Rows.of(code, target, era, extra_NX=extra, rows=np.array([4, 2]))
    joined = Rows.joined([rows.take(np.array([5, 0])), chosen])
    np.testing.assert_array_equal(joined.extra_MX, extra[[5, 0, 4, 2]])
    np.testing.assert_array_equal(joined.targets, np.column_stack([target, extra])[[5, 0, 4, 2]].astype(np.float32))


def test_extra_targets_that_do_not_fit_are_refused() -> None:
    code, era = np.zeros((6, 2), np.int8), np.arange(6)
    with pytest.raises(InputError, match="a value a row, however 5 were given for 6 rows"):
        Rows.of(code, None, era, extra_NX=np.zeros((5, 1)))
    with pytest.raises(InputError, match=r"the same extra targets, however they have \[0, 1\]"):
        Rows.joined([Rows.of(code, None, era), Rows.of(code, None, era, extra_NX=np.zeros((6, 1)))])


def test_rows_with_other_extra_targets_have_another_digest() -> None:
    code, era = np.zeros((6, 2), np.int8), np.arange(6)
    extras = [None, np.zeros((6, 1)), np.zeros((6, 2)), np.ones((6, 1)), np.full((6, 1), np.nan)]
    assert len({Rows.of(code, None, era, extra_NX=extra).digest() for extra in extras}) == 5
    assert Rows.of(code, None, era, extra_NX=np.zeros((6, 0))).digest() == Rows.of(code, None, era).digest()


def test_rows_in_order_are_found_as_few_slices_and_others_are_not() -> None:
    rows = Rows.joined([market(1), market(2, first_era=20)])
    assert rows.runs(np.arange(100, 300)) == [(0, slice(100, 300))]
    assert rows.runs(np.arange(300, 500)) == [(0, slice(300, 400)), (1, slice(0, 100))]
    eras = np.concatenate([np.arange(200, 280), np.arange(0, 80), np.arange(480, 560)])
    assert rows.runs(eras) == [(0, slice(200, 280)), (0, slice(0, 80)), (1, slice(80, 160))]
    assert rows.runs(np.random.default_rng(0).permutation(800)) is None
    assert rows.runs(np.arange(7)) == [(0, slice(0, 7))]
    assert rows.runs(np.array([5])) == [(0, slice(5, 6))]


@pytest.mark.parametrize("order", ["in order", "by era", "shuffled", "one row", "narrow"])
def test_a_batch_is_the_rows_asked_for_however_it_is_gathered(order: str) -> None:
    columns = np.array([7, 2, 3]) if order == "narrow" else None
    rng = np.random.default_rng(0)
    code = rng.integers(-2, 3, (600, 12)).astype(np.int8)
    code.flags.writeable = False  # as a map of a file is
    target = rng.random(600).astype(np.float32)
    parts = [
        Rows.of(part, target[:300], np.repeat(np.arange(3, dtype=np.int32), 100), columns=columns)
        for part in (code[:300], code[300:])
    ]
    rows, index = Rows.joined(parts), {"one row": np.array([17]), "shuffled": rng.permutation(600)}.get(order)
    if index is None:
        index = np.concatenate([np.arange(250, 350), np.arange(0, 100)]) if order == "by era" else np.arange(600)
    found, label = Batches(rows, 600, torch.device("cpu")).load(index)
    expected = code[index] if columns is None else code[index][:, columns]
    np.testing.assert_array_equal(found.numpy(), expected.astype(np.float32))
    np.testing.assert_array_equal(label.numpy(), np.concatenate([target[:300]] * 2)[index])


def test_the_order_of_rows_is_that_of_the_configuration() -> None:
    rows = market().labelled()
    first, other = (Plan(rows, dataclasses.replace(ROWWISE, seed=seed), None).batch(0)[0] for seed in (0, 1))
    assert not np.array_equal(first, other)


def test_rows_of_an_epoch_are_counted() -> None:
    rows = market().labelled().by_era()
    assert Plan(rows, ROWWISE, None).rows_an_epoch == len(rows)
    # 50 steps of 3 of 10 eras: 4 steps a pass.
    assert Plan(rows, ERAWISE, None).rows_an_epoch == len(rows) * 50 // 4


@pytest.mark.parametrize(
    ("count", "block", "batch"),
    [
        (1000, 10, 64),
        (1000, 7, 64),
        (997, 100, 33),
        (5, 10, 2),
        (1, 1, 1),
        (160, 10, 160),
        (161, 10, 7),
        (50, 1, 8),
        (50, 10**9, 8),
    ],
)
def test_blocks_are_shuffled_so_that_each_row_comes_once_a_pass(count: int, block: int, batch: int) -> None:
    rows = Rows.of(np.zeros((count, 1), np.int8), np.zeros(count, np.float32), np.zeros(count, np.int32))
    training = dataclasses.replace(ROWWISE, batch_size=batch, shuffle_block_rows=block)
    plan, again = (Plan(rows, training, None) for _ in range(2))
    for number in (2, 0):
        steps = range(number * plan.steps_a_pass, (number + 1) * plan.steps_a_pass)
        assert sorted(np.concatenate([plan.batch(step)[0] for step in steps])) == list(range(count))
        read: set[int] = set()
        for step in steps:
            new = plan.reads(step, resumed=False).tolist()
            assert read.isdisjoint(new)
            read.update(new)
            assert read.issuperset(plan.batch(step)[0].tolist())
            assert set(plan.reads(step, resumed=True).tolist()) >= set(plan.batch(step)[0].tolist())
            assert len(rows.spans(np.array(new, np.int64), 0)) <= (len(new) + batch) // block + 2
        assert len(read) == count
        np.testing.assert_array_equal(again.batch(steps[0])[0], plan.batch(steps[0])[0])


def test_a_batch_of_shuffled_blocks_is_mixed_of_sixteen_and_each_pass_anew() -> None:
    rows = Rows.of(np.zeros((6400, 1), np.int8), np.zeros(6400, np.float32), np.zeros(6400, np.int32))
    plan = Plan(rows, dataclasses.replace(ROWWISE, shuffle_block_rows=100), None)
    passes = [[plan.batch(p * plan.steps_a_pass + i)[0] for i in range(plan.steps_a_pass)] for p in (0, 1)]
    for seen in passes:
        # Of 64 rows out of 16 blocks.
        assert all(len(set(index // 100)) > 10 for index in seen)
        assert [len(set(np.concatenate(seen[i : i + 25]) // 100)) for i in (0, 25, 50, 75)] == [16] * 4
    assert not np.array_equal(passes[0][0], passes[1][0])


def test_stretches_to_read_close_small_gaps_and_name_their_matrix() -> None:
    rows = Rows.joined([market(1), market(2, first_era=20)])  # 400 rows of 12 bytes each
    index = np.array([399, 5, 7, 6, 10, 400, 401, 410])
    assert rows.spans(index, 0) == [(0, 5, 8), (0, 10, 11), (0, 399, 400), (1, 0, 2), (1, 10, 11)]
    assert rows.spans(index, 24) == [(0, 5, 11), (0, 399, 400), (1, 0, 2), (1, 10, 11)]
    assert rows.spans(index, 10**6) == [(0, 5, 400), (1, 0, 11)]
    assert rows.take(np.arange(800)[::-1]).spans(np.array([0]), 0) == [(1, 399, 400)]


def test_a_block_to_shuffle_needs_shuffled_batches_of_rows() -> None:
    assert dataclasses.replace(ROWWISE, shuffle_block_rows=0).shuffle_block_rows is None
    with pytest.raises(ValueError, match="shuffle_block_rows must be 0 or more, however it is -1"):
        dataclasses.replace(ROWWISE, shuffle_block_rows=-1)
    for training in (ERAWISE, dataclasses.replace(ROWWISE, shuffle=False)):
        with pytest.raises(ValueError, match="set shuffle=true and batch_size"):
            dataclasses.replace(training, shuffle_block_rows=10)
