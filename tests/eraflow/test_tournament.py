"""The one door to the network, against the local tournament."""

from __future__ import annotations

import json
import logging
import shutil
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from eraflow import transport
from eraflow.client import Keys
from eraflow.errors import (
    ClosedError,
    CredentialsError,
    EraflowError,
    InputError,
    RefusedError,
    StorageError,
    TransientError,
    UnknownOutcomeError,
)
from eraflow.rehearsal.faults import Fault, What
from eraflow.rehearsal.server import LocalTournament
from eraflow.rounds import Clock
from eraflow.store import sha256_of
from eraflow.tournament import RETRY_WAITS_S, Tournament
from eraflow.transport import NotSentError
from tests.eraflow.conftest import nap

LIVE = "v5.3/live.parquet"
CSV = b"id,prediction\na,0.25\nb,0.75\n"


def asked(local: LocalTournament, what: str) -> int:
    """How many requests of this root field, or of this method, were sent."""
    return sum(what in (root, method) for method, _, root in local.requests)


def nothing() -> None:
    """Allow every PUT."""


def unused_address() -> str:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def refused_with(message: str) -> Fault:
    """A GraphQL error, as the API sends it."""
    return Fault(
        where="any query",
        what="status",
        code=200,
        body=json.dumps({"data": None, "errors": [{"message": message}]}),
        times=None,
    )


# The round and the slots


def test_the_round_has_its_number_and_its_times_from_the_tournament(local: LocalTournament, door: Tournament) -> None:
    opened = door.current_round()
    assert opened.number == local.open_round() == 1401
    assert opened.opens_at_utc <= local.now_utc() < opened.closes_at_utc
    assert opened.ends_at_utc is not None
    assert opened.closes_at_utc < opened.ends_at_utc


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


def test_a_round_of_long_ago_is_not_the_latest(local: LocalTournament, door: Tournament) -> None:
    local.close_round()
    moved = local.now_utc() + timedelta(days=5, hours=20)
    door.clock.heard(moved + timedelta(days=9))
    # Its answers put the clock right again, so the door is told the wrong time by its own clock only.
    door.clock.heard = lambda _: None  # type: ignore[method-assign,assignment]
    local.move_clock(7200)
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
        door.upload("a.csv", CSV, slot.model_id, nothing)
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


FAULTS: list[tuple[What, dict[str, Any]]] = [
    ("status", {"code": 503}),
    ("status", {"code": 502, "body": "<html>Bad Gateway</html>"}),
    ("status", {"code": 429}),
    ("reset-before", {}),
    ("bad-json", {}),
    ("html-200", {}),
    ("truncate", {"n": 10}),
    ("lost-answer", {}),
]


@pytest.mark.parametrize(("what", "more"), FAULTS)
def test_a_passing_fault_is_asked_again(
    what: What, more: dict[str, Any], local: LocalTournament, door: Tournament
) -> None:
    local.faults.add(Fault(where="any query", what=what, times=2, **more))
    assert door.current_round().number == 1401


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
    monkeypatch.setattr(transport, "READ_TIMEOUT_S", 0.02)
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


# Files in


def test_a_download_is_what_is_served(
    local: LocalTournament, door: Tournament, tmp_path: Path, market_folder: Path
) -> None:
    to = tmp_path / "live.parquet"
    got = door.download(LIVE, to, 1401)
    assert got.sha256 == sha256_of(to) == sha256_of(market_folder / "live.parquet")
    assert got.freshness.size_bytes == to.stat().st_size


def test_progress_ends_at_the_whole_length(local: LocalTournament, door: Tournament, tmp_path: Path) -> None:
    told: list[tuple[float, float]] = []
    got = door.download(
        LIVE, tmp_path / "live", progress=lambda _stage, done, total, _text="": told.append((done, total))
    )
    assert told[-1] == (got.freshness.size_bytes, got.freshness.size_bytes)


def test_an_expired_address_is_replaced_by_a_fresh_one(tmp_path: Path, market_folder: Path) -> None:
    with LocalTournament(tmp_path / "tournament", data_from=market_folder, url_lifetime_s=-1) as local:
        local.open_next_round(delay_s=0)

        def extend(_: float) -> None:
            local._core.url_lifetime_s = 3600

        got = Tournament(local.url, sleep=extend).download(LIVE, tmp_path / "live.parquet")
        assert got.sha256 == sha256_of(market_folder / "live.parquet")
        assert asked(local, "dataset") == 2


@pytest.mark.parametrize(
    ("what", "more"),
    [
        ("status", {"code": 403, "body": "<Error>expired</Error>"}),
        ("status", {"code": 500}),
        ("reset-before", {}),
        ("truncate", {"n": 1000}),
        ("lost-answer", {}),
        ("redirect", {}),
    ],
)
def test_each_try_of_a_download_starts_from_the_first_byte_at_a_fresh_address(
    what: What, more: dict[str, Any], local: LocalTournament, door: Tournament, tmp_path: Path, market_folder: Path
) -> None:
    local.faults.add(Fault(where="get:live.parquet", what=what, times=2, **more))
    got = door.download(LIVE, tmp_path / "live.parquet")
    assert sha256_of(tmp_path / "live.parquet") == got.sha256 == sha256_of(market_folder / "live.parquet")
    assert asked(local, "dataset") == 3


def test_a_download_that_stays_cut_short_is_an_error(local: LocalTournament, door: Tournament, tmp_path: Path) -> None:
    local.faults.add(Fault(where="get:live.parquet", what="truncate", n=500, times=None))
    with pytest.raises(TransientError, match=r"live\.parquet"):
        door.download(LIVE, tmp_path / "live.parquet")


def test_an_empty_file_is_not_a_download(local: LocalTournament, door: Tournament, tmp_path: Path) -> None:
    local.faults.add(Fault(where="get:*", what="status", code=200, body="", times=None))
    with pytest.raises(TransientError, match="came empty"):
        door.download(LIVE, tmp_path / "live.parquet")


def test_a_file_that_the_tournament_does_not_have_is_refused(door: Tournament, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="Dataset not found"):
        door.download("v5.3/other.parquet", tmp_path / "other")


def test_no_room_is_seen_before_the_first_byte_and_both_figures_are_told(
    local: LocalTournament, door: Tournament, tmp_path: Path, market_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1234))
    size = (market_folder / "train.parquet").stat().st_size
    with pytest.raises(StorageError, match=f"needs {size:,} bytes, however only 1,234 are free") as caught:
        door.download("v5.3/train.parquet", tmp_path / "train.parquet")
    assert caught.value.code == "no-room"
    assert not (tmp_path / "train.parquet").exists()
    assert asked(local, "dataset") == 1


def test_a_disk_that_fails_is_a_storage_error(door: Tournament, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        (tmp_path / "folder").mkdir()
        door.download(LIVE, tmp_path / "folder")


def test_a_stalled_download_is_given_up(
    local: LocalTournament, door: Tournament, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "READ_TIMEOUT_S", 0.05)
    monkeypatch.setattr("eraflow.tournament.RETRY_WAITS_S", ())
    local.faults.add(Fault(where="get:live.parquet", what="slow", n=10, times=None))
    with pytest.raises(TransientError, match=r"live\.parquet broke off"):
        door.download(LIVE, tmp_path / "live.parquet")


def test_a_probe_tells_size_and_tag_with_one_byte(
    local: LocalTournament, door: Tournament, market_folder: Path
) -> None:
    fresh = door.probe("v5.3/train.parquet", 1401)
    assert fresh is not None
    assert fresh.size_bytes == (market_folder / "train.parquet").stat().st_size
    assert fresh.etag
    assert fresh == door.probe("v5.3/train.parquet", 1401)


def test_a_probe_that_is_not_answered_knows_nothing(local: LocalTournament, door: Tournament) -> None:
    local.faults.add(Fault(where="get:*", what="ignore-range"))
    assert door.probe("v5.3/train.parquet") is None
    assert door.probe("v5.3/none.parquet") is None


def test_http_addresses_from_an_https_tournament_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    door = Tournament("https://example.invalid", sleep=nap)
    answer = {"data": {"dataset": "http://127.0.0.1:9/live.parquet"}}
    monkeypatch.setattr(door._queries, "send", lambda *_, **__: answer)
    with pytest.raises(RefusedError, match="not https"):
        door.download(LIVE, tmp_path / "live.parquet")


# Predictions out


def test_each_try_of_an_upload_has_a_fresh_address_and_is_allowed_anew(
    local: LocalTournament, door: Tournament
) -> None:
    allowed: list[int] = []
    local.faults.add(Fault(where="put", what="status", code=403), Fault(where="put", what="reset-before"))
    model_id = door.slots()["rehearsal_one"].model_id
    stored_as = door.upload("a.csv", CSV, model_id, before=lambda: allowed.append(1))
    paths = [path for method, path, _ in local.requests if method == "PUT"]
    assert len(set(paths)) == len(allowed) == 3
    assert paths[-1].endswith(stored_as)
    assert local.submissions() == []


@pytest.mark.parametrize(
    ("what", "code"), [("status", 403), ("status", 500), ("lost-answer", 0), ("reset-before", 0), ("redirect", 0)]
)
def test_an_upload_that_stays_refused_is_refused(
    what: What, code: int, local: LocalTournament, door: Tournament
) -> None:
    local.faults.add(Fault(where="put", what=what, code=code, times=None))
    with pytest.raises(RefusedError, match="nothing was submitted") as caught:
        door.upload("a.csv", CSV, door.slots()["rehearsal_one"].model_id, nothing)
    assert caught.value.code == "upload-refused"
    assert asked(local, "PUT") == len(RETRY_WAITS_S) + 1


def test_what_is_not_allowed_is_not_put(local: LocalTournament, door: Tournament) -> None:
    def closed() -> None:
        raise ClosedError("the deadline has passed")

    with pytest.raises(ClosedError, match="passed"):
        door.upload("a.csv", CSV, door.slots()["rehearsal_one"].model_id, closed)
    assert asked(local, "PUT") == 0


def sent(local: LocalTournament, door: Tournament) -> tuple[str, str]:
    """Name of uploaded bytes, and the slot's model id."""
    model_id = door.slots()["rehearsal_one"].model_id
    return door.upload("a.csv", CSV, model_id, nothing), model_id


@pytest.mark.parametrize(("what", "more"), FAULTS)
def test_a_lost_answer_to_create_is_an_unknown_outcome_and_sent_once(
    what: What, more: dict[str, Any], local: LocalTournament, door: Tournament
) -> None:
    stored_as, model_id = sent(local, door)
    local.faults.add(Fault(where="query:create_submission", what=what, times=None, **more))
    with pytest.raises(UnknownOutcomeError, match="not known whether it took effect"):
        door.create(stored_as, model_id)
    assert asked(local, "createSubmission") == 1


@pytest.mark.parametrize(
    "body",
    ['{"data": {"create_submission": null}}', '{"data": {"create_submission": {"id": null}}}', '{"data": {}}', "[]"],
)
def test_an_answer_to_create_without_an_id_is_an_unknown_outcome(
    body: str, local: LocalTournament, door: Tournament
) -> None:
    local.faults.add(Fault(where="query:create_submission", what="status", code=200, body=body))
    with pytest.raises(UnknownOutcomeError):
        door.create("a.csv", "some-model")


def test_a_create_that_no_connection_carried_is_known_not_to_be_sent() -> None:
    with pytest.raises(NotSentError, match="cannot be reached"):
        Tournament(unused_address(), Keys("A", "B")).create("a.csv", "some-model")


def test_a_create_that_is_refused_is_known_not_to_have_taken_effect(local: LocalTournament, door: Tournament) -> None:
    model_id = door.slots()["rehearsal_one"].model_id
    with pytest.raises(RefusedError, match="Submission file not found"):
        door.create("never-uploaded.csv", model_id)
    local.set_scopes(["read_user_info"])
    with pytest.raises(CredentialsError, match="scope upload_submission"):
        door.create("never-uploaded.csv", model_id)


# Read-back


def test_the_newest_submission_is_selected_and_listed_first(local: LocalTournament, door: Tournament) -> None:
    ids = [line.split(",")[0] for line in _live_csv(local).decode().splitlines()[1:]]
    model_id = door.slots()["rehearsal_one"].model_id
    made = []
    for first in (0.25, 0.5):
        rows = "".join(f"{one},{first if i == 0 else (i + 0.5) / len(ids) / 2!r}\n" for i, one in enumerate(ids))
        stored_as = door.upload("a.csv", f"id,prediction\n{rows}".encode(), model_id, nothing)
        made.append((door.create(stored_as, model_id), stored_as))
        local.move_clock(2)
    assert [entry.id for entry in door.listed(model_id)] == [made[1][0], made[0][0]]
    (selected,) = door.selected(model_id, 1401)
    assert (selected.id, selected.filename) == made[1]
    assert selected.inserted_at_utc is not None
    assert door.selected(model_id, 1400) == []
    assert door.listed(door.slots()["rehearsal_two"].model_id) == []


def test_a_submission_comes_back_byte_by_byte_for_keys_that_may(local: LocalTournament, door: Tournament) -> None:
    stored_as, model_id = sent(local, door)
    identity = door.create(stored_as, model_id)
    local.faults.add(Fault(where="get:submission", what="truncate", n=5))
    assert door.submitted_bytes(identity) == CSV
    local.set_scopes(["read_user_info", "read_submission_info", "upload_submission"])
    with pytest.raises(CredentialsError, match="download_submission"):
        door.submitted_bytes(identity)


def test_a_submission_without_end_is_given_up(
    local: LocalTournament, door: Tournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_as, model_id = sent(local, door)
    identity = door.create(stored_as, model_id)
    monkeypatch.setattr(transport, "ANSWER_LIMIT_BYTES", 400)
    local.faults.add(Fault(where="get:submission", what="status", code=200, body="x" * 500, times=None))
    with pytest.raises(TransientError, match="endless"):
        door.submitted_bytes(identity)


def _live_csv(local: LocalTournament) -> bytes:
    assert local._core.publisher.data_from is not None
    return (local._core.publisher.data_from / "live_example_preds.csv").read_bytes()


# Secrets


def _mishaps(local: LocalTournament, door: Tournament, folder: Path) -> list[tuple[Fault, Callable[[], object]]]:
    stored_as, model_id = sent(local, door)
    identity = door.create(stored_as, model_id)
    echo = refused_with(f"no {local.secret_key} at {local.url}/x?signature=abc for {local.public_id}").body
    found: list[tuple[Fault, Callable[[], object]]] = [
        (Fault(where="any query", what="status", code=200, body=echo, times=None), door.slots)
    ]
    for what, code in (("status", 403), ("status", 500), ("reset-before", 0), ("redirect", 0), ("hang", 0)):
        kind: What = what  # type: ignore[assignment]
        found += [
            (Fault(where="get:*", what=kind, code=code, times=None), lambda: door.download(LIVE, folder / "live")),
            (
                Fault(where="put", what=kind, code=code, times=None),
                lambda: door.upload("a.csv", CSV, model_id, nothing),
            ),
            (Fault(where="get:submission", what=kind, code=code, times=None), lambda: door.submitted_bytes(identity)),
            (Fault(where="any query", what=kind, code=code, times=None), door.slots),
            (Fault(where="query:create_submission", what=kind, code=code), lambda: door.create("a.csv", model_id)),
        ]
    return found


def test_no_key_and_no_signed_address_stands_in_an_error_a_repr_or_a_log(
    local: LocalTournament,
    door: Tournament,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # As --debug does: eraflow's own loggers speak up, those of urllib3 (which print whole addresses) do not.
    caplog.set_level(logging.DEBUG, logger="eraflow")
    caplog.set_level(logging.DEBUG, logger="numerapi")
    monkeypatch.setattr(transport, "READ_TIMEOUT_S", 0.02)
    texts = [repr(door), str(door), repr(Keys(local.public_id, local.secret_key)), repr(vars(door))]
    for fault, act in _mishaps(local, door, tmp_path):
        local.faults.clear()
        local.faults.add(fault)
        with pytest.raises(EraflowError) as caught:
            act()
        texts += ["".join(traceback.format_exception(caught.value)), repr(caught.value), repr(vars(caught.value))]
    text = "\n".join([*texts, caplog.text])
    for secret in (local.public_id, local.secret_key, "signature=", "expires=", "Authorization"):
        assert secret not in text
    assert not logging.getLogger("urllib3.connectionpool").isEnabledFor(logging.DEBUG)
