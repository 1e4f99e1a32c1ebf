"""Tests of `eraflow.rehearsal.faults`: each does what it says, to the requests it names."""

from __future__ import annotations

import http.client
import json
import socket
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from eraflow.rehearsal import Fault, Faults, LocalTournament, random_faults
from eraflow.rehearsal.faults import Target
from tests.eraflow.rehearsal.sending import file_url, message, post

ROUNDS = "{ rounds(tournament: 8) { number } }"
LIVE = "v5.3/live.parquet"
BROKEN = (ConnectionError, http.client.RemoteDisconnected, urllib.error.URLError)


@pytest.fixture
def opened(tournament: LocalTournament) -> LocalTournament:
    tournament.open_next_round()
    return tournament


def get(url: str, headers: dict[str, str] | None = None, timeout_s: float = 5.0) -> tuple[int, Any, bytes]:
    request = urllib.request.Request(url, headers=headers or {})  # noqa: S310 -- loopback
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
        return answer.status, answer.headers, answer.read()


def grant(tournament: LocalTournament) -> dict[str, str]:
    models = post(tournament, "{ account { models { id } } }")["data"]["account"]["models"]
    query = 'query($m: String) { submission_upload_auth(filename: "p.csv" tournament: 8 modelId: $m) { filename url } }'
    found = post(tournament, query, {"m": models[0]["id"]})["data"]["submission_upload_auth"]
    return {**found, "model": models[0]["id"]}


def test_status_answers_with_code_body_and_headers_and_has_no_effect(opened: LocalTournament) -> None:
    opened.faults.add(Fault(where="put", what="status", code=429, body="wait", headers={"Retry-After": "7"}))
    granted = grant(opened)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(granted["url"], b"data", method="PUT"), timeout=5)  # noqa: S310
    with caught.value as refusal:
        assert (refusal.code, refusal.headers["Retry-After"], refusal.read()) == (429, "7", b"wait")
    assert opened._core.state.uploads[granted["filename"]]["sha256"] is None


def test_a_fault_lets_requests_pass_first_and_then_hits_as_often_as_it_says(opened: LocalTournament) -> None:
    opened.faults.add(Fault(where="query:rounds", what="status", after=1, times=2))
    codes = []
    for _ in range(4):
        try:
            post(opened, ROUNDS)
            codes.append(200)
        except urllib.error.HTTPError as error:
            with error:
                codes.append(error.code)
    assert codes == [200, 503, 503, 200]


def test_a_fault_of_another_request_does_not_strike(opened: LocalTournament) -> None:
    opened.faults.add(Fault(where="query:account", what="status"), Fault(where="get:train.parquet", what="status"))
    assert post(opened, ROUNDS)["data"]["rounds"]
    assert get(file_url(opened, LIVE))[0] == 200


def test_reset_before_cuts_without_effect_and_lost_answer_after_it(opened: LocalTournament) -> None:
    granted = grant(opened)
    mutation = "mutation($f: String! $m: String) { create_submission(filename: $f tournament: 8 modelId: $m) { id } }"
    variables = {"f": granted["filename"], "m": granted["model"]}
    opened.faults.add(Fault(where="query:create_submission", what="reset-before"))
    with pytest.raises(BROKEN):
        post(opened, mutation, variables)
    assert opened.submissions() == []
    opened.faults.add(Fault(where="query:createSubmission", what="lost-answer"))
    with pytest.raises(BROKEN):
        post(opened, mutation, variables)
    assert len(opened.submissions()) == 1


def test_truncate_promises_the_whole_length_and_cuts(opened: LocalTournament) -> None:
    opened.faults.add(Fault(where="get:live.parquet", what="truncate", n=500))
    with pytest.raises(http.client.IncompleteRead) as caught:
        get(file_url(opened, LIVE))
    assert len(caught.value.partial) == 500
    assert caught.value.expected == len(get(file_url(opened, LIVE))[2]) - 500


def test_wrong_length_is_a_whole_answer_that_is_too_short(opened: LocalTournament) -> None:
    opened.faults.add(Fault(where=f"get:{LIVE}", what="wrong-length", n=10))
    _, headers, short = get(file_url(opened, LIVE))
    whole = get(file_url(opened, LIVE))[2]
    assert short == whole[:-10]
    assert int(headers["Content-Length"]) == len(short)


def test_html_200_is_a_page_with_a_good_status(opened: LocalTournament) -> None:
    opened.faults.add(Fault(where="get:*", what="html-200"))
    status, headers, page = get(file_url(opened, LIVE))
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    assert page.startswith(b"<!DOCTYPE html>")


def test_ignore_range_answers_the_whole_file(opened: LocalTournament) -> None:
    url = file_url(opened, LIVE)
    opened.faults.add(Fault(where="get:*", what="ignore-range"))
    status, _, whole = get(url, {"Range": "bytes=5-"})
    assert status == 200
    assert get(url, {"Range": "bytes=5-"})[::2] == (206, whole[5:])


def test_flip_bits_keeps_the_length(opened: LocalTournament) -> None:
    url = file_url(opened, LIVE)
    opened.faults.add(Fault(where="get:*", what="flip-bits", n=3))
    damaged, whole = get(url)[2], get(url)[2]
    assert len(damaged) == len(whole)
    assert sum((a ^ b).bit_count() for a, b in zip(damaged, whole, strict=True)) == 3


def test_slow_trickles(opened: LocalTournament) -> None:
    url = file_url(opened, "v5.3/features.json")
    whole = get(url)[2]
    opened.faults.add(Fault(where="get:*", what="slow", n=len(whole) * 4))
    started = time.monotonic()
    assert get(url)[2] == whole
    assert 0.15 < time.monotonic() - started < 2.0


def test_hang_never_answers_until_the_tournament_stops(opened: LocalTournament) -> None:
    opened.faults.add(Fault(where="any query", what="hang"))
    with pytest.raises(TimeoutError):
        post(opened, ROUNDS, timeout_s=0.2)
    assert post(opened, ROUNDS)["data"]["rounds"]


def test_bad_json_takes_effect_and_answers_what_cannot_be_read(opened: LocalTournament) -> None:
    opened.faults.add(Fault(where="query:rounds", what="bad-json"))
    with pytest.raises(json.JSONDecodeError):
        post(opened, ROUNDS)


def test_empty_rounds_and_redirect(opened: LocalTournament) -> None:
    opened.faults.add(Fault(where="query:rounds", what="empty-rounds"))
    assert post(opened, ROUNDS) == {"data": {"rounds": []}}
    opened.faults.add(Fault(where="get:*", what="redirect"))
    address = file_url(opened, LIVE).removeprefix(opened.url)
    connection = http.client.HTTPConnection(opened.url.removeprefix("http://"), timeout=5)
    connection.request("GET", address)
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Location"]) == (302, f"{opened.url}/elsewhere")
    connection.close()


def test_cleared_faults_strike_no_more_and_the_struck_ones_are_known(opened: LocalTournament) -> None:
    fault = Fault(where="any query", what="empty-rounds", times=None)
    opened.faults.add(fault)
    post(opened, ROUNDS)
    opened.faults.clear()
    assert post(opened, ROUNDS)["data"]["rounds"]
    assert opened.faults.struck == [fault]


def test_of_two_due_faults_the_first_strikes_and_the_other_keeps_its_turn() -> None:
    faults = Faults()
    first, second = Fault(where="put", what="status", code=500), Fault(where="put", what="status", code=403)
    faults.add(first, second)
    assert [faults.strike(Target("put")) for _ in range(3)] == [first, second, None]


def test_a_plan_of_faults_repeats_for_its_seed() -> None:
    assert random_faults(3) == random_faults(3)
    assert len({random_faults(seed) for seed in range(20)}) > 10
    assert all(3 <= len(random_faults(seed)) <= 5 for seed in range(20))


def test_a_fault_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a fault must be one of .*, however 'explode' was given"):
        Fault(where="put", what="explode")  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match=r"a fault must hit .*, however 'post' was given"):
        Fault(where="post", what="hang")


def test_a_client_that_hangs_up_does_not_disturb_the_next(opened: LocalTournament) -> None:
    host, port = opened.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{")
    assert message(post(opened, "{ nothing }")).startswith("Cannot query field")
