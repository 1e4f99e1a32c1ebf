"""The dead man's switch: whoever should have submitted is dead, hangs or was never started, and the alarm comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from eraflow.at_work import at_work, at_work_s
from eraflow.budget import Budget
from eraflow.errors import OutOfTimeError
from eraflow.fallback import StandIn
from eraflow.ledger import Ledger
from eraflow.progress import Progress, silent
from eraflow.rehearsal import Fault
from eraflow.request import Request, make_request
from eraflow.result import ModelReport
from eraflow.rounds import Round, system_now_utc
from eraflow.steps import Prepared
from eraflow.store import Store, exclusive
from eraflow.tournament import Tournament
from eraflow.watch import Watched, check, watch
from eraflow.weekly import Steps, plain_steps
from eraflow.weekly_config import read_configuration
from tests.behaviour.week import SLOTS, Hold, Week, wait_until
from tests.eraflow.raw_server import OK, Server, closed_port, sending

DENIED = '{"errors": [{"message": "Cannot query field"}]}'
ROOT = Path(__file__).resolve().parents[2]

Check = Callable[..., Watched]


class Bell:
    """Who is told."""

    def __init__(self, server: Server, url: str) -> None:
        self._server, self.url = server, url.replace("http:", "json:")

    @property
    def told(self) -> list[str]:
        """The titles of all alarms, in order."""
        return [str(json.loads(body)["title"]) for body in self._server.bodies]

    @property
    def text(self) -> str:
        """Title and body of the first alarm."""
        first = json.loads(self._server.bodies[0])
        return f"{first['title']}\n{first['message']}"


@pytest.fixture
def bell() -> Iterator[Bell]:
    server = Server(sending(OK + b"Content-Length: 0\r\n\r\n"))
    with server.running() as url:
        yield Bell(server, url)


@pytest.fixture
def configured(bell: Bell, monkeypatch: pytest.MonkeyPatch) -> Callable[[Week], Callable[..., Watched]]:
    """Asks as the command does, with a configuration whose alarms ring `bell`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("BELL", bell.url)
    # Pictures have tests of their own, and a read-back of what is not there takes a minute.
    monkeypatch.setattr("eraflow.weekly.plain_steps", _without_report)
    # Rounds that are looked at here have opened a moment ago.
    monkeypatch.setattr("eraflow.watch.JUST_OPENED_S", 0.0)

    def configured(week: Week) -> Callable[..., Watched]:
        def ask(*lines: str) -> Watched:
            slots = [f'{slot} = "simple-mlp"' for slot in SLOTS]
            text = "\n".join(["[alarm]", 'urls = ["$BELL"]', "[slots]", *slots, *lines])
            week.home.mkdir(exist_ok=True)
            (week.home / "weekly.toml").write_text(text)
            return check(week.home, None, os.environ)

        return ask

    return configured


def _without_report(progress: Progress = silent) -> Steps:
    return replace(plain_steps(progress), report=lambda request, result: request.home / "report.html")


def test_a_run_that_was_never_started_is_told_of_and_made_up_for(
    week: Week, configured: Callable[[Week], Check], bell: Bell
) -> None:
    watched = configured(week)()
    assert (watched.exit_code, watched.was_safe, watched.is_safe, watched.missing) == (1, False, True, SLOTS)
    assert {slot: len(sent) for slot, sent in week.accepted().items()} == {slot: 1 for slot in SLOTS}
    assert bell.told == [
        "eraflow: round 1401 has no verified submission yet, 1 d 1 h left",
        "eraflow: round 1401 is safe now",
    ]
    assert "no run is at work on it; the round is started now, without Prefect" in bell.text
    assert "What to do now:" in bell.text
    kept = Ledger(Store(week.home).ledger_path, week.local.url).alarms()
    assert [(note.kind, note.told) for note in kept] == [("receipt", 1), ("missed", 1)]
    for secret in (week.local.secret_key, week.local.public_id):
        assert secret not in bell.text


def test_a_safe_round_is_left_alone_without_a_word(week: Week, configured: Callable[[Week], Check], bell: Bell) -> None:
    week.play()
    week.sent()
    watched = configured(week)()
    assert (watched.exit_code, watched.was_safe) == (0, True)
    assert watched.sentence == "round 1401 is safe: 2 slots verified"
    assert (week.sent(), bell.told) == ([], [])


def test_between_rounds_nothing_is_told(week: Week, configured: Callable[[Week], Check], bell: Bell) -> None:
    week.local.close_round()
    week.local.move_clock(7200)
    watched = configured(week)()
    assert (watched.exit_code, watched.round, bell.told) == (0, None, [])


def test_a_run_that_was_killed_is_made_up_for(
    week: Week, configured: Callable[[Week], Check], bell: Bell, tmp_path: Path
) -> None:
    marker = tmp_path / "training"
    week.kill_when(marker.exists, hold=Hold("train", marker))
    assert week.accepted() == {}
    watched = configured(week)()
    assert (watched.exit_code, watched.is_safe) == (1, True)
    assert set(week.accepted()) == set(SLOTS)
    assert bell.told[0].startswith("eraflow: round 1401 has no verified submission yet")


def test_a_run_that_has_just_begun_is_no_reason_for_an_alarm(
    week: Week, configured: Callable[[Week], Check], bell: Bell
) -> None:
    with at_work(Store.open(week.home), 1401):
        watched = configured(week)()
    assert (watched.exit_code, watched.is_safe, bell.told) == (0, False, [])
    assert "round 1401 is not safe yet: a run has been at work on it for" in watched.sentence


def test_a_run_that_waited_for_the_opening_may_take_a_moment_to_notice_it(
    week: Week, configured: Callable[[Week], Check], bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eraflow.watch.JUST_OPENED_S", 60.0)
    looked, over = threading.Event(), threading.Event()

    def look(store: Store, number: int) -> float | None:
        found = at_work_s(store, number)
        looked.set()
        return found

    monkeypatch.setattr("eraflow.watch.at_work_s", look)

    def run() -> None:
        assert looked.wait(60)
        with at_work(Store.open(week.home), 1401):
            over.wait(60)

    later = threading.Thread(target=run)
    later.start()
    watched = configured(week)()
    over.set()
    later.join()
    assert (watched.exit_code, bell.told) == (0, [])
    assert "a run has been at work on it for" in watched.sentence


def test_a_run_at_work_is_left_alone_while_there_is_time(
    week: Week, configured: Callable[[Week], Check], bell: Bell
) -> None:
    with exclusive(Store.open(week.home).round_folder(1401) / "at-work-1-ab"):
        watched = configured(week)()
    assert (watched.exit_code, watched.is_safe) == (1, False)
    assert "a run is at work on it, and is left alone until 30 min" in watched.sentence
    assert (week.sent(), len(bell.told)) == ([], 1)


def test_a_run_that_hangs_is_overtaken_by_the_fallback_when_time_is_short(
    weeks: Week, configured: Callable[[Week], Check], bell: Bell, tmp_path: Path
) -> None:
    ask, floor = configured(weeks), "[fallback]\nmin_spearman = -1.0"
    ask(floor)
    weeks.local.open_next_round(delay_s=0)
    marker, told = tmp_path / "training", len(bell.told)
    request = make_request(home=weeks.home, config_file=weeks.home / "weekly.toml")
    child = weeks.start(request, Hold("train", marker))
    try:
        wait_until(marker.exists)
        assert at_work_s(Store(weeks.home), 1402) is not None
        watched = ask(floor, "takeover_s = 500000")
    finally:
        child.kill()
        child.join()
    assert (watched.exit_code, watched.is_safe) == (1, True)
    assert {receipt.source for receipt in watched.receipts} == {"older-model"}
    assert {slot: len(sent) for slot, sent in weeks.accepted().items()} == {slot: 1 for slot in SLOTS}
    assert bell.told[told:] == [
        "eraflow: round 1402 has no verified submission yet, 1 d 1 h left",
        "eraflow: round 1402 was sent with a fallback",
        "eraflow: round 1402 is safe now",
    ]


def test_without_an_older_model_a_training_that_is_overtaken_is_waited_for(
    week: Week, configured: Callable[[Week], Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the deadline: the older model is looked for while the training is at work, which is all that can help."""
    looked_for, plain = list[str](), plain_steps

    def steps(progress: Progress = silent) -> Steps:
        made = _without_report(progress)

        def train(request: Request, prepared: Prepared, budget: Budget) -> ModelReport:
            if not request.train:
                raise OutOfTimeError("another run is at work on it, and there is no more time")
            wait_until(lambda: len(looked_for) >= 2)
            return plain().train(request, prepared, budget)

        def stand_in(*arguments: Any) -> StandIn:
            looked_for.append("once before a training is tried, once after it")
            return plain().stand_in(*arguments)

        return replace(made, train=train, stand_in=stand_in)

    monkeypatch.setattr("eraflow.weekly.plain_steps", steps)
    left_s = Tournament.from_environment().current_round().left_s(week.local.now_utc())
    watched = configured(week)("[fallback]", f"takeover_s = {left_s - 4}")
    assert watched.is_safe, watched.sentence
    assert {receipt.source for receipt in watched.receipts} == {"fresh"}


def test_without_an_older_model_a_fresh_one_is_trained_even_when_time_is_short(
    week: Week, configured: Callable[[Week], Check]
) -> None:
    watched = configured(week)("[fallback]", "takeover_s = 500000")
    assert watched.is_safe
    assert {receipt.source for receipt in watched.receipts} == {"fresh"}


def test_a_tournament_that_is_down_rings_too(
    week: Week, configured: Callable[[Week], Check], bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("ERAFLOW_API_URL", url)
    ask = configured(week)
    assert ask().exit_code == 1
    assert bell.told[0] == "eraflow: whether this week is safe cannot be asked"

    opened = Round(number=1401, opens_at_utc=system_now_utc(), closes_at_utc=system_now_utc().replace(year=2999))
    Ledger(Store.open(week.home).ledger_path, url).note_round(opened)
    watched = ask()
    assert (watched.exit_code, watched.round, watched.missing) == (1, 1401, SLOTS)
    assert "eraflow: whether round 1401 is safe cannot be asked, " in "\n".join(bell.told)


def test_a_tournament_that_comes_back_without_an_open_round_ends_well(
    week: Week, configured: Callable[[Week], Check], bell: Bell
) -> None:
    week.local.close_round()
    week.local.move_clock(7200)
    # As many as one query is tried.
    week.local.faults.add(Fault(where="any query", what="status", code=503, times=5))
    watched = configured(week)()
    assert (watched.exit_code, watched.is_safe) == (1, True)
    assert watched.did[-1] == "no round is open after all"
    assert bell.told == ["eraflow: whether this week is safe cannot be asked"]


def test_a_tournament_that_denies_a_round_which_it_has_opened_is_not_believed(
    week: Week, configured: Callable[[Week], Check], bell: Bell
) -> None:
    ledger, now_utc = Ledger(Store.open(week.home).ledger_path, week.local.url), system_now_utc()
    ledger.note_round(
        Round(number=1401, opens_at_utc=now_utc.replace(year=2000), closes_at_utc=now_utc.replace(year=2999))
    )
    week.local.faults.add(Fault(where="query:rounds", what="status", code=200, body=DENIED, times=None))
    watched = configured(week)()
    assert (watched.exit_code, watched.was_safe, watched.missing) == (1, False, SLOTS)
    assert "Cannot query field, however round 1401 should be open until" in watched.sentence
    assert bell.told[0].startswith("eraflow: whether round 1401 is safe cannot be asked, ")


def test_what_the_ledger_knows_is_verified_needs_no_answer(
    week: Week, configured: Callable[[Week], Check], bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(Store.open(week.home).ledger_path, week.local.url)
    ledger.note_round(
        Round(number=1401, opens_at_utc=system_now_utc(), closes_at_utc=system_now_utc().replace(year=2999))
    )
    for slot in SLOTS:
        began = ledger.begin(round_number=1401, slot=slot, recipe="a", source="fresh", sha256="ab", late=False)
        ledger.mark(began, "verified", submission_id="s", verified="bytes")
    week.local.faults.add(Fault(where="any query", what="status", code=503, times=None))
    watched = configured(week)()
    assert (watched.exit_code, watched.is_safe, bell.told) == (0, True, [])
    assert ", says the ledger; the tournament's API answered 503" in watched.sentence


def test_a_tournament_that_hangs_keeps_no_alarm_from_ringing(
    week: Week, configured: Callable[[Week], Check], bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ASK_LIMIT_S", "UNKNOWN_LEFT_S", "READBACK_S"):
        monkeypatch.setattr(f"eraflow.watch.{name}", 0.5)
    ask = configured(week)
    request = make_request(home=week.home, slots=SLOTS, recipe="simple-mlp")
    week.local.faults.add(Fault(where="any query", what="hang", times=None))
    started = time.monotonic()
    assert ask("[fallback]").told == 1
    watched = watch(request, read_configuration(week.home / "weekly.toml").alarm, os.environ)
    assert time.monotonic() - started < 15
    assert (watched.exit_code, watched.told) == (1, 0), "the same is not told twice within hours"
    assert bell.told.count("eraflow: whether this week is safe cannot be asked") == 1
    assert "the round could not be played: the round did not answer within" in watched.sentence


def test_after_the_deadline_the_miss_is_told_once(week: Week, configured: Callable[[Week], Check], bell: Bell) -> None:
    week.local.close_round()
    ask = configured(week)
    assert (ask().exit_code, ask().exit_code) == (1, 1)
    assert bell.told == ["eraflow: round 1401 was missed"]
    assert week.sent() == []


def test_a_machine_that_comes_back_when_the_round_is_over_tells_of_the_miss(
    week: Week, configured: Callable[[Week], Check], bell: Bell
) -> None:
    week.local.close_round()
    week.local.move_clock(7200)
    ask = configured(week)
    assert (ask().exit_code, bell.told) == (0, []), "nothing of ours was ever there to miss it"
    past = week.local.now_utc() - timedelta(days=8)
    ledger = Ledger(Store.open(week.home).ledger_path, week.local.url)
    ledger.note_round(Round(number=1400, opens_at_utc=past, closes_at_utc=past + timedelta(hours=26)))
    ledger.begin(round_number=1400, slot="another", recipe="a", source="fresh", sha256="ab", late=False)
    assert (ask().exit_code, bell.told) == (0, []), "these slots are new"
    ledger.begin(round_number=1400, slot=SLOTS[0], recipe="a", source="fresh", sha256="ab", late=False)
    assert (ask().exit_code, ask().round) == (1, 1401)
    assert bell.told == ["eraflow: round 1401 was missed"]
    assert week.sent() == []


def test_a_kind_of_round_that_is_not_scheduled_is_nobodys_loss(
    week: Week, configured: Callable[[Week], Check], bell: Bell
) -> None:
    watched = configured(week)("[schedule]", "weekly = []")
    assert (watched.was_safe, watched.exit_code, bell.told) == (True, 0, [])
    assert "nothing is scheduled" in watched.sentence


def test_a_daily_round_is_sent_with_the_newest_model_which_is_no_fallback_to_be_told_of(
    weeks: Week, configured: Callable[[Week], Check], bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, floor = configured(weeks), "[fallback]\nmin_spearman = -1.0"
    ask(floor)
    weeks.local.open_next_round(delay_s=0)
    heard = len(bell.told)
    monkeypatch.setattr("eraflow.rounds.SHORT_WINDOW", timedelta(days=30))
    watched = ask(floor)
    assert "the newest good model is sent now" in watched.sentence
    assert {receipt.source for receipt in watched.receipts} == {"older-model"}
    assert [title.partition(", ")[0] for title in bell.told[heard:]] == [
        "eraflow: round 1402 has no verified submission yet",
        "eraflow: round 1402 is safe now",
    ]


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ('third = "no-such-recipe"', 2, "no-such-recipe"),
        ('nobody_s = "simple-mlp"', 2, "nobody_s"),
    ],
)
def test_what_a_round_would_be_refused_for_rings_and_is_not_tried(
    week: Week, configured: Callable[[Week], Check], bell: Bell, line: str, code: int, text: str
) -> None:
    watched = configured(week)(line)
    assert (watched.exit_code, watched.is_safe) == (code, False)
    assert (week.sent(), len(bell.told)) == ([], 1)
    assert text in bell.text


def test_refused_keys_ring(
    week: Week, configured: Callable[[Week], Check], bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMERAI_SECRET_KEY", "wrong-and-secret")
    watched = configured(week)()
    assert (watched.exit_code, len(bell.told)) == (4, 1)
    assert "wrong-and-secret" not in bell.text


def test_the_command_tells_the_same_as_json(week: Week, configured: Callable[[Week], Check], bell: Bell) -> None:
    week.local.close_round()
    configured(week)()
    done = subprocess.run(
        [sys.executable, "-m", "flows", "status", "--check", "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, told["round"], told["was_safe"], told["missing"]) == (1, 1401, False, list(SLOTS))
    assert set(told) == {"round", "was_safe", "is_safe", "left_s", "told", "missing", "did", "submissions"}
