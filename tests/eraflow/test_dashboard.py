"""What the dashboard answers, in words."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path

import pytest

from eraflow import dashboard
from eraflow.dashboard import (
    data_answer,
    is_repetition,
    model,
    scores,
    week_answer,
    week_begins,
    week_ends,
)
from eraflow.inventory import Held, Inventory
from eraflow.known import receipts_of
from eraflow.ledger import Ledger
from eraflow.measure import Cost
from eraflow.request import Request, make_request
from eraflow.result import RoundResult
from eraflow.rounds import Round
from eraflow.store import Store, utc_text
from tests.eraflow.made_up import CLOSES, ERROR, OPENS, failed, model_of, round_of, sent, skipped
from tests.eraflow.test_comparison import made

URL = "http://127.0.0.1:9"
OPENED = Round(number=1432, opens_at_utc=OPENS, closes_at_utc=CLOSES)
EARLY = CLOSES - timedelta(hours=5)
UNREACHABLE = {"code": "tournament-unreachable", "message": "the tournament must answer", "exit_code": 1}


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    """A run for two slots whose ledger knows the round."""
    monkeypatch.setenv("ERAFLOW_API_URL", URL)
    request = make_request(home=tmp_path / "home", slots=["main", "second"], recipe="simple-mlp")
    ledger_of(request).note_round(OPENED)
    return request


def ledger_of(request: Request) -> Ledger:
    return Ledger(Store.open(request.home).ledger_path, URL)


def verify(request: Request, *slots: str) -> None:
    for slot in slots:
        ledger = ledger_of(request)
        attempt = ledger.begin(
            round_number=1432, slot=slot, recipe="simple-mlp", source="fresh", sha256="ab" * 32, late=False
        )
        ledger.mark(
            attempt, "verified", submission_id=f"id-of-{slot}", verified="bytes",
            sent_at_utc=utc_text(OPENS + timedelta(minutes=3)),
        )  # fmt: skip


def pictureless(text: str) -> str:
    return re.sub(r"!\[.*?\]\(data:image/png;base64,[^)]+\)", "PICTURE", text)


# Is this week safe?


def test_a_safe_week_says_so_with_times_and_receipts() -> None:
    found = week_answer(round_of(sent("main"), sent("second", source="older-model", note="no time")))
    text = pictureless(found.markdown)
    assert (found.key, found.sentence) == (
        "week", "Round 1432 is safe: 2 of 2 slots verified, 23 h 55 min before the deadline",
    )  # fmt: skip
    assert text.startswith("## ✓ Round 1432 is safe\n\nPICTURE\n\n")
    assert "| on-time deadline | Sun 22 Nov 2026, 14:00 |" in text
    assert "| ✓ main | simple-mlp | fresh | submitted | byte for byte | Sat 14:04:08 |" in text
    assert "| ✓ second | simple-mlp | older model |" in text
    assert "| main | `4d56d93d-36a1-557a-9a1a-bd47b506c7b8` | `1da7c9b6814f` |" in text
    assert "\n\n- second: no time\n\n" in text


def test_a_week_ends_with_where_the_time_and_the_memory_of_the_run_went() -> None:
    waiting = {"waiting": Cost(seconds=3600.0)}
    result = round_of(sent(), wall_s=4460.0)
    text = week_answer(replace(result, costs=waiting | dict(result.costs))).markdown
    assert (
        text.splitlines()[-8:]
        == [
            "### Time and memory",
            "",
            "| stage | seconds |  | memory at most | of its own |",
            "|---|---|---|---|---|",
            "| waiting | 3,600.0 |  | – | – |",  # noqa: RUF001
            "| download | 41.2 | █ | – | – |",  # noqa: RUF001
            "| training | 812.4 | ███████████ | 3,072 MiB | 1,024 MiB |",
            "| between the stages | 6.4 |  |  |  |",
            "| all | 4,460.0 |  | 3,072 MiB | 1,024 MiB |",
        ][-8:]
    )
    assert "Time and memory" not in week_answer(RoundResult(round=None, error=ERROR)).markdown


def test_the_times_are_in_utc_and_in_the_zone_of_this_machine() -> None:
    assert dashboard._times(OPENS, CLOSES, timezone(timedelta(hours=1), "CET")).splitlines() == [
        "|  | UTC | this machine (CET) |",
        "|---|---|---|",
        "| opened | Sat 21 Nov 2026, 12:04 | Sat 21 Nov 2026, 13:04 |",
        "| on-time deadline | Sun 22 Nov 2026, 14:00 | Sun 22 Nov 2026, 15:00 |",
    ]


def test_a_week_that_is_not_safe_says_why_once() -> None:
    found = week_answer(round_of(sent("main"), failed("second", "no <answer>")))
    assert found.sentence == "Round 1432 is not safe: 1 of 2 slots verified"
    assert found.markdown.startswith("## × Round 1432 is not safe\n\n**no \\<answer\\>**\n\n")  # noqa: RUF001
    assert found.markdown.count("no \\<answer\\>") == 1


def test_a_week_begins_unsafe_with_what_the_ledger_knows(request_: Request) -> None:
    verify(request_, "second")
    found = week_begins(OPENED, receipts_of(request_, OPENED))
    assert found is not None
    assert found.sentence == "Round 1432 is not safe yet: 1 of 2 slots verified, a run is at work"
    assert "| – main | simple-mlp | – | not sent yet | – | – |" in found.markdown  # noqa: RUF001
    assert "| ✓ second | simple-mlp | fresh | submitted | byte for byte | Sat 12:07:08 |" in found.markdown
    assert "nothing was sent" not in found.markdown


def test_a_week_that_is_safe_already_does_not_begin_unsafe(request_: Request) -> None:
    verify(request_, "main", "second")
    assert week_begins(OPENED, receipts_of(request_, OPENED)) is None


def test_a_run_that_reached_nobody_does_not_take_back_what_is_safe(request_: Request) -> None:
    stopped = RoundResult(round=None, receipts=(failed("main"), failed("second")))
    verify(request_, "main")
    found = week_ends(request_, stopped, EARLY)
    assert found is not None
    assert found.sentence == "Round 1432 is not safe: 1 of 2 slots verified"
    assert "Sun 22 Nov 2026, 14:00" in found.markdown
    verify(request_, "second")
    assert week_ends(request_, stopped, EARLY) is None


def test_a_run_that_reached_nobody_after_the_deadline_never_calls_the_next_week_safe(request_: Request) -> None:
    verify(request_, "main", "second")
    found = week_ends(request_, RoundResult(round=None, error=UNREACHABLE), CLOSES)
    assert found is not None
    assert found.sentence == "This run stopped"
    assert "**the tournament must answer**" in found.markdown


def test_a_day_without_a_round_changes_nothing_unless_one_was_waited_for(request_: Request) -> None:
    none_open = RoundResult(round=None, error={"code": "no-round", "message": "no round is open", "exit_code": 3})
    assert week_ends(request_, none_open, CLOSES) is None
    assert week_ends(replace(request_, wait_s=60.0), none_open, CLOSES) is not None


def test_a_run_that_submits_nothing_says_nothing_of_the_week(request_: Request) -> None:
    assert week_ends(replace(request_, submit=False), round_of(skipped()), EARLY) is None


def test_only_a_run_that_found_everything_done_is_a_repetition() -> None:
    there = sent("main", status="already-submitted")
    assert is_repetition(round_of(there))
    assert not is_repetition(round_of(there, sent("second")))
    assert not is_repetition(round_of(there, failed("second")))
    assert not is_repetition(round_of(there, error=ERROR))
    assert not is_repetition(round_of())


def test_an_unreadable_ledger_hides_no_failure(request_: Request) -> None:
    Store.open(request_.home).ledger_path.write_bytes(b"no database" * 500)
    found = week_ends(request_, RoundResult(round=None, error=ERROR), EARLY)
    assert found is not None
    assert found.sentence == "This run stopped"


# How good is the model?


def test_a_first_model_is_said_to_be_the_first(tmp_path: Path) -> None:
    made_up = model_of(tmp_path / "m" / "simple-mlp-1", notes=("a <note>",))
    found = model(replace(made_up, recipe="My Recipe_2", rows_a_second=21000.0, share_of_products=0.84))
    assert (found.key, found.sentence) == (
        "model-my-recipe-2", "Mean era Spearman 0.0200, first model of its recipe",
    )  # fmt: skip
    text = pictureless(found.markdown)
    assert text.count("PICTURE") == 2
    assert "on cpu; 21,000 rows/s, 84% of this machine's matrix products\n" in text
    assert "| on its hold-out | this model |\n|---|---|\n| made | 2026-08-22 |" in text
    assert "| mean era Spearman | 0.0200 |" in text
    assert "| Sharpe | undefined |" in text
    assert "| eras scored | 3 |" in text
    assert text.endswith("- a \\<note\\>")


def test_a_model_is_shown_against_the_last_one(tmp_path: Path) -> None:
    made(tmp_path, "a", 14, (0.1, 0.3))
    now = made(tmp_path, "b", 21, (0.1, 0.2, 0.3))
    report = replace(model_of(tmp_path / "elsewhere"), folder=now.folder, model_id=now.model_id, cut=True)
    found = model(report)
    assert found.sentence == "Mean era Spearman 0.2000, last 0.2000"
    assert "| on its hold-out | this model | last model | change |" in found.markdown
    assert "| made | 2026-11-21 | 2026-11-14 |  |" in found.markdown
    assert "| mean era Spearman on the 2 eras of both | 0.1500 | 0.2000 | −0.0500 |" in found.markdown  # noqa: RUF001
    assert "| eras scored | 3 | 2 |  |" in found.markdown
    assert "its training was cut to be in time" in found.markdown


# What do the files hold, and how did past rounds score?


def test_the_data_say_how_many_files_are_new() -> None:
    live = Held(
        name="v5.3/live.parquet", rows=6500, eras=1, newest_era="X", columns=99, size_bytes=7_900_000, sha256="a"
    )
    train = replace(live, name="v5.3/train.parquet", rows=2_700_000, eras=574, newest_era="0574", sha256="b")
    last = Inventory(round=1431, held=(replace(live, rows=6400, sha256="c"), train))
    found = data_answer(Inventory(round=1432, held=(live, train)), last)
    assert (found.key, found.sentence) == ("data", "Round 1432: 1 of 2 files are new")
    assert "| file | rows | eras | newest era | columns | since round 1431 |" in found.markdown
    assert "| v5.3/live.parquet | 6,500 | 1 | X | 99 | +100 rows |" in found.markdown
    assert "| v5.3/train.parquet | 2,700,000 | 574 | 0574 | 99 | unchanged |" in found.markdown
    assert "| v5.3/live.parquet | 7.9 MB | `a` |" in found.markdown
    assert data_answer(Inventory(round=None, held=(live,)), None).sentence == (
        "Local files: 1 file, nothing to compare with yet"
    )


def test_scores_have_a_chart_where_there_is_one() -> None:
    found = scores("Round 1430: corr 0.0123", "| round |\n|---|\n| 1430 |", b"\x89PNG")
    assert found.key == "scores"
    assert pictureless(found.markdown) == "### Scores of past rounds\n\nPICTURE\n\n| round |\n|---|\n| 1430 |"
    assert "base64" not in scores("nothing yet", "none", None).markdown
