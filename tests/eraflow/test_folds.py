"""No fold trains on what its validation's targets overlap with, and none touches the reserve."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eraflow.config import build
from eraflow.errors import InputError
from eraflow.folds import PRESETS, Folds, reserved_fold, walk_forward

TARGETS = {"target_a_20": 8, "target_b_60": 16, "target": 16}


@st.composite
def configured(draw: st.DrawFn) -> Folds:
    sliding = draw(st.booleans())
    return Folds(
        window="sliding" if sliding else "expanding",
        window_eras=draw(st.integers(1, 60)) if sliding else None,
        chunk_eras=draw(st.integers(1, 40)),
        number=draw(st.none() | st.integers(1, 4)),
        last_era=draw(st.none() | st.integers(100, 220)),
        purge_eras=draw(st.none() | st.integers(0, 20)),
        era_stride=draw(st.integers(1, 5)),
        reserved_from=draw(st.none() | st.integers(120, 220)),
    )


@given(
    era=st.sets(st.integers(1, 200), min_size=60),
    config=configured(),
    target=st.sampled_from(sorted(TARGETS)),
)
def test_folds_keep_their_promises_or_are_refused(era: set[int], config: Folds, target: str) -> None:
    try:
        folds = walk_forward(sorted(era), config, target)
    except InputError as refused:
        assert re.match(r"fold \d+, which validates|the last fold must end|there must be a fold", str(refused))  # noqa: PT017
        return
    purge = TARGETS[target] if config.purge_eras is None else config.purge_eras
    ends = min(config.last_era or 10**9, (config.reserved_from or 10**9) - purge - 1)
    assert [fold.number for fold in folds] == list(range(1, len(folds) + 1))
    for fold in folds:
        train, purged, validation = (set(part.tolist()) for part in (fold.train_E, fold.purged_E, fold.validation_E))
        assert min(len(train), len(validation)) > 0
        assert max(train) + purge < min(validation), "a training era lies within the purge"
        assert max(validation) <= ends, "the reserve is touched"
        assert len(validation) <= config.chunk_eras
        assert train | purged | validation <= era
        assert not train & purged
        assert all((max(train) - one) % config.era_stride == 0 for one in train)
        assert max(train) - min(train) < (config.window_eras or 10**9)
        if config.window == "expanding" and config.era_stride == 1:
            assert train | purged == {one for one in era if one < min(validation)}
    for before, after in pairwise(folds):
        assert before.validation_E[-1] < after.validation_E[0], "validation chunks overlap or are out of order"


def test_the_preset_is_the_tournaments_own_table() -> None:
    """Source: its page on benchmark models; train on eras 1 to 148, purge 149 to 156, predict 157 to 312, and so on."""
    found = walk_forward(range(1, 575), PRESETS["numerai"], "target_ender_20")
    assert [str(fold) for fold in found] == [
        "fold 1 trains on 148 eras 1 to 148, purges 8 eras 149 to 156, validates 156 eras 157 to 312",
        "fold 2 trains on 304 eras 1 to 304, purges 8 eras 305 to 312, validates 156 eras 313 to 468",
        "fold 3 trains on 460 eras 1 to 460, purges 8 eras 461 to 468, validates 106 eras 469 to 574",
    ]
    assert walk_forward(range(1, 575), Folds(), "target_ender_60")[0].train_E[-1] == 140


def test_data_that_begin_later_keep_the_tables_chunks() -> None:
    found = walk_forward(range(575, 1000), Folds(), "target_ender_20")
    assert [(fold.train_E[0], fold.validation_E[0], fold.validation_E[-1]) for fold in found] == [
        (575, 625, 780),
        (575, 781, 936),
        (575, 937, 999),
    ]


def test_a_number_of_folds_is_counted_back_from_the_newest_era() -> None:
    found = walk_forward(range(1, 101), Folds(number=3, chunk_eras=10), "target_x_20")
    assert [(fold.train_E[-1], fold.validation_E[0], fold.validation_E[-1]) for fold in found] == [
        (62, 71, 80),
        (72, 81, 90),
        (82, 91, 100),
    ]


def test_folds_stay_when_the_data_grow_if_the_last_era_is_named() -> None:
    config = Folds(number=3, chunk_eras=10, last_era=95)
    now, later = (walk_forward(range(1, newest), config, "target") for newest in (101, 140))
    assert [str(fold) for fold in now] == [str(fold) for fold in later]
    assert now[-1].validation_E.tolist() == list(range(86, 96))


def test_a_sliding_window_is_counted_before_the_stride() -> None:
    config = Folds(window="sliding", window_eras=20, number=1, chunk_eras=10, era_stride=4)
    assert walk_forward(range(1, 101), config, "target_x_20")[0].train_E.tolist() == [66, 70, 74, 78, 82]


def test_the_reserve_is_used_only_by_its_own_name() -> None:
    config = Folds(number=2, chunk_eras=10, reserved_from=81)
    assert walk_forward(range(1, 101), config, "target")[-1].validation_E[-1] == 81 - 16 - 1
    assert str(reserved_fold(range(1, 101), config, "target")) == (
        "the reserve trains on 64 eras 1 to 64, purges 16 eras 65 to 80, validates 20 eras 81 to 100"
    )
    with pytest.raises(InputError, match="nothing is reserved"):
        reserved_fold(range(1, 101), Folds(), "target")
    with pytest.raises(InputError, match="the reserve, which validates eras 120 to 100, must have validation eras"):
        reserved_fold(range(1, 101), Folds(reserved_from=120), "target")


@pytest.mark.parametrize(
    ("eras", "given", "told"),
    [
        (range(1, 101), {"number": 10, "chunk_eras": 10}, r"fold 1, which validates eras 1 to 10, .*begin with era 1"),
        (range(1, 101), {"number": 11, "chunk_eras": 10}, r"fold 1, which validates eras -9 to 0, .*validation eras"),
        (range(1, 101), {"number": 9, "chunk_eras": 10}, r"fold 1, .*purge of 16 takes all .*it: 10 eras 1 to 10"),
        ([*range(1, 40), *range(61, 90)], {"number": 3, "chunk_eras": 15}, r"fold 1, .*45 to 59, .*none of these"),
        ([*range(1, 9), *range(60, 90)], {"number": 1, "window": "sliding", "window_eras": 5, "chunk_eras": 30},
         r"fold 1, .*none of the 5 in its window"),
        (range(1, 101), {}, r"must be a fold, however the eras 1 to 100 .*first chunk of 156"),
        (range(1, 101), {"last_era": 90, "reserved_from": 100}, r"must end with era 83, .*reserved .*last_era is 90"),
        ([], {}, "however none was given"),
    ],
)  # fmt: skip
def test_folds_that_cannot_be_are_refused_by_name(eras: Any, given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        walk_forward(eras, Folds(**given), "target")


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"window": "sliding"}, "study.folds.window_eras must be given for a sliding window alone"),
        ({"window_eras": 9}, "window_eras must be given for a sliding window alone, however window is expanding"),
        ({"chunk_eras": 0}, "study.folds.chunk_eras must be 1 or more, however it is 0"),
        ({"purge_eras": -1}, "purge_eras must be 0 or more"),
        ({"window": "rolling"}, "window must be one of expanding, sliding"),
        ({"chunks": 3}, "unknown key study.folds.chunks"),
    ],
)
def test_a_wrong_table_is_refused_by_its_key(table: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        build(Folds, table, "study.folds")


def test_small_monthly_data_can_be_divided(shared_real: Path) -> None:
    """85 + 12 monthly eras whose target names no horizon: five folds of a year with the full purge of 16."""
    import pandas as pd

    parts = [pd.read_parquet(shared_real / "rounds_2017" / f"{name}.parquet") for name in ("train", "validation")]
    era = pd.concat(part.dropna(subset="target")["era"] for part in parts)
    found = walk_forward(era.astype(int), Folds(number=5, chunk_eras=12), "target")
    assert [len(fold.validation_E) for fold in found] == [12] * 5
    assert (found[0].train_E.tolist(), found[-1].validation_E[-1]) == (list(range(1, 22)), 97)
