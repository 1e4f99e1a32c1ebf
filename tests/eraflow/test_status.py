"""Is this week safe: told in about a second, whatever is down, from what the ledger and the disk have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from eraflow.at_work import AT_WORK
from eraflow.ledger import Ledger
from eraflow.rehearsal import Fault, LocalTournament
from eraflow.rounds import Round, system_now_utc
from eraflow.status import ASK_LIMIT_S, Seen, Status, look, newer_version, see
from eraflow.status_text import answer, json_object, text
from eraflow.store import Store, exclusive, utc_text, write_json
from eraflow.weekly_config import DAILY_CRONS, WATCH_CRONS, WEEKLY_CRONS, next_times
from tests.eraflow.made_up import model_of
from tests.eraflow.raw_server import OK, Server, closed_port, sending
from tests.eraflow.sender import SLOT, Sender

ROOT = Path(__file__).resolve().parents[2]
CONFIG = '[slots]\nrehearsal_one = "small"\nrehearsal_two = "small"\n'
HEAVY = ["torch", "pandas", "numerapi", "matplotlib", "prefect", "apprise", "pyarrow"]
NOWHERE = f"http://127.0.0.1:{closed_port()}"
# What a busy machine may take longer [s].
BUSY_S = 1.5

Look = Callable[..., Status]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with two slots of one recipe; `one` keeps its ledger there too."""
    folder = Store.open(tmp_path / "home").home
    (folder / "weekly.toml").write_text(CONFIG)
    return folder


@pytest.fixture
def status(local: LocalTournament, home: Path) -> Look:
    def status(url: str = local.url) -> Status:
        return look(home, {"ERAFLOW_API_URL": url})

    return status


def open_now(number: int = 1432) -> Round:
    """A round that opened an hour ago, by this machine's clock."""
    opens = system_now_utc() - timedelta(hours=1)
    return Round(number=number, opens_at_utc=opens, closes_at_utc=opens + timedelta(hours=26))


def test_a_round_that_nothing_was_sent_for_is_not_safe(status: Look) -> None:
    found = status()
    assert found.known_from == "tournament"
    assert [(r.slot, r.status, r.error_message) for r in found.receipts] == [
        (slot, "skipped", "nothing was sent from here yet") for slot in ("rehearsal_one", "rehearsal_two")
    ]
    told = answer(found)
    assert told.safe is False
    assert told.sentence == "Round 1401 is not safe: 0 of 2 slots verified, 1 d 1 h left"


def test_a_slot_is_safe_when_the_ledger_has_its_verified_receipt(status: Look, home: Path, one: Sender) -> None:
    receipt = one.send()
    found = status()
    first, second = found.receipts
    assert (first.slot, first.verified, first.submission_id) == (SLOT, "bytes", receipt.submission_id)
    assert first.left_s == pytest.approx(receipt.left_s, abs=2)
    assert second.submission_id is None
    assert answer(found).sentence.startswith("Round 1401 is not safe: 1 of 2 slots verified")

    (home / "weekly.toml").write_text('[slots]\nrehearsal_one = "small"\n')
    assert answer(status()).safe is True
    assert answer(status()).sentence == "Round 1401 is safe: 1 of 1 slot verified, 1 d 1 h before the deadline"


def test_without_a_configuration_the_slots_are_those_of_the_ledger(status: Look, home: Path, one: Sender) -> None:
    one.send()
    (home / "weekly.toml").unlink()
    assert [receipt.slot for receipt in status().receipts] == [SLOT]


def test_the_deadline_stands_in_utc_and_in_the_machine_s_zone(status: Look) -> None:
    found = status()
    assert found.round is not None
    at = replace(found.round, closes_at_utc=datetime(2026, 11, 29, 14, 0, tzinfo=UTC))
    shown = text(replace(found, round=at), ZoneInfo("Asia/Tokyo"))
    assert "deadline   Sun 2026-11-29 14:00 UTC (23:00 JST)" in shown
    assert "14:00 UTC (" not in text(replace(found, round=at), UTC)


def test_a_tournament_that_is_down_is_replaced_by_what_the_ledger_remembers(status: Look, home: Path) -> None:
    Ledger(Store(home).ledger_path, NOWHERE).note_round(open_now())
    found = status(NOWHERE)
    assert (found.known_from, found.is_open) == ("ledger", True)
    assert answer(found).safe is False
    assert answer(found).sentence.endswith("so says the ledger, the tournament could not be asked")


def test_a_round_long_past_says_nothing_of_this_week_when_the_tournament_is_down(status: Look, home: Path) -> None:
    past = replace(open_now(), closes_at_utc=system_now_utc() - timedelta(minutes=1))
    Ledger(Store(home).ledger_path, NOWHERE).note_round(past)
    found = answer(status(NOWHERE))
    assert found.safe is None
    assert found.sentence.startswith("It is not known whether a round is open: the tournament's API cannot be reached")


def test_a_tournament_that_hangs_costs_no_more_than_the_limit(local: LocalTournament, status: Look) -> None:
    local.faults.add(Fault(where="any query", what="hang", times=None))
    started = time.monotonic()
    found = status()
    assert time.monotonic() - started < ASK_LIMIT_S + BUSY_S
    assert found.trouble == "the tournament did not answer within 0.7 s; try again later"


def test_a_fresh_home_is_told_of_and_left_as_it_is(tmp_path: Path) -> None:
    found = look(tmp_path / "none", {"ERAFLOW_API_URL": NOWHERE})
    assert answer(found).safe is None
    assert "Nothing is known of any round" in text(found)
    assert json_object(found)["round"] is None
    assert not (tmp_path / "none").exists()


def test_between_rounds_the_last_one_is_told(local: LocalTournament, status: Look, home: Path, one: Sender) -> None:
    one.ledger.note_round(one.door.current_round())
    one.send()
    local.close_round()
    assert answer(status()).sentence.startswith(
        "Round 1401 is not safe: 1 of 2 slots verified, and the deadline passed"
    )
    local.move_clock(7200)
    found = status()
    assert (found.known_from, found.trouble, found.is_open) == (None, None, False)
    assert answer(found).sentence.startswith("No round is open; the last one that was seen: Round 1401 is not safe")


def test_past_rounds_stand_with_their_receipts(local: LocalTournament, status: Look, one: Sender) -> None:
    one.send()
    local.open_next_round(delay_s=0)
    found = status()
    assert found.round is not None
    assert found.round.number == 1402
    assert [(p.number, [(r.slot, r.verified) for r in p.receipts]) for p in found.past] == [(1401, [(SLOT, "bytes")])]
    assert "1401  rehearsal_one verified by bytes" in text(found)


def test_a_slot_that_got_the_name_of_one_that_was_safe_is_not(
    local: LocalTournament, status: Look, one: Sender
) -> None:
    one.send()
    began = one.ledger.begin(
        round_number=1401, slot=SLOT, slot_id="new", recipe="small", source="fresh", sha256="ab", late=False
    )
    one.ledger.mark(began, "failed", error="refused")
    told = ("failed", False, "the last attempt failed: refused")
    (receipt,) = [receipt for receipt in status().receipts if receipt.slot == SLOT]
    assert (receipt.status, receipt.verified, receipt.error_message) == told
    local.open_next_round(delay_s=0)
    (past,) = status().past
    assert [(r.status, r.verified, r.error_message) for r in past.receipts] == [told]


def test_an_attempt_whose_outcome_is_unknown_is_not_safe(status: Look, one: Sender) -> None:
    began = one.ledger.begin(round_number=1401, slot=SLOT, recipe="small", source="fresh", sha256="ab", late=False)
    one.ledger.mark(began, "sending")
    receipt = status().receipts[0]
    assert (receipt.exit_code, receipt.error_message) == (1, "it was sent, and it is not known what became of it")


def test_the_newest_good_model_of_a_recipe_is_shown_with_age_and_score(status: Look, home: Path) -> None:
    (home / "weekly.toml").write_text('[slots]\nrehearsal_one = "simple-mlp"\n')
    made_at = system_now_utc() - timedelta(days=3)

    def model(name: str, **changed: object) -> None:
        folder = home / "models" / f"simple-mlp-{name}"
        model_of(folder, (0.02, 0.04))
        told = json.loads((folder / "model.json").read_bytes())
        write_json(folder / "model.json", {**told, **changed})

    model("aaaaaaaaaaaa", made_at_utc=utc_text(made_at))
    model("bbbbbbbbbbbb", made_at_utc=utc_text(made_at + timedelta(days=1)), cut=True)
    (model_in_use,) = status(NOWHERE).models
    assert (model_in_use.model_id, model_in_use.against) == ("simple-mlp-aaaaaaaaaaaa", None)
    assert model_in_use.spearman_mean == pytest.approx(0.03)
    assert "simple-mlp-aaaaaaaaaaaa  3 d old, hold-out Spearman 0.0300" in text(status(NOWHERE))

    model("aaaaaaaaaaaa", made_at_utc=utc_text(made_at - timedelta(weeks=9)))
    (model_in_use,) = status(NOWHERE).models
    assert model_in_use.against == "was never finished"
    (home / "models" / "simple-mlp-bbbbbbbbbbbb" / "model.json").write_text("{")
    (model_in_use,) = status(NOWHERE).models
    assert model_in_use.against == "is 9.4 weeks old, above fallback.max_age_weeks = 8"


def test_the_next_attempts_are_those_of_the_schedule(status: Look) -> None:
    found = status()
    crons = {"weekly": WEEKLY_CRONS, "daily": DAILY_CRONS, "watch": WATCH_CRONS}
    expected = {name: next_times(crons[name], "UTC", found.now_utc, 1)[0] for name in crons}
    assert {due.deployment: due.at_utc for due in found.due} == expected
    assert [due.at_utc for due in found.due] == sorted(expected.values())


def test_a_wrong_configuration_is_a_warning(status: Look, home: Path) -> None:
    (home / "weekly.toml").write_text('data_versoin = "v5.3"\n')
    assert "did you mean data_version?" in status().warnings[0]


def test_a_damaged_ledger_is_a_warning(status: Look, home: Path) -> None:
    Store(home).ledger_path.write_bytes(b"not a database" * 100)
    assert "cannot be used" in status().warnings[0]


def test_a_newer_data_version_is_a_warning(local: LocalTournament, status: Look) -> None:
    assert status().warnings == ()
    local.add_data_version("v5.4")
    assert status().warnings == ("the tournament has data version v5.4, and data_version = v5.3 is configured",)
    assert newer_version("v5.3", ("v5.2", "v5.3")) is None


def test_up_is_running_only_while_its_process_is_there(status: Look, home: Path) -> None:
    def announced(pid: int, url: str) -> None:
        write_json(home / "up.json", {"pid": pid, "url": url, "api_url": f"{url}/api"})

    assert status().up is None
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    announced(gone.pid, NOWHERE)
    assert status().up is None

    announced(os.getpid(), NOWHERE)
    found = status()
    assert found.up is not None
    assert found.up.answers is False
    assert f"process {os.getpid()}), however its server at {NOWHERE} does not answer" in text(found)

    with Server(sending(OK + b"Content-Length: 4\r\n\r\ntrue")).running() as url:
        announced(os.getpid(), url)
        found = status()
    assert found.up is not None
    assert found.up.answers is True
    assert f"dashboard at {url}" in text(found)


def test_a_run_at_work_is_seen_until_it_lets_go(status: Look, home: Path) -> None:
    folder = Store(home).round_folder(1401)
    with exclusive(folder / f"{AT_WORK}-1-ab"):
        assert "; a run is at work on it" in text(status())
    assert not status().at_work


def test_alarms_stand_with_how_many_were_told(status: Look, one: Sender) -> None:
    one.ledger.note_alarm(1401, "missed", "eraflow: round 1401 has no verified submission yet", 0)
    assert "eraflow: round 1401 has no verified submission yet  TOLD TO NOBODY" in text(status())


def test_the_json_has_the_same_with_stable_keys(status: Look, one: Sender) -> None:
    one.send()
    told = json.loads(json.dumps(json_object(status())))
    assert set(told) == {
        "safe", "verdict", "now_utc", "round", "is_open", "opens_at_utc", "closes_at_utc", "left_s", "known_from",
        "trouble", "at_work", "submissions", "models", "past", "next", "up", "alarms", "warnings",
    }  # fmt: skip
    assert (told["safe"], told["round"], told["is_open"]) == (False, 1401, True)
    assert [(s["model"], s["status"], s["verified"]) for s in told["submissions"]] == [
        (SLOT, "submitted", "bytes"),
        ("rehearsal_two", "skipped", False),
    ]


def test_what_was_seen_is_not_asked_again(local: LocalTournament, home: Path) -> None:
    environ = {"ERAFLOW_API_URL": local.url}
    seen = see(environ)
    assert isinstance(seen, Seen)
    asked = len(local.requests)
    found = look(home, environ, seen=seen)
    assert found.round == seen.round
    assert len(local.requests) == asked


def test_an_address_that_may_not_be_used_is_told(home: Path) -> None:
    assert "ERAFLOW_API_URL must be an https address" in str(
        look(home, {"ERAFLOW_API_URL": "http://example.org"}).trouble
    )


def test_nothing_heavy_is_imported(home: Path, local: LocalTournament) -> None:
    code = f"""
import json, sys
from flows import command
code = command.main(["status", "--json"])
print(json.dumps([code, sorted(set({HEAVY!r}) & set(sys.modules))]))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ERAFLOW_HOME": str(home), "ERAFLOW_API_URL": local.url}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    told, last = done.stdout.splitlines()
    assert json.loads(told)["round"] == 1401
    assert json.loads(last) == [0, []]
