"""The page can be written for every round, needs no network, and lets no text from outside become HTML."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from eraflow.checks import Check
from eraflow.errors import StorageError
from eraflow.measure import Cost
from eraflow.report import page, write_report
from eraflow.result import RoundResult
from eraflow.uncertainty import interval
from tests.eraflow.made_up import ERROR, failed, model_of, png_size, round_of, sent, skipped
from tests.eraflow.parsed import Parsed, assert_needs_no_network


def test_report_and_picture_are_written_and_nothing_else(tmp_path: Path) -> None:
    path = write_report(round_of(sent(), models=(model_of(tmp_path / "model"),)), tmp_path / "model")
    assert path == tmp_path / "model" / "report.html"
    assert {file.name for file in path.parent.iterdir()} == {"model.json", "recipe.toml", "report.html", "week.png"}
    png_size((path.parent / "week.png").read_bytes())


def test_page_needs_no_network(tmp_path: Path) -> None:
    assert_needs_no_network(page(round_of(sent(), models=(model_of(tmp_path),))))


def test_page_holds_every_section_and_figure(tmp_path: Path) -> None:
    text = Parsed(page(round_of(sent(), models=(model_of(tmp_path, notes=("a note",)),)))).text
    for part in (
        "Round 1432 is safe",
        "1 of 1 slot verified, 23 h 55 min before the deadline",
        "Sun 2026-11-22 14:00:00 UTC",
        "4d56d93d-36a1-557a-9a1a-bd47b506c7b8",
        "1da7c9b6814f" + "0" * 52,
        "one for each of the 6,712 live ids",
        "simple-mlp-024d6879acf5",
        "Nothing can be said of CORR: 3 eras whose targets reach over 12 are worth 1.1 independent eras",
        "CORR the tournament's correlation with the target 0.0200 – 0.82 0.0100 67 %",  # noqa: RUF001
        "Spearman rank correlation with the target 0.0200 – 0.82 0.0100 67 %",  # noqa: RUF001
        "standard deviation of Spearman over eras 0.0200",
        "untrained mean era Spearman −0.0010",  # noqa: RUF001
        "Learning curves of simple-mlp 1 network",
        "a note",
        "download getting and verifying the files 41.2 – –",  # noqa: RUF001
        "training fitting without the hold-out 812.4 3,072 MiB 1,024 MiB",
        "between the stages 6.4",
        "all until this page was drawn 860.0 3,072 MiB 1,024 MiB",
    ):
        assert part in text
    assert "speed of its training" not in text


def test_bars_show_where_the_time_and_the_memory_went_and_leave_waiting_out() -> None:
    costs = {
        "waiting": Cost(seconds=7200.0, peak_rss_bytes=100),
        "download": Cost(seconds=30.0),
        "training": Cost(seconds=90.0, peak_rss_bytes=400),
    }
    text = page(round_of(costs=costs, wall_s=7321.0, peak_rss_bytes=400))
    assert re.findall(r"width: ([\d.%]+)\"", text) == ["0.0%", "25.0%", "25.0%", "0.0%", "75.0%", "100.0%"]


def test_a_models_section_says_how_fast_it_was_trained_where_that_is_known(tmp_path: Path) -> None:
    model = replace(model_of(tmp_path), rows_a_second=21000.0, share_of_products=0.84, untrained_eras=2)
    text = Parsed(page(round_of(models=(model,)))).text
    assert "untrained mean era Spearman −0.0010, on 2 of its eras, evenly spread" in text  # noqa: RUF001
    assert "speed of its training 21,000 rows/s, 84% of this machine's matrix products" in text


@pytest.mark.parametrize("mark", ["<script>alert(1)</script>", '"><img src=x onerror=y>', "&lt;b&gt;", "'</style>"])
def test_slot_name_with_markup_is_escaped(tmp_path: Path, mark: str) -> None:
    check = Check(name=mark, must=mark, found=mark, passed=False)
    model = model_of(tmp_path, notes=(mark,))
    receipts = [sent(mark, recipe=mark, submission_id=mark, sha256=mark, checks=(check,)), failed(mark, mark)]
    plain, marked = (
        Parsed(page(round_of(*found, models=(model,), costs={name: Cost(seconds=1.0)})))
        for found, name in (([sent(), failed()], "x"), (receipts, mark))
    )
    assert marked.tags == plain.tags
    assert {name for name, _ in marked.attributes} == {name for name, _ in plain.attributes}
    assert marked.text.count(" ".join(mark.split())) >= 10


def test_an_error_of_the_round_is_escaped_too() -> None:
    assert "<b>" not in page(round_of(error=ERROR | {"message": "<b>"}))


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (round_of(), "No slot was named"),
        (round_of(error=ERROR), "train.parquet must have a column era, however it has none"),
        (round_of(sent(), failed()), "tournament-unreachable: the tournament must answer, however it did not"),
        (round_of(skipped(), round=None, opens_at_utc=None, closes_at_utc=None), "1 slot skipped"),
        (RoundResult(round=None), "No round of the tournament"),
        (round_of(peak_anonymous_bytes=None, costs={}), "not told by this system"),
    ],
    ids=["no receipts", "stopped", "failed slot", "local", "nothing", "no figures"],
)
def test_every_round_has_a_page(tmp_path: Path, result: RoundResult, told: str) -> None:
    assert told in Parsed(write_report(result, tmp_path).read_text()).text


def test_a_model_is_told_with_intervals_and_with_what_they_are_about(tmp_path: Path) -> None:
    scores = [0.02 + 0.01 * (-1) ** i for i in range(60)]
    text = page(round_of(models=(model_of(tmp_path, scores),)))
    told = Parsed(text).text
    found = interval(scores, range(575, 635), horizon_eras=12)
    assert f"CORR is above 0 for certain: 0.0200 (95 % interval {found.low:.4f} to {found.high:.4f})." in told
    assert f"Spearman rank correlation with the target 0.0200 {found.low:.4f} to {found.high:.4f} 2.00" in told
    assert "about this trained model, on other eras like these: another seed may do better or worse" in told
    for title in ("Cumulative CORR", "CORR by era", "Drawdown of cumulative CORR", "Learning curves of simple-mlp"):
        assert f"<figcaption>{title}" in text
    assert text.count("<svg") == 4


def test_the_horizon_of_an_interval_is_that_of_the_column_that_the_target_equals(tmp_path: Path) -> None:
    model = model_of(tmp_path, [0.02 + 0.01 * (-1) ** i for i in range(60)])
    told = json.loads((tmp_path / "model.json").read_text())
    shorter = page(round_of(models=(model,)))
    (tmp_path / "model.json").write_text(json.dumps(told | {"target_equals": "target_ender_20"}))
    assert page(round_of(models=(model,))) != shorter


def test_a_mean_that_cannot_be_told_from_zero_is_said_not_to_be(tmp_path: Path) -> None:
    scores = [0.001 + 0.05 * (-1) ** (i // 12) for i in range(96)]
    told = Parsed(page(round_of(models=(model_of(tmp_path, scores),)))).text
    assert "CORR cannot be told from 0: 0.0010 (95 % interval −0." in told  # noqa: RUF001


def test_a_model_without_any_figure_has_its_section(tmp_path: Path) -> None:
    told = Parsed(page(round_of(models=(model_of(tmp_path, [None, None]),)))).text
    assert "eras scored 0 eras undefined 2" in told
    assert "Spearman rank correlation with the target – – – – –" in told  # noqa: RUF001
    assert "Nothing can be said of Spearman: 0 eras" in told
    assert "nan" not in told.lower().split()


def test_a_chart_that_cannot_be_drawn_is_said_and_the_rest_stands(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    (tmp_path / "model.json").write_text("{")
    text = Parsed(write_report(round_of(sent(), models=(model,)), tmp_path).read_text()).text
    assert "Training curve of simple-mlp cannot be drawn (no-model)" in text
    assert "mean era Spearman 0.0200" in text
    assert "Sharpe undefined" in text
    assert "Round 1432 is safe" in text


def test_late_is_said_of_a_late_receipt() -> None:
    assert "1 h late" in Parsed(page(round_of(sent(left_s=-3600.0, status="late")))).text


def test_a_foreign_submission_is_not_called_ours() -> None:
    foreign = sent(verified="listed", origin="foreign", sha256=None, sent_at_utc=None, left_s=None, checks=())
    text = Parsed(page(round_of(foreign))).text
    assert "listed, not ours" in text
    assert "sha256 unknown" in text
    assert "Checks before sending" not in text


def test_the_same_round_gives_the_same_page_and_no_path_is_on_it(tmp_path: Path) -> None:
    result = round_of(sent(), models=(model_of(tmp_path),), report=tmp_path / "report.html")
    assert page(result) == page(result)
    assert str(tmp_path) not in page(result)


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        write_report(round_of(), tmp_path / "gone")
