"""Tests of `eraflow.rehearsal.server` with the real client: rounds, account, files, keys, clock."""

from __future__ import annotations

import email.utils
import hashlib
import stat
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from eraflow.errors import InputError, StorageError
from eraflow.rehearsal import LocalTournament, MarketConfig, RemoteControl
from tests.eraflow.rehearsal.conftest import SMALL, STARTED_UTC, TickingFrom, real_client
from tests.eraflow.rehearsal.sending import file_url, live_ids, message, post, predictions, submit

LIVE, TRAIN, VALIDATION = "v5.3/live.parquet", "v5.3/train.parquet", "v5.3/validation.parquet"


def get(url: str, headers: dict[str, str] | None = None) -> tuple[int, Any, bytes]:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=5) as answer:  # noqa: S310
        return answer.status, answer.headers, answer.read()


def refusal(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> tuple[int, str]:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}, method=method), timeout=5)  # noqa: S310
    with caught.value as error:
        return error.code, error.read().decode()


# Rounds


def test_between_rounds_the_current_round_is_an_error(tournament: LocalTournament, client: Any) -> None:
    assert tournament.open_round() is None
    with pytest.raises(ValueError, match="Current round not open for submissions"):
        client.get_current_round()


def test_an_opened_round_is_current_and_has_times_and_payout(tournament: LocalTournament, client: Any) -> None:
    number = tournament.open_next_round(delay_s=240)
    assert number == client.get_current_round() == tournament.open_round() == tournament.current_round() == 1401
    [found] = client.list_rounds(number=number)
    assert found["openTime"] == datetime(2026, 11, 28, 12, 4, tzinfo=UTC)
    assert found["closeStakingTime"] == datetime(2026, 11, 29, 14, tzinfo=UTC)
    assert found["closeTime"] > found["closeStakingTime"]
    configs = {config["displayName"]: config["defaultMultiplier"] for config in found["roundScoreConfigs"]}
    assert configs == {"CORR60": 3.0, "MMC60": 15.0}


def test_a_round_is_not_listed_before_it_really_opens(tournament: LocalTournament, client: Any) -> None:
    tournament.open_next_round(delay_s=3859)
    tournament.move_clock(-60)
    assert tournament.open_round() is None
    assert [found["number"] for found in client.list_rounds()] == [1400]
    [upcoming] = client.list_rounds(status="upcoming")
    assert (upcoming["number"], upcoming["openTime"]) == (1401, datetime(2026, 11, 28, 12, tzinfo=UTC))


def test_after_the_deadline_the_round_is_current_for_a_while_but_not_open(
    tournament: LocalTournament, client: Any
) -> None:
    number = tournament.open_next_round()
    assert tournament.close_round() == number
    assert tournament.open_round() is None
    assert client.get_current_round() == number
    tournament.move_clock(3600)
    with pytest.raises(ValueError, match="not open"):
        client.get_current_round()
    assert [found["number"] for found in client.list_rounds(limit=1)] == [number]
    assert [found["number"] for found in client.list_rounds(status="resolving")] == [number, 1400]


def test_numbers_grow_by_one_and_other_tournaments_have_no_rounds(tournament: LocalTournament, client: Any) -> None:
    assert [tournament.open_next_round() for _ in range(3)] == [1401, 1402, 1403]
    assert post(tournament, "{ rounds(tournament: 11) { number } }")["data"]["rounds"] == []


def test_daily_rounds_are_opened_one_after_the_other(home: Path) -> None:
    with LocalTournament(home, market=SMALL, system=TickingFrom(), weekly_only=False) as tournament:
        days = []
        for _ in range(4):
            tournament.open_next_round(delay_s=0)
            days.append(f"{tournament.now_utc():%a %H:%M}")
    assert days == ["Tue 12:00", "Wed 12:00", "Thu 12:00", "Fri 12:00"]


def test_a_new_tournament_begins_between_rounds_even_on_a_weekend(home: Path) -> None:
    saturday = datetime(2026, 11, 28, 18, tzinfo=UTC)
    tournament = LocalTournament(home, market=SMALL, system=lambda: saturday)
    assert tournament.current_round() is None
    assert tournament.now_utc() == datetime(2026, 11, 29, 15, tzinfo=UTC)


def test_every_answer_tells_the_time_of_the_tournament(tournament: LocalTournament) -> None:
    tournament.move_clock(86_400)
    request = urllib.request.Request(tournament.url, b"{}")  # noqa: S310 -- loopback
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
        told = email.utils.parsedate_to_datetime(answer.headers["Date"])
    assert abs(told - (STARTED_UTC + timedelta(days=1))) < timedelta(seconds=30)


# The account and its keys


def test_the_account_has_the_slots_of_tournament_8_and_the_client_reads_it(
    tournament: LocalTournament, client: Any
) -> None:
    assert set(client.get_models()) == {"rehearsal_one", "rehearsal_two"}
    assert set(client.get_models(tournament=11)) == {"rehearsal_signals"}
    account = client.get_account()
    assert account["apiTokens"][0]["public_id"] == tournament.public_id
    assert client.submission_scores(client.get_models()["rehearsal_one"]) == []


def test_wrong_and_missing_keys_are_an_invalid_session_with_status_200(
    tournament: LocalTournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = real_client(tournament, monkeypatch, secret_key="WRONG")
    with pytest.raises(ValueError, match="Your session is invalid or has expired"):
        wrong.get_models()
    answer = post(tournament, "{ account { id } }", keys=False)
    assert answer["data"] == {"account": None}
    assert message(answer) == "Your session is invalid or has expired."


def test_public_queries_need_no_keys(tournament: LocalTournament) -> None:
    tournament.open_next_round()
    answer = post(tournament, "{ rounds(tournament: 8 number: 0) { number } listDatasets }", keys=False)
    assert answer["data"]["rounds"] == [{"number": 1401}]
    assert TRAIN in answer["data"]["listDatasets"]


def test_a_key_without_a_scope_may_not_do_that_one_thing(
    tournament: LocalTournament, client: Any, tmp_path: Path
) -> None:
    tournament.open_next_round()
    tournament.set_scopes(["upload_submission", "read_user_info"])
    submission_id = submit(client, predictions(live_ids(client, tmp_path)))
    assert client.submission_ids(client.get_models()["rehearsal_one"])[0]["id"] == submission_id
    with pytest.raises(ValueError, match="lacks the scope download_submission"):
        client.download_submission(submission_id)
    told = post(tournament, "{ apiTokenInfo { publicId scopes } }")["data"]["apiTokenInfo"]
    assert told == {"publicId": tournament.public_id, "scopes": ["upload_submission", "read_user_info"]}
    with pytest.raises(InputError, match=r"a scope must be one of .*, however fly was given"):
        tournament.set_scopes(["fly"])


def test_a_key_may_stake_only_if_that_is_granted(tournament: LocalTournament) -> None:
    query = "{ apiTokenInfo { scopes } }"
    assert "stake" not in post(tournament, query)["data"]["apiTokenInfo"]["scopes"]
    tournament.set_scopes(["upload_submission", "stake"])
    assert post(tournament, query)["data"]["apiTokenInfo"]["scopes"] == ["upload_submission", "stake"]


# Files


def test_the_client_downloads_every_file(tournament: LocalTournament, client: Any, tmp_path: Path) -> None:
    tournament.open_next_round()
    names = client.list_datasets()
    assert {TRAIN, VALIDATION, LIVE, "v5.3/features.json", "v5.3/live_example_preds.csv"} <= set(names)
    for name in names:
        assert Path(client.download_dataset(name, str(tmp_path / name))).stat().st_size > 0
    assert len(pd.read_parquet(tmp_path / TRAIN)) == 400


def test_an_unknown_file_and_a_future_round_are_errors(tournament: LocalTournament, client: Any) -> None:
    with pytest.raises(ValueError, match="Dataset not found"):
        client.download_dataset("v5.3/weather.parquet", "unused")
    with pytest.raises(ValueError, match="Round not found: 1402"):
        client.download_dataset(LIVE, "unused", round_num=1402)


def test_a_new_round_changes_live_and_validation_but_not_train(tournament: LocalTournament) -> None:
    tags = []
    for _ in range(2):
        tournament.open_next_round()
        tags.append({name: get(file_url(tournament, name))[1]["ETag"] for name in (LIVE, TRAIN, VALIDATION)})
    assert {name: tags[0][name] == tags[1][name] for name in tags[0]} == {LIVE: False, TRAIN: True, VALIDATION: False}


def test_ranges_are_answered_with_the_part_and_the_total(tournament: LocalTournament) -> None:
    url = file_url(tournament, TRAIN)
    status, headers, whole = get(url)
    assert (status, headers["Accept-Ranges"], int(headers["Content-Length"])) == (200, "bytes", len(whole))
    for asked, part in (("0-0", whole[:1]), ("5-9", whole[5:10]), ("7-", whole[7:]), ("-4", whole[-4:])):
        status, partial, data = get(url, {"Range": f"bytes={asked}"})
        assert (status, data) == (206, part)
        assert partial["Content-Range"].endswith(f"/{len(whole)}")
        assert (partial["ETag"], partial["Last-Modified"]) == (headers["ETag"], headers["Last-Modified"])
    assert refusal(url, {"Range": f"bytes={len(whole)}-"})[0] == 416


def test_a_signed_address_expires_on_the_tournaments_clock(tournament: LocalTournament) -> None:
    url = file_url(tournament, TRAIN)
    tournament.move_clock(3590)
    assert get(url)[0] == 200
    tournament.move_clock(11)
    status, page = refusal(url)
    assert status == 403
    assert page.startswith('<?xml version="1.0"')
    assert "Request has expired" in page


def test_an_address_is_good_only_for_what_it_was_signed_for(tournament: LocalTournament) -> None:
    url = file_url(tournament, TRAIN)
    assert refusal(url.replace("train", "validation"))[0] == 403
    assert refusal(url.split("?")[0])[0] == 403
    assert refusal(url, method="PUT")[0] == 403
    assert refusal(f"{tournament.url}/elsewhere")[0] == 404


def test_other_bytes_are_served_until_they_are_taken_back(tournament: LocalTournament, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(b"PAR1 no")
    tournament.set_file(LIVE, damaged)
    assert get(file_url(tournament, LIVE))[2] == b"PAR1 no"
    tournament.set_file(LIVE, None)
    assert get(file_url(tournament, LIVE))[2] != b"PAR1 no"
    with pytest.raises(InputError, match=r"the file to serve must exist, however .*missing does not"):
        tournament.set_file(LIVE, tmp_path / "missing")


def test_a_newer_data_version_is_listed_with_the_same_bytes(tournament: LocalTournament, client: Any) -> None:
    before = client.list_datasets()
    tournament.add_data_version("v5.4")
    tournament.add_data_version("v5.4")
    assert client.list_datasets() == before + [name.replace("v5.3", "v5.4") for name in before]
    assert get(file_url(tournament, "v5.4/train.parquet"))[2] == get(file_url(tournament, TRAIN))[2]


def test_a_folder_of_files_is_served_instead_of_the_market(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "features.json").write_text("{}")
    ids = [f"id{i}" for i in range(5)]
    pd.DataFrame({"era": "X"}, index=pd.Index(ids, name="id")).to_parquet(folder / "live.parquet")
    with LocalTournament(home, data_from=folder, system=TickingFrom()) as tournament:
        client = real_client(tournament, monkeypatch)
        tournament.open_next_round()
        assert client.list_datasets() == ["v5.3/features.json", LIVE]
        assert get(file_url(tournament, LIVE))[2] == (folder / "live.parquet").read_bytes()
        submit(client, predictions(live_ids(client, tmp_path)))
        assert len(tournament.accepted(1401)) == 1
    assert {path.name for path in folder.iterdir()} == {"features.json", "live.parquet"}
    with pytest.raises(InputError, match=r"the data must come from a folder, however .*nowhere is not one"):
        LocalTournament(home, data_from=tmp_path / "nowhere")


def test_real_rounds_are_served_with_their_own_live_ids(
    home: Path, shared_real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalTournament(home, data_from=shared_real / "rounds_2017", system=TickingFrom()) as tournament:
        client = real_client(tournament, monkeypatch)
        tournament.open_next_round()
        ids = live_ids(client, tmp_path)
        submit(client, predictions(ids))
        assert len(ids) == 198
        assert [one.slot for one in tournament.accepted(1401)] == ["rehearsal_one"]


# Its home


def test_a_restart_goes_on_where_it_was_at_the_same_address(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = TickingFrom()
    with LocalTournament(home, market=SMALL, system=clock) as first:
        client = real_client(first, monkeypatch)
        number = first.open_next_round()
        submission_id = submit(client, predictions(live_ids(client, tmp_path)))
        before = (first.url, first.public_id, first.secret_key)
        tag = get(file_url(first, TRAIN))[1]["ETag"]
    with LocalTournament(home, market=SMALL, system=clock, slots=("rehearsal_one", "third")) as second:
        assert (second.url, second.public_id, second.secret_key) == before
        assert second.open_round() == number
        assert [one.id for one in second.accepted(number)] == [submission_id]
        assert get(file_url(second, TRAIN))[1]["ETag"] == tag
        assert set(client.get_models()) == {"rehearsal_one", "rehearsal_two", "third"}


def test_what_is_secret_can_be_read_by_its_owner_only(tournament: LocalTournament) -> None:
    for name in ("keys.json", "tournament.env"):
        assert stat.S_IMODE((tournament.home / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(tournament.home.stat().st_mode) == 0o700
    assert tournament.secret_key not in (tournament.home / "tournament.json").read_text()
    assert tournament.secret_key not in repr(tournament._core.keys)


def test_two_tournaments_never_share_a_home(tournament: LocalTournament, monkeypatch: pytest.MonkeyPatch) -> None:
    from eraflow.rehearsal import server

    monkeypatch.setattr(server, "WAITS_FOR_HOME_S", 0.1)
    with pytest.raises(StorageError, match="in use by another process"):
        LocalTournament(tournament.home, market=SMALL).start()


def test_a_port_that_is_taken_is_refused(tournament: LocalTournament, tmp_path: Path) -> None:
    port = int(tournament.url.rpartition(":")[2])
    with pytest.raises(StorageError, match=f"must listen on 127.0.0.1:{port}, however"):
        LocalTournament(tmp_path / "other", port=port, market=SMALL).start()


def test_another_market_in_the_same_home_replaces_the_files(home: Path) -> None:
    sizes = []
    for features in (8, 9):
        market = MarketConfig(features=features, train_eras=20, validation_eras=20, rows_per_era=20)
        with LocalTournament(home, market=market, system=TickingFrom()) as tournament:
            tournament.open_next_round()
            sizes.append(hashlib.sha256(get(file_url(tournament, TRAIN))[2]).hexdigest())
    assert sizes[0] != sizes[1]
    assert len(list((home / "files").iterdir())) == 1


def test_old_weeks_are_not_kept_but_can_still_be_read(tournament: LocalTournament, client: Any, tmp_path: Path) -> None:
    for _ in range(6):
        newest = tournament.open_next_round()
    [market] = (tournament.home / "files").iterdir()
    assert len(list(market.glob("round-*"))) == 3
    client.download_dataset(LIVE, str(tmp_path / "old.parquet"), round_num=newest - 5)
    assert set(pd.read_parquet(tmp_path / "old.parquet").era) == {"X"}


def test_a_state_that_cannot_be_read_is_refused(home: Path) -> None:
    LocalTournament(home, market=SMALL)
    (home / "tournament.json").write_text("{")
    with pytest.raises(StorageError, match=r"tournament.json must hold a local tournament, however it cannot be read"):
        LocalTournament(home, market=SMALL)


# From another process


def test_another_process_can_drive_it(tournament: LocalTournament, tmp_path: Path) -> None:
    from eraflow.rehearsal import Fault

    control = RemoteControl(tournament.home)
    assert control.url == tournament.url
    assert control.environment["NUMERAI_SECRET_KEY"] == tournament.secret_key
    number = control.open_next_round(delay_s=60)
    assert number == tournament.open_round() == control.open_round()
    assert abs(control.now_utc() - tournament.now_utc()) < timedelta(seconds=5)
    control.add_faults(Fault(where="any query", what="empty-rounds", headers={"X": "y"}))
    assert post(tournament, "{ rounds { number } }") == {"data": {"rounds": []}}
    assert control.requests()[-1] == ("POST", "/", "rounds")
    control.add_slot("third")
    control.set_scopes(["read_user_info"])
    control.add_data_version("v5.4")
    other = tmp_path / "other"
    other.write_bytes(b"x")
    control.set_file(LIVE, other)
    control.clear_faults()
    assert "third" in str(post(tournament, "{ account { models { name } } }"))
    assert get(file_url(tournament, LIVE))[2] == b"x"
    assert control.close_round() == number
    control.move_clock(10)
    assert control.open_round() is None
    assert control.accepted() == []


def test_the_control_needs_its_token_and_refuses_in_words(tournament: LocalTournament) -> None:
    control = RemoteControl(tournament.home)
    with pytest.raises(InputError, match="refuses dance: a control call must be one of now_utc"):
        control.call("dance")
    with pytest.raises(InputError, match=r"refuses move_clock: .*unexpected keyword"):
        control.call("move_clock", hours=1)
    body = b'{"token": "guess", "call": "close_round"}'
    request = urllib.request.Request(f"{tournament.url}/control", body)  # noqa: S310 -- loopback
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=5)  # noqa: S310
    with caught.value as error:
        assert error.code == 403


def test_a_tournament_that_is_not_running_says_so(home: Path) -> None:
    with pytest.raises(InputError, match="must be the home of a local tournament"):
        RemoteControl(home).now_utc()
    stopped = LocalTournament(home, market=SMALL)
    with pytest.raises(InputError, match="must be started first"):
        _ = stopped.url
    with stopped:
        pass
    with pytest.raises(InputError, match="must be running"):
        RemoteControl(home).now_utc()
