"""What a benchmark leaves of the target: the formula, what it leaves out, and a model that is trained on it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, rankdata

from eraflow import trained
from eraflow.config import override
from eraflow.dataset import decode
from eraflow.errors import DataError, InputError
from eraflow.metrics import contribution
from eraflow.recipes import Recipe, fingerprint, get
from eraflow.references import Benchmark, require_benchmark, sha256_of_stored
from eraflow.residual import on_residual, residual_target
from eraflow.rows import Rows
from eraflow.store import sha256_of
from eraflow.stored import StoredDataset
from eraflow.training import fit

NAN = np.nan
COLUMN = "v53_lgbm_ender20"
FEATURES = ("feature_a", "feature_b", "feature_c")


def test_a_case_worked_by_hand() -> None:
    """Ranks 1, 3, 2 of three give the quantiles -q, q, 0; the target less its mean, 0.5, is -0.5, 0.25, 0.25.

    g·c = 0.75 q and g·g = 2 q², so that c loses 0.375 / q times g: -0.5 + 0.375, 0.25 - 0.375, 0.25.
    """
    found_N = residual_target(np.array([0.0, 0.75, 0.75]), np.array([0.1, 0.9, 0.2]), np.array([7, 7, 7]))
    assert found_N.dtype == np.float32
    assert np.allclose(found_N, [-0.125, -0.125, 0.25], atol=1e-7)


def made_up(seed: int = 0, eras: int = 5, rows: int = 60) -> tuple[Any, Any, Any]:
    """Target of five values, a benchmark with ties that knows something of it, and eras that are not in order."""
    rng = np.random.default_rng(seed)
    era_N = rng.permutation(np.repeat(np.arange(1, eras + 1), rows))
    target_N = rng.choice([0, 0.25, 0.5, 0.75, 1], len(era_N), p=[0.05, 0.2, 0.5, 0.2, 0.05])
    return target_N, np.round(target_N + rng.standard_normal(len(era_N)), 1), era_N


def test_each_era_is_what_least_squares_leave_of_it() -> None:
    target_N, benchmark_N, era_N = made_up()
    found_N = residual_target(target_N, benchmark_N, era_N)
    for era in np.unique(era_N):
        here_N = era_N == era
        gaussian_M = norm.ppf((rankdata(benchmark_N[here_N]) - 0.5) / here_N.sum())
        centred_M = target_N[here_N] - target_N[here_N].mean()
        (weight,) = np.linalg.lstsq(gaussian_M[:, np.newaxis], centred_M, rcond=None)[0]
        assert np.allclose(found_N[here_N], centred_M - gaussian_M * weight, atol=1e-6)
        assert abs(found_N[here_N] @ gaussian_M) < 1e-4
        assert abs(target_N[here_N] @ gaussian_M) > 1


def test_four_times_its_covariance_with_a_prediction_is_the_contribution() -> None:
    target_N, benchmark_N, era_N = made_up(seed=1)
    benchmark_N[::7] = NAN
    prediction_N = np.random.default_rng(2).standard_normal(len(era_N)) + target_N
    found_N = residual_target(target_N, benchmark_N, era_N)
    expected_E = contribution(prediction_N, benchmark_N, target_N, era_N)
    for era in np.unique(era_N):
        here_N = (era_N == era) & ~np.isnan(found_N)
        gaussian_M = norm.ppf((rankdata(prediction_N[here_N]) - 0.5) / here_N.sum())
        assert 4 * np.mean(gaussian_M * found_N[here_N]) == pytest.approx(expected_E[era], abs=1e-6)


def test_rows_without_target_or_benchmark_have_none_and_change_nothing() -> None:
    target_N, benchmark_N, era_N = made_up(seed=3)
    whole_N = residual_target(target_N, benchmark_N, era_N)
    more = [
        np.concatenate([values_N, added])
        for values_N, added in ((target_N, [NAN, 1.0, NAN]), (benchmark_N, [0.3, NAN, NAN]), (era_N, [1, 1, 2]))
    ]
    found_N = residual_target(*more)
    assert np.array_equal(found_N[:-3], whole_N)
    assert np.isnan(found_N[-3:]).all()
    assert not np.isnan(whole_N).any()


@pytest.mark.parametrize(
    ("target_M", "benchmark_M"),
    [
        ([0.5], [0.1]),
        ([0.5, NAN], [0.1, 0.2]),
        ([0.0, 0.5, 1.0], [0.3, 0.3, 0.3]),
        ([0.5, 0.5, 0.5], [0.1, 0.2, 0.3]),
        ([0.0, 0.5, 1.0], [NAN, NAN, NAN]),
    ],
)
def test_an_era_that_defines_no_contribution_has_none(target_M: list[float], benchmark_M: list[float]) -> None:
    beside = residual_target(np.array([0, 0.75, 0.75]), np.array([0.1, 0.9, 0.2]), np.ones(3, int))
    era_N = np.array([1, 1, 1] + [2] * len(target_M))
    found_N = residual_target(np.array([0, 0.75, 0.75, *target_M]), np.array([0.1, 0.9, 0.2, *benchmark_M]), era_N)
    assert np.array_equal(found_N[:3], beside)
    assert np.isnan(found_N[3:]).all()


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="benchmark"):
        residual_target(np.zeros(3), np.zeros(2), np.zeros(3, int))


def test_rows_on_the_residual_are_those_that_have_one_and_the_rows_given_stay_as_they_were() -> None:
    target_N, benchmark_N, era_N = made_up(seed=4)
    benchmark_N[era_N == 2] = NAN
    codes_NF = np.arange(len(era_N) * 2).reshape(-1, 2).astype(np.int8)
    rows = Rows.of(codes_NF, target_N, era_N)
    found = on_residual(rows, benchmark_N)
    kept_M = np.flatnonzero(era_N != 2)
    assert np.array_equal(found.era_M, era_N[kept_M])
    assert np.array_equal(found.target_M, residual_target(target_N.astype(np.float32), benchmark_N, era_N)[kept_M])
    assert np.array_equal(rows.target_M, target_N.astype(np.float32))
    codes_BF = np.empty((3, 2), np.int8)
    found.gather(np.array([0, 5, 9]), codes_BF)
    assert np.array_equal(codes_BF, codes_NF[kept_M[[0, 5, 9]]])


# A model that is trained on it


def stored(folder: Path, name: str, eras: range, *, benchmark_from: int, seed: int) -> StoredDataset:
    """A decoded file of 30 rows an era; its benchmark, in a file beside it, begins at an era."""
    rng = np.random.default_rng(seed)
    count = len(eras) * 30
    frame = pd.DataFrame(rng.integers(0, 5, (count, len(FEATURES))).astype(np.int8), columns=list(FEATURES))
    frame.insert(0, "id", [f"n{seed}{i:06d}" for i in range(count)])
    frame.insert(1, "era", np.repeat([f"{era:04d}" for era in eras], 30))
    frame["target_x_20"] = rng.choice([0, 0.25, 0.5, 0.75, 1], count).astype(np.float32)
    frame.loc[::11, "target_x_20"] = np.nan
    frame.to_parquet(path := folder / f"{name}.parquet", index=False)
    predicted = frame.loc[frame.era.astype(int) >= benchmark_from, ["id", "era"]].sample(frac=1, random_state=1)
    predicted[COLUMN] = rng.standard_normal(len(predicted)).astype(np.float32)
    predicted.to_parquet(folder / f"{name}_benchmark_models.parquet", index=False)
    return decode(path, into=folder / "decoded", sha256=sha256_of(path), features=FEATURES)


def recipe(**assignments: str) -> Recipe:
    given = {"model.hidden": "[4]", "training.device": "cpu", "training.epochs": "1", "data.target": "target_x_20"}
    given |= {"data.residual_of": COLUMN, "training.refit": "true"}
    return override(get("simple-mlp"), given | {key.replace("__", "."): value for key, value in assignments.items()})


def benchmark_in(folder: Path) -> Benchmark:
    files = tuple(folder / f"{name}_benchmark_models.parquet" for name in ("train", "validation"))
    return Benchmark(column=COLUMN, files=files, sha256=tuple(sha256_of(path) for path in files))


def test_fit_and_refit_learn_the_residual_and_the_hold_out_is_scored_on_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Rows, Rows | None]] = []

    def noted(rows: Rows, **more: Any) -> Any:
        given.append((rows, more["holdout"]))
        return fit(rows, **more)

    monkeypatch.setattr("eraflow.trained.fit", noted)
    train = stored(tmp_path, "train", range(1, 31), benchmark_from=6, seed=1)
    validation = stored(tmp_path, "validation", range(31, 41), benchmark_from=33, seed=2)
    benchmark = benchmark_in(tmp_path)
    found = trained.train(
        recipe(), train=train, validation=validation, features=FEATURES, folder=tmp_path / "model", benchmark=benchmark
    )
    (fitted, holdout), (refitted, _) = given
    residuals = [
        residual_target(one.column("target_x_20"), benchmark.of(one), one.era_N) for one in (train, validation)
    ]
    known = [~np.isnan(residual_N) for residual_N in residuals]
    assert sorted(set(fitted.era_M)) == list(range(6, 31 - 8))
    assert np.array_equal(fitted.target_M, residuals[0][known[0] & (train.era_N < 31 - 8)])
    assert np.array_equal(
        refitted.target_M, np.concatenate([r_N[k_N] for r_N, k_N in zip(residuals, known, strict=True)])
    )
    assert sorted(set(refitted.era_M)) == [*range(6, 31), *range(33, 41)]
    assert holdout is not None
    target_N = validation.column("target_x_20")
    assert np.array_equal(holdout.target_M, target_N[~np.isnan(target_N)])
    assert found.validation.eras == 10
    assert trained.load(tmp_path / "model").benchmarks_sha256 == benchmark.sha256


def test_the_name_depends_on_the_benchmarks_where_they_are_used_and_is_what_it_was_elsewhere() -> None:
    plain, wanted = recipe(data__residual_of=""), recipe()
    made_from = json.dumps([fingerprint(plain), "a", "b", list(FEATURES)])
    assert trained.model_id(plain, "a", "b", FEATURES) == (
        f"simple-mlp-{hashlib.sha256(made_from.encode()).hexdigest()[:12]}"
    )
    names = {
        trained.model_id(wanted, "a", "b", FEATURES, Benchmark(column=COLUMN, files=(), sha256=sha256))
        for sha256 in (("c", "d"), ("c", "e"), ("d", "c"))
    }
    assert len(names) == 3


def test_a_recipe_without_its_benchmark_or_with_another_is_refused(tmp_path: Path) -> None:
    train = stored(tmp_path, "train", range(1, 31), benchmark_from=6, seed=1)
    more: dict[str, Any] = {"train": train, "validation": train, "features": FEATURES, "folder": tmp_path / "model"}
    with pytest.raises(InputError, match=rf"must be {COLUMN} \(data.residual_of\), however it is none"):
        trained.train(recipe(), **more)
    given = Benchmark(column=COLUMN, files=(), sha256=())
    with pytest.raises(InputError, match=rf"must be none \(data.residual_of\), however it is {COLUMN}"):
        trained.train(recipe(data__residual_of=""), benchmark=given, **more)
    with pytest.raises(InputError, match=f"must be other .* however it is {COLUMN}"):
        trained.train(recipe(data__residual_of="other"), benchmark=given, **more)


def test_a_file_of_which_no_row_has_a_prediction_is_refused(tmp_path: Path) -> None:
    train = stored(tmp_path, "train", range(1, 31), benchmark_from=31, seed=1)
    validation = stored(tmp_path, "validation", range(31, 41), benchmark_from=31, seed=2)
    with pytest.raises(DataError, match=rf"train\.parquet must have rows with .* prediction of {COLUMN}, however"):
        trained.train(
            recipe(), train=train, validation=validation, features=FEATURES, folder=tmp_path / "model",
            benchmark=benchmark_in(tmp_path),
        )  # fmt: skip


def test_only_columns_of_predictions_are_benchmarks(tmp_path: Path) -> None:
    stored(tmp_path, "train", range(1, 3), benchmark_from=1, seed=1)
    path = tmp_path / "train_benchmark_models.parquet"
    require_benchmark([path], COLUMN)
    for name in ("id", "era", "v53_lgbm_ender2"):
        with pytest.raises(InputError, match=rf"must be one of {COLUMN} of .*, however it is '{name}'"):
            require_benchmark([path], name)
    assert sha256_of_stored(path) == sha256_of(path)
