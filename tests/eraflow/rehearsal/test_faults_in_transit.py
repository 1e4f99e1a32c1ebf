"""Tests of the faults that reset, stall, never end, lead elsewhere, or let something happen at an exact request."""

from __future__ import annotations

import email.utils
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from eraflow.rehearsal import Fault, LocalTournament, RemoteControl, random_faults
from eraflow.rehearsal.faults import Target
from tests.eraflow.rehearsal.sending import file_url, post

ROUNDS = "{ rounds(tournament: 8 limit: 1) { number closeStakingTime } }"
CURRENT = "{ rounds(tournament: 8 number: 0) { number } }"
LIVE = "v5.3/live.parquet"
NOWHERE = "https://nowhere.invalid:444"


@pytest.fixture
def opened(tournament: LocalTournament) -> LocalTournament:
    tournament.open_next_round(delay_s=0)
    return tournament


@contextmanager
def answering(
    url: str, body: bytes | None = None, method: str = "GET", timeout_s: float = 5.0
) -> Iterator[http.client.HTTPResponse]:
    """The answer to one request as it comes in; redirects are not followed."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=timeout_s)
    try:
        connection.request(method, f"/{path}", body)
        with connection.getresponse() as answer:
            yield answer
    finally:
        connection.close()


def whole(url: str) -> bytes:
    with answering(url) as answer:
        return answer.read()


def read_until_reset(answer: http.client.HTTPResponse) -> bytes:
    """What comes before the connection is reset; an end of file or silence in its place is an error."""
    found = b""
    try:
        while block := answer.read1(1 << 16):
            found += block
    except ConnectionResetError:
        return found
    pytest.fail("the answer ended in place of a reset")


def grant(tournament: LocalTournament) -> dict[str, str]:
    models = post(tournament, "{ account { models { id } } }")["data"]["account"]["models"]
    query = 'query($m: String) { submission_upload_auth(filename: "p.csv" tournament: 8 modelId: $m) { filename url } }'
    found: dict[str, str] = post(tournament, query, {"m": models[0]["id"]})["data"]["submission_upload_auth"]
    return {**found, "model": models[0]["id"]}


def uploaded(tournament: LocalTournament, granted: dict[str, str]) -> str | None:
    """The digest of what was put there."""
    found: str | None = tournament._core.state.uploads[granted["filename"]]["sha256"]
    return found


# Reset


@pytest.mark.parametrize("n", [0, 700, 5000])
def test_a_download_is_reset_after_exactly_so_many_bytes(opened: LocalTournament, n: int) -> None:
    url = file_url(opened, LIVE)
    expected = whole(url)
    assert len(expected) > 5000
    opened.faults.add(Fault(where="get:live.parquet", what="reset-after", n=n))
    with answering(url) as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(expected)))
        assert read_until_reset(answer) == expected[:n]
    assert whole(url) == expected


def test_a_reset_discards_nothing_of_what_was_to_come_before_it(opened: LocalTournament, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 40_000)
    opened.set_file(LIVE, large)
    opened.faults.add(Fault(where="get:*", what="reset-after", n=8_000_000))
    with answering(file_url(opened, LIVE)) as answer:
        assert len(read_until_reset(answer)) == 8_000_000


def test_a_mutation_whose_answer_is_reset_has_taken_effect(opened: LocalTournament) -> None:
    opened.faults.add(Fault(where="query:submissionUploadAuth", what="reset-after", n=3))
    with pytest.raises(ConnectionResetError):
        grant(opened)
    assert len(opened._core.state.uploads) == 1


@pytest.mark.parametrize("n", [0, 100, 10_000_000])
def test_an_upload_is_reset_without_effect_however_much_of_it_was_read(opened: LocalTournament, n: int) -> None:
    granted = grant(opened)
    opened.faults.add(Fault(where="put", what="reset-after", n=n))
    with pytest.raises((ConnectionResetError, BrokenPipeError)), answering(granted["url"], b"x" * 5_000_000, "PUT"):
        pass
    assert uploaded(opened, granted) is None
    with answering(granted["url"], b"x", "PUT") as answer:
        assert answer.status == 200
    assert uploaded(opened, granted) is not None


def test_reset_before_ends_with_an_error_and_not_with_an_end_of_file(opened: LocalTournament) -> None:
    url = file_url(opened, LIVE)
    opened.faults.add(Fault(where="get:*", what="reset-before"))
    with pytest.raises(ConnectionResetError), answering(url):
        pass


# What never ends by itself


def test_a_stalled_answer_gives_its_first_bytes_and_then_silence(opened: LocalTournament) -> None:
    url = file_url(opened, LIVE)
    expected = whole(url)
    opened.faults.add(Fault(where="get:*", what="stall", n=100))
    with answering(url, timeout_s=1.0) as answer:
        assert answer.headers["Content-Length"] == str(len(expected))
        assert answer.read(100) == expected[:100]
        with pytest.raises(TimeoutError):
            answer.read(1)
    assert whole(url) == expected


def test_a_stalled_answer_goes_on_by_single_bytes(opened: LocalTournament, monkeypatch: pytest.MonkeyPatch) -> None:
    url = file_url(opened, LIVE)
    expected = whole(url)
    monkeypatch.setattr("eraflow.rehearsal.wire.STALLED_BYTE_EVERY_S", 0.01)
    opened.faults.add(Fault(where="get:*", what="stall", n=len(expected) - 4))
    with answering(url) as answer:
        assert answer.read() == expected


def test_a_stall_keeps_back_at_least_the_last_byte_and_ends_when_the_tournament_stops(opened: LocalTournament) -> None:
    url = file_url(opened, LIVE)
    expected = whole(url)
    opened.faults.add(Fault(where="get:*", what="stall", n=10 * len(expected)))
    with answering(url) as answer:
        assert answer.read(len(expected) - 1) == expected[:-1]
        opened.stop()
        with pytest.raises(http.client.IncompleteRead):
            answer.read()


def test_a_stalled_query_has_taken_effect(opened: LocalTournament) -> None:
    opened.faults.add(Fault(where="query:submission_upload_auth", what="stall", n=5))
    models = post(opened, "{ account { models { id } } }")["data"]["account"]["models"]
    query = 'query($m: String) { submissionUploadAuth(filename: "p.csv" tournament: 8 modelId: $m) { filename } }'
    with pytest.raises(TimeoutError):
        post(opened, query, {"m": models[0]["id"]}, timeout_s=0.2)
    assert len(opened._core.state.uploads) == 1


def test_a_stall_ends_when_the_client_hangs_up(opened: LocalTournament, monkeypatch: pytest.MonkeyPatch) -> None:
    from eraflow.rehearsal import wire

    url = file_url(opened, LIVE)
    ended, usual = threading.Event(), wire.Handler._cut

    def cut(handler: wire.Handler, reset: bool = False) -> None:
        usual(handler, reset)
        ended.set()

    monkeypatch.setattr(wire.Handler, "_cut", cut)
    opened.faults.add(Fault(where="get:*", what="stall", n=10))
    with answering(url) as answer:
        answer.read(10)
        assert not ended.is_set()
    assert ended.wait(10)


@pytest.mark.parametrize(
    ("where", "content_type"), [("get:*", "application/octet-stream"), ("put", "application/octet-stream")]
)
def test_an_endless_answer_promises_no_length_and_has_no_effect(
    opened: LocalTournament, where: str, content_type: str
) -> None:
    granted, url = grant(opened), file_url(opened, LIVE)
    opened.faults.add(Fault(where=where, what="endless"))
    with answering(*((url,) if where == "get:*" else (granted["url"], b"x", "PUT"))) as answer:
        told = answer.headers
        assert (answer.status, told["Content-Length"], told["Connection"]) == (200, None, "close")
        assert told["Content-Type"] == content_type
        assert len(answer.read(20_000_000)) == 20_000_000
    assert uploaded(opened, granted) is None


def test_an_endless_answer_of_the_api_is_json_unless_told_otherwise_and_ends_with_the_tournament(
    opened: LocalTournament,
) -> None:
    opened.faults.add(
        Fault(where="query:rounds", what="endless"),
        Fault(where="query:rounds", what="endless", headers={"Content-Type": "text/html"}),
    )
    for content_type in ("application/json", "text/html"):
        with answering(f"{opened.url}/", json.dumps({"query": ROUNDS}).encode(), "POST") as answer:
            assert answer.headers.get_all("Content-Type") == [content_type]
            if content_type == "text/html":
                opened.stop()
                answer.read()


# Elsewhere


def test_a_redirect_leads_where_it_is_told_to(opened: LocalTournament) -> None:
    url = file_url(opened, LIVE)
    opened.faults.add(Fault(where="get:*", what="redirect", to="http://127.0.0.1:1/there"))
    with answering(url) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, "http://127.0.0.1:1/there")


def test_addresses_are_handed_out_at_another_host_and_are_otherwise_good(opened: LocalTournament) -> None:
    opened.faults.add(
        Fault(where="query:dataset", what="address", to=NOWHERE),
        Fault(where="query:submissionUploadAuth", what="address", to=NOWHERE),
    )
    data, upload = file_url(opened, LIVE), grant(opened)["url"]
    assert data.startswith(f"{NOWHERE}/files/1401/{LIVE}?expires=")
    assert upload.startswith(f"{NOWHERE}/uploads/p-")
    assert whole(data.replace(NOWHERE, opened.url)) == whole(file_url(opened, LIVE))
    with answering(upload.replace(NOWHERE, opened.url), b"x", "PUT") as answer:
        assert answer.status == 200


def test_the_address_of_a_submission_is_handed_out_at_another_host(opened: LocalTournament) -> None:
    granted = grant(opened)
    with answering(granted["url"], b"id,prediction\n", "PUT") as answer:
        assert answer.status == 200
    mutation = "mutation($f: String! $m: String) { createSubmission(filename: $f tournament: 8 modelId: $m) { id } }"
    made = post(opened, mutation, {"f": granted["filename"], "m": granted["model"]})["data"]["createSubmission"]["id"]
    opened.faults.add(Fault(where="query:submission_download_auth", what="address", to="http://localhost:1"))
    query = "query($i: String) { submissionDownloadAuth(id: $i) { url } }"
    told = post(opened, query, {"i": made})["data"]["submissionDownloadAuth"]["url"]
    assert told.startswith(f"http://localhost:1/submissions/{made}/")


# The clock and the rounds


def date_of(opened: LocalTournament) -> str | None:
    with answering(f"{opened.url}/", json.dumps({"query": ROUNDS}).encode(), "POST") as answer:
        assert json.loads(answer.read())["data"]["rounds"]
        return answer.headers["Date"]


@pytest.mark.parametrize("ahead_s", [7200, -7200])
def test_the_date_of_an_answer_is_off_while_the_clock_is_not(opened: LocalTournament, ahead_s: int) -> None:
    opened.faults.add(Fault(where="query:rounds", what="clock", n=ahead_s))
    off, usual = (email.utils.parsedate_to_datetime(str(date_of(opened))) for _ in range(2))
    assert abs(off - usual - timedelta(seconds=ahead_s)) < timedelta(seconds=30)
    assert abs(usual - opened.now_utc()) < timedelta(seconds=30)


def test_an_answer_can_be_without_a_date(opened: LocalTournament) -> None:
    opened.faults.add(Fault(where="any query", what="no-date"))
    assert date_of(opened) is None
    assert date_of(opened) is not None


def test_a_new_round_opens_just_before_the_request_is_done(opened: LocalTournament) -> None:
    opened.faults.add(Fault(where="query:rounds", what="new-round", after=1))
    seen = [post(opened, CURRENT)["data"]["rounds"] for _ in range(3)]
    assert seen == [[{"number": 1401}], [{"number": 1402}], [{"number": 1402}]]
    assert opened.open_round() == 1402
    opens = opened._core.latest()
    assert opens.opens_at_utc == opens.scheduled_utc


def test_a_new_round_opens_in_the_middle_of_a_download_of_the_old_one(opened: LocalTournament) -> None:
    opened._core.url_lifetime_s = 30 * 86_400.0
    url = file_url(opened, LIVE)
    expected = whole(url)
    opened.faults.add(Fault(where="get:live.parquet", what="new-round"))
    assert whole(url) == expected
    assert opened.open_round() == 1402


def test_the_deadline_passes_just_before_the_request_is_done(opened: LocalTournament) -> None:
    granted = grant(opened)
    with answering(granted["url"], b"id,prediction\n", "PUT") as answer:
        assert answer.status == 200
    opened.faults.add(Fault(where="query:createSubmission", what="close"))
    mutation = "mutation($f: String! $m: String) { createSubmission(filename: $f tournament: 8 modelId: $m) { id } }"
    post(opened, mutation, {"f": granted["filename"], "m": granted["model"]})
    assert [(one.round, one.late) for one in opened.submissions()] == [(1401, True)]
    assert (opened.open_round(), opened.current_round()) == (None, 1401)


def test_the_deadline_passes_before_an_upload_which_then_finds_its_address_expired(opened: LocalTournament) -> None:
    granted = grant(opened)
    opened.faults.add(Fault(where="put", what="close"))
    with answering(granted["url"], b"x", "PUT") as answer:
        assert answer.status == 403
    assert opened.open_round() is None


# Plans


def test_another_process_can_ask_for_each_of_them(opened: LocalTournament) -> None:
    faults = (
        Fault(where="query:dataset", what="address", to=NOWHERE),
        Fault(where="get:*", what="stall", n=3, times=None),
        Fault(where="put", what="reset-after", n=3),
        Fault(where="any query", what="clock", n=-5),
    )
    RemoteControl(opened.home).add_faults(*faults)
    assert [opened.faults.strike(Target("query", ("dataset",)))] == [faults[0]]
    assert opened.faults.strike(Target("get", (LIVE,))) == faults[1]
    assert opened.faults.strike(Target("put")) == faults[2]
    assert opened.faults.strike(Target("query", ("rounds",))) == faults[3]


def test_the_plans_of_random_faults_are_what_they_were() -> None:
    plan = [(one.where, one.what, one.n, one.times, one.after) for one in random_faults(0)]
    assert plan == [
        ("put", "lost-answer", 100, 1, 0),
        ("any query", "status", 100, 2, 0),
        ("query:account", "bad-json", 100, 1, 0),
        ("get:validation.parquet", "status", 100, 1, 0),
    ]


REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"where": "put", "what": "stall"}, "stall must hit a query or a get, however 'put' was given"),
    ({"where": "get:*", "what": "empty-rounds"}, r"empty-rounds must hit a query, however 'get:\*' was given"),
    ({"where": "any query", "what": "ignore-range"}, "ignore-range must hit a get, however 'any query' was given"),
    ({"where": "get:*", "what": "address", "to": NOWHERE}, "address must hit a query, however"),
    ({"where": "any query", "what": "address", "to": NOWHERE}, "address must hit a query that hands out addresses"),
    ({"where": "query:rounds", "what": "address", "to": NOWHERE}, r"hands out addresses \(query:dataset, "),
    ({"where": "query:dataset", "what": "address"}, "to of address must be a scheme, a host and perhaps a port"),
    ({"where": "query:dataset", "what": "address", "to": f"{NOWHERE}/path"}, "to of address must be a scheme"),
    ({"where": "put", "what": "redirect", "to": "http://a b"}, "to must be an address in printable ASCII"),
    ({"where": "put", "what": "hang", "to": NOWHERE}, "to must be left out for hang, however"),
    ({"where": "put", "what": "reset-after", "n": -1}, "n of reset-after must be 0 or more, however -1 was given"),
    ({"where": "get:*", "what": "slow", "n": 0}, "n of slow must be 1 or more, however 0 was given"),
    ({"where": "get:*", "what": "clock", "n": 10**10}, "n of clock must be from -1000000000 to 1000000000, however"),
    ({"where": "put", "what": "hang", "times": 0}, "however times 0 and after 0 were given"),
    ({"where": "put", "what": "hang", "after": -1}, "however times 1 and after -1 were given"),
    ({"where": "put", "what": "status", "code": 99}, "the code of a fault must be from 200 to 599, however 99"),
)


@pytest.mark.parametrize(("table", "told"), REFUSED, ids=[f"{one['what']}-{i}" for i, (one, _) in enumerate(REFUSED)])
def test_what_makes_no_sense_is_refused_in_words(table: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Fault(**table)
