"""Tests of what the local tournament changes in mid-round: its deadline, the account's models, the data's versions."""

from __future__ import annotations

import urllib.error
import urllib.request
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eraflow.errors import InputError
from eraflow.rehearsal import LocalTournament, RemoteControl
from tests.eraflow.rehearsal.conftest import SMALL, TickingFrom, real_client
from tests.eraflow.rehearsal.sending import file_url, live_ids, message, post, predictions, submit
from tests.eraflow.rehearsal.test_fast_rounds import Stopped

LIVE, OTHER = "v5.3/live.parquet", "v5.4/live.parquet"


def told(tournament: LocalTournament, number: int) -> tuple[datetime, datetime]:
    """`closeStakingTime` and `closeTime` of a round, as the API tells them."""
    query = "query($n: Int) { rounds(tournament: 8 number: $n) { closeStakingTime closeTime } }"
    [found] = post(tournament, query, {"n": number})["data"]["rounds"]
    return datetime.fromisoformat(found["closeStakingTime"]), datetime.fromisoformat(found["closeTime"])


def code(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 -- loopback
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


# The deadline


def test_a_moved_deadline_is_told_everywhere_and_only_for_that_round(tournament: LocalTournament, client: Any) -> None:
    number = tournament.open_next_round(delay_s=0)
    before, end = told(tournament, number)
    assert tournament.move_deadline(3600) == before - timedelta(hours=1)
    assert told(tournament, number) == (before - timedelta(hours=1), end - timedelta(hours=1))
    [entry] = client.list_rounds(number=number)
    assert entry["closeStakingTime"] == before - timedelta(hours=1)
    assert told(tournament, number - 1)[0] == before - timedelta(days=7)
    assert tournament.move_deadline(1800) == before - timedelta(minutes=90)
    tournament.open_next_round(delay_s=0)
    assert told(tournament, number + 1)[0] == before + timedelta(days=7)


def test_what_comes_after_a_moved_deadline_is_late_and_what_came_before_it_is_not(
    tournament: LocalTournament, client: Any, tmp_path: Path
) -> None:
    number = tournament.open_next_round(delay_s=0)
    ids = live_ids(client, tmp_path)
    submit(client, predictions(ids))
    tournament.move_clock(25 * 3600)
    assert tournament.open_round() == number
    tournament.move_deadline(3600)
    assert (tournament.open_round(), tournament.current_round()) == (None, number)
    submit(client, predictions(ids, seed=1))
    assert [one.late for one in tournament.accepted(number)] == [False, True]


def test_a_deadline_never_lies_before_the_opening_nor_after_the_usual_one(tournament: LocalTournament) -> None:
    number = tournament.open_next_round(delay_s=0)
    usual = told(tournament, number)
    window_s = 26 * 3600
    for seconds in (window_s, float("nan"), float("inf"), -1):
        with pytest.raises(InputError, match=f"the deadline of round {number} must lie after its opening"):
            tournament.move_deadline(seconds)
    assert told(tournament, number) == usual
    tournament.move_deadline(window_s - 1)
    with pytest.raises(InputError, match=r"less than 1 s earlier and at most 93599 s later than now, however 1 s"):
        tournament.move_deadline(1)
    tournament.move_deadline(1 - window_s)
    assert told(tournament, number) == usual


def test_the_deadline_of_a_fast_round_moves_too(home: Path) -> None:
    system = Stopped()
    with LocalTournament(home, market=SMALL, system=system, every_s=60, window_s=45) as fast:
        system.pass_s(60)
        assert fast.move_deadline(30) == fast._core.latest().opens_at_utc + timedelta(seconds=15)
        system.pass_s(15)
        assert (fast.open_round(), fast.current_round()) == (None, 1401)
        system.pass_s(45)
        assert fast.open_round() == 1402
        system.pass_s(44)
        assert fast.open_round() == 1402


# The account


def test_a_removed_model_is_gone_and_its_submissions_stay_in_the_books(
    tournament: LocalTournament, client: Any, tmp_path: Path
) -> None:
    number = tournament.open_next_round()
    frame, models = predictions(live_ids(client, tmp_path)), client.get_models()
    made = submit(client, frame)
    tournament.remove_slot("rehearsal_one")
    assert set(client.get_models()) == {"rehearsal_two"}
    for query in (
        "query($m: String) { model(modelId: $m) { id } }",
        "query($m: String) { submissions(modelId: $m) { id } }",
    ):
        assert message(post(tournament, query, {"m": models["rehearsal_one"]})) == "Model not found"
    with pytest.raises(ValueError, match="Model not found"):
        client.upload_predictions("p.csv", models["rehearsal_one"], df=frame)
    assert [(one.id, one.slot) for one in tournament.accepted(number)] == [(made, "rehearsal_one")]
    submit(client, frame, "rehearsal_two")


def test_a_model_is_removed_between_its_upload_and_its_submission(tournament: LocalTournament, client: Any) -> None:
    tournament.open_next_round()
    model = client.get_models()["rehearsal_one"]
    query = 'query($m: String) { submissionUploadAuth(filename: "p.csv" tournament: 8 modelId: $m) { filename } }'
    granted = post(tournament, query, {"m": model})["data"]["submissionUploadAuth"]["filename"]
    tournament.remove_slot("rehearsal_one")
    mutation = "mutation($f: String! $m: String) { createSubmission(filename: $f tournament: 8 modelId: $m) { id } }"
    assert message(post(tournament, mutation, {"f": granted, "m": model})) == "Model not found"
    assert tournament.submissions() == []


def test_what_a_removed_model_sent_late_is_not_entered_into_the_next_round(
    tournament: LocalTournament, client: Any, tmp_path: Path
) -> None:
    number = tournament.open_next_round()
    ids = live_ids(client, tmp_path)
    tournament.close_round()
    for slot in ("rehearsal_one", "rehearsal_two"):
        submit(client, predictions(ids), slot)
    tournament.remove_slot("rehearsal_one")
    tournament.open_next_round()
    assert [(one.slot, one.carried_over) for one in tournament.accepted(number + 1)] == [("rehearsal_two", True)]


def test_a_model_of_the_same_name_is_a_new_one(tournament: LocalTournament, client: Any) -> None:
    before = client.get_models()["rehearsal_one"]
    tournament.remove_slot("rehearsal_one")
    again = tournament.add_slot("rehearsal_one")
    assert client.get_models()["rehearsal_one"] == again != before


def test_a_model_that_the_account_does_not_have_cannot_be_removed(tournament: LocalTournament) -> None:
    for name in ("third", "rehearsal_signals"):
        with pytest.raises(InputError, match=f"one of rehearsal_one, rehearsal_two, however '{name}' was given"):
            tournament.remove_slot(name)


# The data


def test_a_withdrawn_version_is_not_listed_not_handed_out_and_not_there(
    tournament: LocalTournament, client: Any, tmp_path: Path
) -> None:
    tournament.open_next_round()
    tournament.add_data_version("v5.4")
    before, url, other = client.list_datasets(), file_url(tournament, LIVE), file_url(tournament, OTHER)
    tournament.set_file(LIVE, Path(__file__))
    tournament.withdraw_data_version("v5.3")
    assert client.list_datasets() == [name for name in before if name.startswith("v5.4/")]
    with pytest.raises(ValueError, match=f"Dataset not found: {LIVE}"):
        client.download_dataset(LIVE, str(tmp_path / "unused"))
    assert (code(url), code(other)) == (404, 200)
    tournament.return_data_version("v5.3")
    assert client.list_datasets() == before
    assert (code(url), code(other)) == (200, 200)


def test_a_withdrawn_version_does_not_keep_a_submission_from_being_judged(
    tournament: LocalTournament, client: Any, tmp_path: Path
) -> None:
    number = tournament.open_next_round()
    frame = predictions(live_ids(client, tmp_path))
    tournament.withdraw_data_version("v5.3")
    submit(client, frame)
    assert len(tournament.accepted(number)) == 1


def test_adding_a_withdrawn_version_brings_it_back(tournament: LocalTournament) -> None:
    tournament.add_data_version("v5.4")
    tournament.withdraw_data_version("v5.4")
    tournament.withdraw_data_version("v5.4")
    assert OTHER not in tournament._core.data_files()
    tournament.add_data_version("v5.4")
    assert OTHER in tournament._core.data_files()


def test_a_version_that_there_never_was_cannot_be_withdrawn(tournament: LocalTournament) -> None:
    for change in (tournament.withdraw_data_version, tournament.return_data_version):
        with pytest.raises(InputError, match=r"must be one of v5.3, however 'v9' was given"):
            change("v9")


# Restarts and other processes


def test_a_restart_knows_all_of_them_even_if_it_names_the_removed_model(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = TickingFrom()
    with LocalTournament(home, market=SMALL, system=clock) as first:
        number = first.open_next_round(delay_s=0)
        closes = first.move_deadline(600)
        first.remove_slot("rehearsal_one")
        first.add_data_version("v5.4")
        first.withdraw_data_version("v5.3")
    with LocalTournament(home, market=SMALL, system=clock) as second:
        client = real_client(second, monkeypatch)
        assert told(second, number)[0] == closes
        assert set(client.get_models()) == {"rehearsal_two"}
        assert {name.partition("/")[0] for name in client.list_datasets()} == {"v5.4"}


def test_another_process_can_ask_for_all_of_them(tournament: LocalTournament) -> None:
    control = RemoteControl(tournament.home)
    number = control.open_next_round(delay_s=0)
    assert control.move_deadline(60) == told(tournament, number)[0]
    control.remove_slot("rehearsal_two")
    assert "rehearsal_two" not in str(post(tournament, "{ account { models { name } } }"))
    control.withdraw_data_version("v5.3")
    assert post(tournament, "{ listDatasets }")["data"]["listDatasets"] == []
    control.return_data_version("v5.3")
    assert LIVE in post(tournament, "{ listDatasets }")["data"]["listDatasets"]
    with pytest.raises(InputError, match="refuses remove_slot: a slot to remove must be one of rehearsal_one"):
        control.remove_slot("rehearsal_two")
    with pytest.raises(InputError, match="refuses move_deadline: the deadline of round 1401 must lie after"):
        control.move_deadline(1e9)
