"""What goes through the door: files in, predictions out, submissions read back; and that no secret goes with them."""

from __future__ import annotations

import logging
import shutil
import traceback
from collections.abc import Callable
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
    RefusedError,
    StorageError,
    TransientError,
    UnknownOutcomeError,
)
from eraflow.rehearsal.faults import Fault, What
from eraflow.rehearsal.server import LocalTournament
from eraflow.store import sha256_of
from eraflow.tournament import RETRY_WAITS_S, Tournament
from eraflow.transport import NotSentError
from tests.eraflow.conftest import nap
from tests.eraflow.talking import CSV, FAULTS, LIVE, allowed, asked, refused_with, unused_address

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
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
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
    calls: list[int] = []
    local.faults.add(Fault(where="put", what="status", code=403), Fault(where="put", what="reset-before"))
    model_id = door.slots()["rehearsal_one"].model_id
    stored_as = door.upload("a.csv", CSV, model_id, before=lambda: calls.append(1))
    paths = [path for method, path, _ in local.requests if method == "PUT"]
    assert len(set(paths)) == len(calls) == 3
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
        door.upload("a.csv", CSV, door.slots()["rehearsal_one"].model_id, allowed)
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
    return door.upload("a.csv", CSV, model_id, allowed), model_id


@pytest.mark.parametrize(("what", "more"), FAULTS)
def test_a_lost_answer_to_create_is_an_unknown_outcome_and_sent_once(
    what: What, more: dict[str, Any], local: LocalTournament, door: Tournament
) -> None:
    stored_as, model_id = sent(local, door)
    local.faults.add(Fault(where="query:create_submission", what=what, times=None, **more))
    with pytest.raises(UnknownOutcomeError, match="not known whether it took effect"):
        door.create(stored_as, model_id, allowed)
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
        door.create("a.csv", "some-model", allowed)


def test_a_create_that_no_connection_carried_is_known_not_to_be_sent() -> None:
    with pytest.raises(NotSentError, match="cannot be reached"):
        Tournament(unused_address(), Keys("A", "B")).create("a.csv", "some-model", allowed)


def test_a_create_that_is_refused_is_known_not_to_have_taken_effect(local: LocalTournament, door: Tournament) -> None:
    model_id = door.slots()["rehearsal_one"].model_id
    with pytest.raises(RefusedError, match="Submission file not found"):
        door.create("never-uploaded.csv", model_id, allowed)
    local.set_scopes(["read_user_info"])
    with pytest.raises(CredentialsError, match="scope upload_submission"):
        door.create("never-uploaded.csv", model_id, allowed)


# Read-back


def test_the_newest_submission_is_selected_and_listed_first(local: LocalTournament, door: Tournament) -> None:
    ids = [line.split(",")[0] for line in _live_csv(local).decode().splitlines()[1:]]
    model_id = door.slots()["rehearsal_one"].model_id
    made = []
    for first in (0.25, 0.5):
        rows = "".join(f"{one},{first if i == 0 else (i + 0.5) / len(ids) / 2!r}\n" for i, one in enumerate(ids))
        stored_as = door.upload("a.csv", f"id,prediction\n{rows}".encode(), model_id, allowed)
        made.append((door.create(stored_as, model_id, allowed), stored_as))
        local.move_clock(2)
    assert [entry.id for entry in door.listed(model_id)] == [made[1][0], made[0][0]]
    (selected,) = door.selected(model_id, 1401)
    assert (selected.id, selected.filename) == made[1]
    assert selected.inserted_at_utc is not None
    assert door.selected(model_id, 1400) == []
    assert door.listed(door.slots()["rehearsal_two"].model_id) == []


def test_a_submission_comes_back_byte_by_byte_for_keys_that_may(local: LocalTournament, door: Tournament) -> None:
    stored_as, model_id = sent(local, door)
    identity = door.create(stored_as, model_id, allowed)
    local.faults.add(Fault(where="get:submission", what="truncate", n=5))
    assert door.submitted_bytes(identity) == CSV
    local.set_scopes(["read_user_info", "read_submission_info", "upload_submission"])
    with pytest.raises(CredentialsError, match="download_submission"):
        door.submitted_bytes(identity)


def test_a_submission_without_end_is_given_up(
    local: LocalTournament, door: Tournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored_as, model_id = sent(local, door)
    identity = door.create(stored_as, model_id, allowed)
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
    identity = door.create(stored_as, model_id, allowed)
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
                lambda: door.upload("a.csv", CSV, model_id, allowed),
            ),
            (Fault(where="get:submission", what=kind, code=code, times=None), lambda: door.submitted_bytes(identity)),
            (Fault(where="any query", what=kind, code=code, times=None), door.slots),
            (
                Fault(where="query:create_submission", what=kind, code=code),
                lambda: door.create("a.csv", model_id, allowed),
            ),
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
    monkeypatch.setattr(transport, "READ_TIMEOUT_S", 0.2)
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


def test_an_upload_address_that_answers_401_says_nothing_of_the_keys(door: Tournament, local: LocalTournament) -> None:
    local.faults.add(Fault(where="put", what="status", code=401, times=1))
    door.upload("p.csv", b"id,prediction\n", door.slots()["rehearsal_one"].model_id, before=lambda: None)
    assert asked(local, "PUT") == 2


def test_an_api_that_is_down_during_an_upload_is_no_refusal(door: Tournament, local: LocalTournament) -> None:
    slot = door.slots()["rehearsal_one"].model_id
    local.faults.add(Fault(where="query:submissionUploadAuth", what="status", code=503, times=None))
    with pytest.raises(TransientError):
        door.upload("p.csv", b"id,prediction\n", slot, before=lambda: None)


def test_any_answer_of_no_to_the_current_round_is_between_rounds(door: Tournament, local: LocalTournament) -> None:
    body = '{"errors": [{"message": "Round not found"}]}'
    local.faults.add(Fault(where="query:rounds", what="status", code=200, body=body, times=None))
    with pytest.raises(ClosedError, match="Round not found"):
        door.current_round()
