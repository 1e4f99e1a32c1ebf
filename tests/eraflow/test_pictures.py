"""The pictures can be drawn for every model and round, say what is missing, and stay small."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from eraflow.errors import StorageError
from eraflow.pictures import Card, eras_text, plain, sample_text, training_png, validation_png
from eraflow.result import RoundResult
from eraflow.trained import load
from eraflow.week_picture import week_png
from tests.eraflow.made_up import CLOSES, ERROR, failed, model_of, png_size, round_of, sent, skipped


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that goes onto a card."""
    texts: list[str] = []
    write = Card.text

    def noted(card: Card, x: float, y: float, text: str, **how: object) -> None:
        texts.append(text)
        write(card, x, y, text, **how)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(Card, "text", noted)
    return texts


def test_pictures_of_a_model_are_small_pngs(tmp_path: Path) -> None:
    model = model_of(tmp_path, recipe="era-pearson", members=3)
    for data in (training_png(model), validation_png(model)):
        assert png_size(data)[0] == 1200
        assert len(data) < 100_000


def test_a_thousand_eras_stay_small_and_drawable(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).normal(0.02, 0.03, 1000).tolist()
    assert len(validation_png(model_of(tmp_path, scores))) < 300_000


def test_curves_that_are_of_a_sample_of_the_hold_out_say_so(tmp_path: Path, written: list[str]) -> None:
    model = model_of(tmp_path, [0.1, None, -0.1, 0.2], eras_examined=2)
    whole = model_of(tmp_path / "whole", [0.1, None, -0.1, 0.2], eras_examined=4)
    assert png_size(training_png(model))[1] > png_size(training_png(whole))[1]
    told = [text for text in written if "sampled" in text]
    assert told == ["Of 4 hold-out eras sampled ones: curves on 2; figures in the end on all."]


def test_what_else_is_of_a_sample_is_said_too(tmp_path: Path) -> None:
    model_of(tmp_path, [0.1, None, -0.1, 0.2], eras_examined=3)
    made = replace(load(tmp_path), untrained_eras=2)
    assert (
        sample_text(made) == "Of 4 hold-out eras sampled ones: curves on 3, untrained on 2; figures in the end on all."
    )
    assert sample_text(replace(made, sampled=True)) == (
        "Of the hold-out sampled eras alone: curves on 3, figures in the end on 4."
    )


def test_undefined_eras_are_said(tmp_path: Path, written: list[str]) -> None:
    model = model_of(tmp_path, [0.1, None, -0.1, None])
    png_size(validation_png(model))
    assert "Spearman by era: 2 eras scored, 2 undefined (\N{MULTIPLICATION SIGN})" in written
    png_size(week_png(round_of(sent(), models=(model,))))
    assert any("2 eras scored, 2 undefined" in text for text in written)


def test_without_undefined_eras_none_are_spoken_of(tmp_path: Path) -> None:
    model_of(tmp_path, [0.1, -0.1])
    assert eras_text(load(tmp_path).validation.per_era) == "2 eras scored"


@pytest.mark.parametrize("scores", [[None, None], [0.0], []], ids=["all undefined", "one of zero", "no eras"])
def test_a_model_without_scores_can_be_drawn(tmp_path: Path, scores: list[float | None]) -> None:
    model = model_of(tmp_path, scores)
    for data in (training_png(model), validation_png(model), week_png(round_of(models=(model,)))):
        png_size(data)


def test_a_model_folder_that_is_gone_is_an_error_of_its_own_picture_only(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    (tmp_path / "model.json").unlink()
    with pytest.raises(StorageError, match="must hold a whole trained model"):
        validation_png(model)
    png_size(week_png(round_of(sent(), models=(model,))))


@pytest.mark.parametrize(
    "result",
    [
        round_of(),
        round_of(sent(), sent("b", timedelta(hours=25))),
        round_of(failed(), failed("b", "another")),
        round_of(sent(), sent("b", timedelta(hours=40), status="late")),
        round_of(error=ERROR),
        round_of(sent(sent_at_utc="no time"), closes_at_utc=None),
        round_of(sent(), closes_at_utc="2026-11-21T12:00:00+00:00"),
        round_of(skipped(), round=None, opens_at_utc=None, closes_at_utc=None),
        RoundResult(round=None),
    ],
    ids=["empty", "safe", "failed", "late", "stopped", "odd times", "reversed times", "local", "nothing"],
)
def test_every_round_has_a_picture(result: RoundResult) -> None:
    for now_utc in (None, CLOSES - timedelta(hours=1), CLOSES + timedelta(days=1)):
        data = week_png(result, now_utc)
        assert png_size(data)[0] == 1200
        assert len(data) < 150_000


def test_the_week_shows_verdict_deadline_and_receipt(written: list[str]) -> None:
    week_png(round_of(sent("main", timedelta(hours=2, minutes=14))))
    for text in (
        "Round 1432 is safe",
        "1 of 1 slot verified, 23 h 41 min before the deadline",
        "23 h 41 min to spare",
        "Sun 22 Nov 2026, 14:00 UTC",
        "main, Sat 14:18 UTC",
        "byte for byte",
        "1da7c9b6814f",
    ):
        assert text in written


def test_the_time_that_is_left_is_never_called_spare_in_an_unsafe_round(written: list[str]) -> None:
    week_png(round_of(sent(), failed()), CLOSES - timedelta(hours=5))
    assert "5 h left" in written
    assert not any("spare" in text for text in written)


def test_many_slots_are_counted_and_do_not_grow_the_picture_without_end(written: list[str]) -> None:
    data = week_png(round_of(*(sent(f"slot_{i}", timedelta(minutes=15 + i)) for i in range(40))))
    assert "and 28 more, 28 of them verified" in written
    assert png_size(data)[1] < 1500
    assert len(data) < 150_000


def test_the_same_round_gives_the_same_bytes(tmp_path: Path) -> None:
    result = round_of(sent(), models=(model_of(tmp_path),))
    assert week_png(result) == week_png(result)
    assert b"matplotlib" not in week_png(result).lower()


def test_texts_from_outside_are_neither_formulas_nor_missing_glyphs() -> None:
    png_size(week_png(round_of(sent(r"$\frac{x}$ 漢字 <b>\n"), failed("b", "$" * 900 + "x" * 900))))
    assert plain("a漢\n\N{SOFT HYPHEN}é") == "a???é"


def test_no_setting_of_matplotlib_is_changed(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    model = model_of(tmp_path)
    training_png(model)
    validation_png(model)
    week_png(round_of(sent(), models=(model,)))
    assert dict(matplotlib.rcParams) == before
