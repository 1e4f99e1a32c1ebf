"""A model is compared with the last one of its recipe, on the same eras where there are some."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from eraflow.comparison import Pair, compared, last_model
from eraflow.report import FIGURES
from eraflow.trained import Trained, load
from tests.eraflow.made_up import model_of


def made(
    home: Path, name: str, day: int, scores: Sequence[float | None] = (0.1, 0.2), recipe: str = "simple-mlp"
) -> Trained:
    folder = home / "models" / f"{recipe}-{name}"
    model_of(folder, scores, recipe=recipe)
    told = json.loads((folder / "model.json").read_text())
    told |= {"model_id": folder.name, "made_at_utc": f"2026-11-{day:02}T12:00:00+00:00"}
    (folder / "model.json").write_text(json.dumps(told))
    return load(folder)


def test_the_last_model_is_the_newest_older_one_of_the_same_recipe(tmp_path: Path) -> None:
    now = made(tmp_path, "d", 21)
    assert last_model(now) is None
    made(tmp_path, "a", 7)
    made(tmp_path, "c", 28)  # made since
    made(tmp_path, "e", 20, recipe="era-pearson")
    last = made(tmp_path, "b", 14)
    broken = tmp_path / "models" / "simple-mlp-broken"
    broken.mkdir()
    (broken / "model.json").write_text("{")
    assert last_model(now) == last


def test_means_of_different_eras_are_also_compared_on_the_eras_of_both(tmp_path: Path) -> None:
    last = made(tmp_path, "a", 14, (0.1, None, 0.3))
    now = made(tmp_path, "b", 21, (0.2, 0.5, 0.2, 0.7))
    first, mean, *_ = compared(now, last, FIGURES)
    assert first.name == "mean era Spearman on the 2 eras of both"
    assert (first.now, first.last, first.change) == pytest.approx((0.2, 0.2, 0.0))
    assert (mean.now, mean.last) == pytest.approx((0.4, 0.2))


def test_the_same_eras_need_no_second_mean(tmp_path: Path) -> None:
    last, now = made(tmp_path, "a", 14), made(tmp_path, "b", 21, (0.2, 0.4))
    names = [pair.name for pair in compared(now, last, FIGURES)]
    assert names == [*FIGURES.values(), "untrained mean era Spearman"]


def test_what_is_undefined_has_no_change() -> None:
    assert Pair(name="Sharpe", now=None, last=1.0).change is None
    assert Pair(name="Sharpe", now=1.0, last=None).change is None
