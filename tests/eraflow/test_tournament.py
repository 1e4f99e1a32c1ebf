"""What the door to the tournament asks: the round, the slots, with which keys, and again after which faults."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eraflow import transport
from eraflow.client import Keys
from eraflow.entries import read_payout
from eraflow.errors import ClosedError, CredentialsError, InputError, RefusedError, TransientError
from eraflow.rehearsal.faults import Fault, What
from eraflow.rehearsal.server import LocalTournament
from eraflow.rounds import Clock
from eraflow.tournament import RETRY_WAITS_S, Tournament
from tests.eraflow.conftest import nap
from tests.eraflow.talking import CSV, FAULTS, LIVE, allowed, asked, refused_with

# The round and the slots


def test_the_round_has_its_number_and_its_times_from_the_tournament(local: LocalTournament, door: Tournament) -> None:
    opened = door.current_round()
    assert opened.number == local.open_round() == 1401
    assert opened.opens_at_utc <= local.now_utc() < opened.closes_at_utc
    assert opened.ends_at_utc is not None
    assert opened.closes_at_utc < opened.ends_at_utc


def test_a_round_says_what_it_pays(local: LocalTournament, door: Tournament) -> None:
    number = local.open_round()
    assert number is not None
    terms = door.payout(number)
    assert (terms.corr, terms.mmc, terms.factor, terms.clip) == (3.0, 15.0, 1.0, 1.0)
    with pytest.raises(InputError, match="round 7 must be one of the tournament's"):
        door.payout(7)


def test_what_a_round_of_the_old_regime_pays_is_read_by_the_names_of_its_scores() -> None:
    def one(name: str, multiplier: float, *, paid: bool = True) -> dict[str, Any]:
        return {"name": name, "isPayout": paid, "defaultMultiplier": multiplier, "clipThreshold": 0.05}

    configs = [one("v2_corr20", 0.75), one("mmc", 2.25), one("bmc", 0.0, paid=False)]
    terms = read_payout({"payoutFactor": 0.088, "roundScoreConfigs": configs})
    assert (terms.corr, terms.mmc, terms.factor, terms.clip) == (0.75, 2.25, 0.088, 0.05)
    with pytest.raises(ValueError, match="must be a corr or an mmc, however it is 'tc'"):
        read_payout({"payoutFactor": 1.0, "roundScoreConfigs": [one("tc", 1.0)]})


def test_between_rounds_no_round_is_open(local: LocalTournament, door: Tournament) -> None:
    local.close_round()
    local.move_clock(7200)
    with pytest.raises(ClosedError, match="not open for submissions") as caught:
        door.current_round()
    assert caught.value.code == "no-round"


def test_an_empty_list_of_rounds_means_that_none_is_open(local: LocalTournament, door: Tournament) -> None:
    local.faults.add(Fault(where="query:rounds", what="empty-rounds"))
    with pytest.raises(ClosedError, match="no round is open"):
        door.current_round()


def test_the_latest_round_is_told_after_it_has_closed(local: LocalTournament, door: Tournament) -> None:
    local.close_round()
    local.move_clock(7200)
    latest = door.latest_round()
    assert latest.number == 1401
    assert latest.left_s(door.now_utc()) < 0


def test_a_round_of_long_ago_is_not_the_latest(
    local: LocalTournament, door: Tournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.close_round()
    local.move_clock(7200)
    monkeypatch.setattr(door, "now_utc", lambda: local.now_utc() + timedelta(days=8))
    with pytest.raises(ClosedError):
        door.latest_round()


def test_slots_are_those_of_this_tournament_and_tell_which_are_hosted(local: LocalTournament, door: Tournament) -> None:
    identity = local.add_slot("pickled", hosted=True)
    found = door.slots()
    assert {name: slot.hosted for name, slot in found.items()} == {
        "rehearsal_one": False,
        "rehearsal_two": False,
        "pickled": True,
    }
    assert found["pickled"].model_id == identity


def test_an_api_that_does_not_tell_hosted_models_stops_nothing(local: LocalTournament, door: Tournament) -> None:
    unknown_field = refused_with("Cannot query field computePickleUpload on type Model")
    local.faults.add(Fault(where="query:account", what="status", code=200, body=unknown_field.body, after=1))
    assert {slot.hosted for slot in door.slots().values()} == {None}


def test_the_clock_is_the_tournaments_after_the_first_answer(local: LocalTournament) -> None:
    clock = Clock(system=lambda: datetime(2020, 1, 1, tzinfo=UTC))
    Tournament(local.url, clock=clock).current_round()
    assert abs((clock.now_utc() - local.now_utc()).total_seconds()) < 5


@pytest.mark.parametrize(
    "date", ["", "yesterday", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "Mon, 99 Jan 2026 00:00:00 GMT"]
)
def test_a_date_header_that_is_none_changes_no_clock(
    date: str, local: LocalTournament, door: Tournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.current_round()
    skew_s = door.clock.skew_s
    monkeypatch.setattr("eraflow.rehearsal.wire.Handler.date_time_string", lambda *_: date)
    door.current_round()
    assert door.clock.skew_s == skew_s


# Which addresses and which keys


@pytest.mark.parametrize(
    "url",
    [
        "http://api-tournament.numer.ai",
        "http://127.0.0.1@example.com",
        "http://127.0.0.1.example.com",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "https://",
        "http://[::1",
        "127.0.0.1:8000",
    ],
)
def test_an_address_is_https_or_of_this_machine(url: str) -> None:
    with pytest.raises(InputError, match="https"):
        Tournament.from_environment({"ERAFLOW_API_URL": url})


@pytest.mark.parametrize("url", ["https://example.com", "http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"])
def test_https_and_loopback_are_allowed(url: str) -> None:
    assert Tournament.from_environment({"ERAFLOW_API_URL": url}).url == url


def test_half_a_key_pair_is_refused() -> None:
    for name in ("NUMERAI_PUBLIC_ID", "NUMERAI_SECRET_KEY"):
        with pytest.raises(CredentialsError, match="one is missing"):
            Tournament.from_environment({name: "HALF"})


@pytest.mark.parametrize("secret", ["SECRET\n", "SEC RET", "SECRÉT", "SEC\x00RET", "SECRET\r\nX-Evil: 1"])
def test_keys_that_could_break_a_header_are_refused_without_showing_them(secret: str) -> None:
    with pytest.raises(CredentialsError, match="NUMERAI_SECRET_KEY must be") as caught:
        Tournament.from_environment({"NUMERAI_PUBLIC_ID": "PUBLIC", "NUMERAI_SECRET_KEY": secret})
    assert "SEC" not in caught.value.message.replace("SECRET_KEY", "")


def test_without_keys_only_what_needs_them_is_refused(local: LocalTournament) -> None:
    door = Tournament.from_environment({"ERAFLOW_API_URL": local.url})
    assert door.current_round().number == 1401
    with pytest.raises(CredentialsError, match="set NUMERAI_PUBLIC_ID and NUMERAI_SECRET_KEY") as caught:
        door.slots()
    assert caught.value.code == "no-keys"


def test_wrong_keys_are_refused_at_once_and_never_read_as_a_closed_round(local: LocalTournament) -> None:
    door = Tournament(local.url, Keys("WRONG", "KEYS"), sleep=nap)
    with pytest.raises(CredentialsError, match="does not accept the keys"):
        door.slots()
    assert asked(local, "account") == 1


def test_keys_go_only_where_they_are_needed(local: LocalTournament, door: Tournament, tmp_path: Path) -> None:
    seen: list[tuple[str, bool]] = []

    def note(handler: Any, method: str, path: str, root: str) -> None:
        seen.append((root or method, "Authorization" in handler.headers))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eraflow.rehearsal.wire.Handler._log", note)
        door.current_round()
        door.download(LIVE, tmp_path / "live.parquet")
        slot = door.slots()["rehearsal_one"]
        door.upload("a.csv", CSV, slot.model_id, allowed)
    with_keys = {what for what, authorized in seen if authorized}
    assert with_keys == {"account", "submissionUploadAuth"}


def test_a_netrc_file_adds_no_credentials(
    local: LocalTournament, door: Tournament, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert door.slots()


# Passing faults


@pytest.mark.parametrize(("what", "more"), FAULTS)
def test_a_passing_fault_is_asked_again(
    what: What, more: dict[str, Any], local: LocalTournament, door: Tournament
) -> None:
    local.faults.add(Fault(where="any query", what=what, times=2, **more))
    assert door.current_round().number == 1401


def test_each_wait_before_another_try_is_told_with_its_reason(
    local: LocalTournament, door: Tournament, caplog: pytest.LogCaptureFixture
) -> None:
    local.faults.add(Fault(where="any query", what="status", code=503, times=2))
    with caplog.at_level("INFO", "eraflow"):
        door.current_round()
    assert caplog.messages == [
        "try 2 of 5 in 0.5 s: the tournament's API answered 503; try again later",
        "try 3 of 5 in 2 s: the tournament's API answered 503; try again later",
    ]


@pytest.mark.parametrize(("what", "more"), FAULTS)
def test_a_fault_that_stays_is_a_transient_error_after_bounded_tries(
    what: What, more: dict[str, Any], local: LocalTournament, door: Tournament
) -> None:
    local.faults.add(Fault(where="any query", what=what, times=None, **more))
    with pytest.raises(TransientError) as caught:
        door.current_round()
    assert caught.value.exit_code == 1
    assert len(local.faults.struck) == len(RETRY_WAITS_S) + 1


def test_a_refusal_is_not_asked_again(local: LocalTournament, door: Tournament) -> None:
    local.faults.add(Fault(where="any query", what="status", code=404, times=None))
    with pytest.raises(RefusedError, match="404"):
        door.current_round()
    assert len(local.faults.struck) == 1


def test_a_redirect_is_not_followed(local: LocalTournament, door: Tournament) -> None:
    local.faults.add(Fault(where="any query", what="redirect", times=None))
    with pytest.raises(RefusedError, match="redirect"):
        door.current_round()
    assert not any("elsewhere" in path for _, path, _ in local.requests)


@pytest.mark.parametrize(("header", "waits"), [("7", [7.0]), ("99999", [60.0]), ("soon", [0.5]), ("-3", [0.5])])
def test_retry_after_is_obeyed_up_to_a_minute(header: str, waits: list[float], local: LocalTournament) -> None:
    slept: list[float] = []
    local.faults.add(Fault(where="any query", what="status", code=429, headers={"Retry-After": header}))
    Tournament(local.url, sleep=slept.append).current_round()
    assert slept == waits


def test_a_hanging_api_is_given_up_after_one_round_of_tries(
    local: LocalTournament, door: Tournament, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(transport, "READ_TIMEOUT_S", 0.2)
    local.faults.add(Fault(where="query:dataset", what="hang", times=None))
    with pytest.raises(TransientError, match="did not answer within"):
        door.download(LIVE, tmp_path / "live.parquet")
    # The tries of the query are not multiplied by those of the download: 5 x 30 s, not 25 x 30 s.
    assert asked(local, "dataset") == len(RETRY_WAITS_S) + 1


def test_an_answer_that_trickles_is_given_up(
    local: LocalTournament, door: Tournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "ANSWER_LIMIT_S", 0.1)
    monkeypatch.setattr("eraflow.tournament.RETRY_WAITS_S", ())
    local.faults.add(Fault(where="any query", what="slow", n=50, times=None))
    started = time.monotonic()
    with pytest.raises(TransientError, match="given up"):
        door.current_round()
    assert time.monotonic() - started < 2


def test_an_answer_of_another_shape_is_a_passing_fault(local: LocalTournament, door: Tournament) -> None:
    local.faults.add(
        Fault(where="any query", what="status", code=200, body='{"data": {"rounds": {"number": 1}}}', times=None)
    )
    with pytest.raises(TransientError, match="not of the documented shape"):
        door.current_round()
