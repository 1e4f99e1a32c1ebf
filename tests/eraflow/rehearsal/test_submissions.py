"""Tests of what the local tournament does with submissions, sent by the real client."""

from __future__ import annotations

import hashlib
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from eraflow.rehearsal import Fault, LocalTournament
from eraflow.rehearsal.judging import judge, with_ids_of
from tests.eraflow.rehearsal.sending import live_ids, message, post, predictions, submit

IDS = ["a", "b", "c"]
GOOD = b"id,prediction\na,0.1\nb,0.5\nc,0.9\n"


@pytest.fixture
def ids(tournament: LocalTournament, client: Any, tmp_path: Path) -> list[str]:
    """Of a round that was opened for the test."""
    tournament.open_next_round()
    return live_ids(client, tmp_path)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (GOOD, None),
        (GOOD.replace(b"\n", b"\r\n"), None),
        (b"id,prediction\nc,0\nb,0.5\na,1\n", None),
        (b"", "invalid_submission_headers"),
        (b"\xff\xfe", "invalid_submission_headers"),
        (GOOD.replace(b"id,", b"index,"), "invalid_submission_headers"),
        (b"prediction\n0.1\n0.5\n0.9\n", "invalid_submission_headers"),
        (b"id,prediction\na,0.1,1\n", "invalid_submission_headers"),
        (b"id,prediction\na,0.1\nb,0.5\n", "invalid_submission_ids"),
        (GOOD + b"d,0.5\n", "invalid_submission_ids"),
        (GOOD + b"a,0.5\n", "invalid_submission_ids: duplicate"),
        (GOOD.replace(b"0.5", b""), "invalid_submission_values: predictions must not be NaN"),
        (GOOD.replace(b"0.5", b"nan"), "invalid_submission_values"),
        (GOOD.replace(b"0.5", b"1.01"), "invalid_submission_values"),
        (GOOD.replace(b"0.5", b"-0.1"), "invalid_submission_values"),
        (b"id,prediction\na,0.5\nb,0.5\nc,0.5\n", "invalid_submission_values: the standard deviation"),
    ],
)
def test_a_submission_is_judged_by_the_tournaments_rules(data: bytes, problem: str | None) -> None:
    found = judge(data, IDS)
    assert found is None if problem is None else (found or "").startswith(problem)


def test_other_ids_keep_the_order_of_the_predictions() -> None:
    assert with_ids_of(GOOD, ["x", "y"]) == b"id,prediction\nx,0.1\ny,0.5\n"
    assert judge(with_ids_of(GOOD, list("vwxyz")), list("vwxyz")) is None


def test_a_valid_submission_is_selected_listed_and_comes_back_byte_for_byte(
    tournament: LocalTournament, client: Any, ids: list[str], tmp_path: Path
) -> None:
    frame = predictions(ids)
    submission_id = submit(client, frame)
    [accepted] = tournament.accepted(1401)
    sent = frame.to_csv(index=False).encode()
    assert (accepted.id, accepted.slot, accepted.selected, accepted.late) == (
        submission_id, "rehearsal_one", True, False,
    )  # fmt: skip
    assert accepted.sha256 == hashlib.sha256(sent).hexdigest()
    model_id = client.get_models()["rehearsal_one"]
    [named] = client.get_submission_filenames(model_id=model_id)
    [listed] = client.submission_ids(model_id)
    assert named == {"filename": accepted.filename, "round_num": 1401, "tournament": 8}
    assert (listed["id"], listed["filename"]) == (submission_id, accepted.filename)
    path = client.download_submission(submission_id, dest_path=str(tmp_path / "back.csv"))
    assert Path(path).read_bytes() == sent == tournament.submitted_bytes(accepted)


def test_an_upload_gets_a_name_with_a_random_part(client: Any, ids: list[str]) -> None:
    model_id = client.get_models()["rehearsal_one"]
    granted = [client._upload_auth("submission_upload_auth", "round-1401.csv", 8, model_id) for _ in range(2)]
    assert granted[0]["filename"] != granted[1]["filename"]
    for one in granted:
        assert one["filename"].startswith("round-1401-")
        assert len(one["filename"]) == len("round-1401-dMpHpYMPIUAF.csv")


def test_the_latest_valid_submission_of_the_window_is_the_selected_one(
    tournament: LocalTournament, client: Any, ids: list[str]
) -> None:
    first = submit(client, predictions(ids, 1))
    second = submit(client, predictions(ids, 2))
    other = submit(client, predictions(ids, 1), "rehearsal_two")
    submit(client, predictions(ids[1:]))
    selected = {one.id for one in tournament.submissions() if one.selected}
    assert selected == {second, other}
    assert [one.id for one in tournament.accepted()] == [first, second, other]


def test_an_invalid_submission_is_kept_with_its_error_and_never_selected(
    tournament: LocalTournament, client: Any, ids: list[str]
) -> None:
    submission_id = submit(client, predictions([f"x{one}" for one in ids]))
    assert tournament.accepted() == []
    query = "query($m: String) { submissions(modelId: $m) { id status errorInfo selected round { number } } }"
    [listed] = post(tournament, query, {"m": client.get_models()["rehearsal_one"]})["data"]["submissions"]
    assert listed["id"] == submission_id
    assert (listed["status"], listed["selected"], listed["round"]) == ("failed", False, {"number": 1401})
    assert listed["errorInfo"].startswith("invalid_submission_ids")


def test_the_clients_unchecked_upload_ends_in_a_submission_that_failed(
    tournament: LocalTournament, client: Any, ids: list[str]
) -> None:
    tournament.faults.add(Fault(where="put", what="status", code=500))
    assert submit(client, predictions(ids))
    [made] = tournament.submissions()
    assert (made.valid, made.sha256, made.error) == (False, None, "no file was uploaded")
    assert tournament.accepted() == []


def test_a_mutation_that_is_sent_twice_makes_two_submissions(
    tournament: LocalTournament, client: Any, ids: list[str]
) -> None:
    submit(client, predictions(ids))
    [made] = tournament.accepted()
    query = "mutation($f: String! $m: String) { create_submission(filename: $f tournament: 8 modelId: $m) { id } }"
    post(tournament, query, {"f": made.filename, "m": made.model_id})
    assert [one.selected for one in tournament.accepted()] == [False, True]


def test_a_mutation_with_a_mistake_has_no_effect(tournament: LocalTournament, client: Any, ids: list[str]) -> None:
    submit(client, predictions(ids))
    [made] = tournament.accepted()
    query = "mutation($f: String! $m: String) { create_submission(filename: $f tournament: 8 modelId: $m) { colour } }"
    answer = post(tournament, query, {"f": made.filename, "m": made.model_id})
    assert "data" not in answer
    assert len(tournament.submissions()) == 1


def test_a_slot_with_a_hosted_model_takes_no_submissions(
    tournament: LocalTournament, client: Any, ids: list[str]
) -> None:
    tournament.add_slot("hosted", hosted=True)
    models = post(tournament, "{ account { models { name computePickleUpload { id } } } }")["data"]["account"]["models"]
    assert {one["name"] for one in models if one["computePickleUpload"]} == {"hosted"}
    with pytest.raises(ValueError, match="pickle upload cannot be submitted"):
        submit(client, predictions(ids), "hosted")
    assert tournament.submissions() == []


def test_foreign_slots_names_and_tournaments_are_refused(tournament: LocalTournament, client: Any) -> None:
    model_id = client.get_models()["rehearsal_one"]
    signals_id = client.get_models(tournament=11)["rehearsal_signals"]
    auth = "query($n: String!, $m: String) { submission_upload_auth(filename: $n tournament: 8 modelId: $m) { url } }"
    create = "mutation($n: String!, $m: String) { create_submission(filename: $n tournament: 8 modelId: $m) { id } }"
    for query, name, model, text in (
        (auth, "p.csv", "nobody", "Model not found"),
        (auth, "p.csv", signals_id, "Model does not belong to this tournament"),
        (auth, "../p.csv", model_id, "Invalid filename"),
        (create, "never-granted.csv", model_id, "Submission file not found"),
    ):
        assert message(post(tournament, query, {"n": name, "m": model})) == text
    unknown = '{ submissionDownloadAuth(id: "nothing") { url } }'
    assert message(post(tournament, unknown)) == "Submission not found"


def test_an_upload_address_expires(tournament: LocalTournament, client: Any, ids: list[str]) -> None:
    model_id = client.get_models()["rehearsal_one"]
    granted = client._upload_auth("submission_upload_auth", "p.csv", 8, model_id)
    tournament.move_clock(3601)
    with pytest.raises(urllib.request.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(granted["url"], b"x", method="PUT"), timeout=5)  # noqa: S310


# Late ones


def test_a_late_submission_is_carried_over_as_the_next_rounds_with_its_ids(
    tournament: LocalTournament, client: Any, ids: list[str], tmp_path: Path
) -> None:
    tournament.close_round()
    submission_id = submit(client, predictions(ids))
    [late] = tournament.accepted(1401)
    assert (late.id, late.late, late.selected, late.status) == (submission_id, True, False, "late")
    assert tournament.open_next_round() == 1402
    [carried] = tournament.accepted(1402)
    assert (carried.carried_over, carried.selected, carried.late) == (True, True, False)
    assert (carried.filename, carried.inserted_at_utc) == (late.filename, late.inserted_at_utc)
    [opened] = client.list_rounds(number=1402)
    assert datetime.fromisoformat(carried.inserted_at_utc).astimezone(UTC) < opened["openTime"]
    named = client.get_submission_filenames(round_num=1402, model_id=late.model_id)
    assert [one["filename"] for one in named] == [late.filename]
    path = client.download_submission(carried.id, dest_path=str(tmp_path / "carried.csv"))
    back = pd.read_csv(path)
    assert back.id.tolist() == live_ids(client, tmp_path)
    n = min(len(back), len(ids))
    assert back.prediction[:n].tolist() == pytest.approx(predictions(ids).prediction[:n].tolist())


def test_an_own_submission_replaces_the_one_that_was_carried_over(
    tournament: LocalTournament, client: Any, ids: list[str], tmp_path: Path
) -> None:
    tournament.close_round()
    tournament.move_clock(3 * 86_400)
    submit(client, predictions(ids))
    tournament.open_next_round()
    own = submit(client, predictions(live_ids(client, tmp_path)))
    assert [(one.carried_over, one.selected) for one in tournament.accepted(1402)] == [(True, False), (False, True)]
    assert tournament.accepted(1402)[-1].id == own


def test_a_late_submission_does_not_replace_one_that_was_on_time(
    tournament: LocalTournament, client: Any, ids: list[str]
) -> None:
    on_time = submit(client, predictions(ids, 1))
    tournament.close_round()
    submit(client, predictions(ids, 2))
    submit(client, predictions(ids, 3))
    assert [one.id for one in tournament.accepted(1401) if one.selected] == [on_time]
    tournament.open_next_round()
    [carried] = tournament.accepted(1402)
    assert carried.filename == tournament.accepted(1401)[-1].filename
    tournament.open_next_round()
    assert tournament.accepted(1403) == []


def test_recent_rounds_are_listed_with_and_without_a_submission(
    tournament: LocalTournament, client: Any, ids: list[str]
) -> None:
    submit(client, predictions(ids))
    tournament.open_next_round()
    query = """{ account { models { name latestSubmissions {
        roundNumber roundCloseStaking roundClose roundOpen filename status timestamp } } } }"""
    models = post(tournament, query)["data"]["account"]["models"]
    latest = next(one for one in models if one["name"] == "rehearsal_one")["latestSubmissions"]
    assert [(one["roundNumber"], one["status"]) for one in latest] == [
        (1402, "none"),
        (1401, "on-time"),
        (1400, "none"),
    ]
    assert latest[0]["filename"] is None
    assert latest[1]["roundOpen"] == "2026-11-28"
