"""Whatever the tournament's API answers is read to a valid value or refused as an error of ours.

Read `QUESTIONS` first: everything that is asked of the API. An answer is fed as the bytes of its body, past the socket
(`Told`), because a property needs hundreds of them; the last part sends odd answers over a connection.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eraflow import transport
from eraflow.client import Keys, Queries
from eraflow.entries import Listed, PayoutTerms, ScoreEntry, Slot
from eraflow.errors import ClosedError, EraflowError
from eraflow.ledger import Ledger, Score
from eraflow.rounds import Round
from eraflow.tournament import Tournament
from tests.eraflow.conftest import nap
from tests.eraflow.foreign import (
    DEPTHS,
    JSONS,
    MODEL_ID,
    NUMBER,
    PUBLIC_ID,
    SECRET,
    SIGNED,
    STORED_AS,
    TEXTS,
    each_spoiled,
    spoiled,
    text_of,
    whole_answer,
)
from tests.eraflow.raw_server import OK, Server, closed_port, sending
from tests.eraflow.talking import allowed

# The client's parser of dates guesses, and warns of a zone that it does not know.
pytestmark = pytest.mark.filterwarnings("ignore:tzname")

KEYS = Keys(PUBLIC_ID, SECRET)
WHOLE = whole_answer("https://127.0.0.1:9/x")
OPEN_AT = datetime(2026, 8, 22, 14, tzinfo=UTC)
STATUSES = st.sampled_from([200, 200, 200, 200, 400, 401, 404, 429, 500])


@pytest.fixture(autouse=True, scope="module")
def _asked_twice() -> Iterator[None]:
    """Two tries of everything show as much as the usual five."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eraflow.tournament.RETRY_WAITS_S", (0.0,))
        yield


class Told(Queries):
    """The queries of a door, each answered with the same body."""

    raw: bytes = b""
    status: int = 200

    def send(
        self,
        query: str,
        variables: Mapping[str, Any] | None = None,
        authorization: bool = False,
        leaves_within_s: float | None = None,
    ) -> dict[str, Any]:
        return self._judged(transport.Answer(self.status, transport._json(self.raw), None, None))


def door_to(raw: bytes, status: int = 200) -> Tournament:
    door = Tournament("http://127.0.0.1:9", KEYS, sleep=nap)
    told = Told(door.url, KEYS, door.clock)
    told.raw, told.status = raw, status
    door._queries = told
    return door


QUESTIONS: dict[str, tuple[Callable[[Tournament], object], str]] = {
    "current round": (lambda door: door.current_round(), "rounds"),
    "latest round": (lambda door: door.latest_round(), "rounds"),
    "payout": (lambda door: door.payout(NUMBER), "rounds"),
    "glance": (lambda door: door.glance(), "rounds"),
    "slots": (lambda door: list(door.slots().values()), "account"),
    "selected": (lambda door: door.selected(MODEL_ID, NUMBER), "model"),
    "complaint": (lambda door: door.complaint(MODEL_ID, STORED_AS), "model"),
    "listed": (lambda door: door.listed(MODEL_ID), "submissions"),
    "scores": (lambda door: door.scores(MODEL_ID), "submissionScores"),
    "scopes": (lambda door: door.scopes(), "apiTokenInfo"),
    "data versions": (lambda door: door.data_versions(), "listDatasets"),
    "glance at versions": (lambda door: door.glance_at_versions(), "listDatasets"),
    "upload": (lambda door: granted(door), "submission_upload_auth"),
    "create": (lambda door: door.create(STORED_AS, MODEL_ID, allowed), "create_submission"),
}
"""What is asked -> how, and the field of the answer that it is read from."""


def granted(door: Tournament) -> None:
    """Ask where bytes may be put, and put none."""

    def closed() -> None:
        raise ClosedError("the deadline has passed")

    with suppress(ClosedError):
        door.upload("a.csv", b"", MODEL_ID, closed)


def said(question: Callable[[Tournament], object], door: Tournament) -> object:
    """The answer, or the error of ours, which tells no secret."""
    try:
        return question(door)
    except EraflowError as error:
        told = error
    assert SECRET not in told.message
    assert PUBLIC_ID not in told.message
    assert not re.search("https?://", told.message, re.IGNORECASE)
    assert len(told.message) < 1000
    return told


def assert_valid(value: object) -> None:
    """Of the documented types, whole, finite, and fit to be printed and kept."""
    if isinstance(value, list | tuple):
        for part in value:
            assert_valid(part)
    elif isinstance(value, Round | Slot | Listed | ScoreEntry | PayoutTerms):
        for field in dataclasses.fields(value):
            part = getattr(value, field.name)
            assert type(part).__name__ in str(field.type) or part is None, (field.name, part)
            assert_valid(part)
    elif isinstance(value, datetime):
        assert value.utcoffset() == UTC.utcoffset(None)
    elif isinstance(value, float):
        assert math.isfinite(value)
    elif isinstance(value, str):
        value.encode()
    else:
        assert value is None or isinstance(value, bool | int | EraflowError)


# Bodies


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_whole_answer_is_read(name: str) -> None:
    door = door_to(text_of(WHOLE))
    door.clock.system = lambda: OPEN_AT
    value = said(QUESTIONS[name][0], door)
    assert not isinstance(value, EraflowError)
    assert_valid(value)


@settings(max_examples=60)
@given(JSONS, DEPTHS, STATUSES)
def test_any_json_is_read_to_a_valid_value_or_refused(value: Any, depth: int, status: int) -> None:
    door = door_to(text_of(value, depth), status)
    for question, _ in QUESTIONS.values():
        assert_valid(said(question, door))


@settings(max_examples=100)
@given(spoiled(WHOLE), DEPTHS)
def test_an_answer_that_is_spoiled_anyhow_is_read_to_a_valid_value_or_refused(value: Any, depth: int) -> None:
    door = door_to(text_of(value, depth))
    for question, _ in QUESTIONS.values():
        assert_valid(said(question, door))


@pytest.mark.parametrize("name", QUESTIONS)
def test_an_answer_that_is_spoiled_in_any_one_place_is_read_to_a_valid_value_or_refused(name: str) -> None:
    question, field = QUESTIONS[name]
    for value in each_spoiled(WHOLE, field):
        door = door_to(text_of(value, 900))
        door.clock.system = lambda: OPEN_AT
        answer = said(question, door)
        try:
            assert_valid(answer)
        except (AssertionError, UnicodeEncodeError) as error:
            raise AssertionError(f"{answer!r} was read of {value['data'].get(field)!r}") from error


def read_of_spoiled(name: str) -> Iterator[object]:
    """All that is read of the answers to this question that are spoiled in one place, equal values once."""
    question, field = QUESTIONS[name]
    seen: set[str] = set()
    for value in each_spoiled(WHOLE, field):
        door = door_to(text_of(value))
        door.clock.system = lambda: OPEN_AT
        answer = said(question, door)
        if repr(answer) not in seen:
            seen.add(repr(answer))
            yield answer


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite", "http://127.0.0.1:9")


def test_every_round_that_is_read_of_a_spoiled_answer_is_kept_as_it_is(ledger: Ledger) -> None:
    found = [answer for answer in read_of_spoiled("latest round") if isinstance(answer, Round)]
    assert len(found) >= 8
    for opened in found:
        ledger.note_round(opened)
        assert whole_seconds(opened) in ledger.rounds(1_000)


def test_every_score_that_is_read_of_a_spoiled_answer_is_kept_as_it_is(ledger: Ledger) -> None:
    found = [entry for answer in read_of_spoiled("scores") if isinstance(answer, list) for entry in answer]
    assert len(found) >= 8
    for entry in found:
        score = Score(slot="one", **dataclasses.asdict(entry))
        ledger.note_scores([score])
        assert score in ledger.scores()


def whole_seconds(opened: Round) -> Round:
    """As the ledger keeps it."""
    names = [field.name for field in dataclasses.fields(opened) if field.name.endswith("_utc")]
    moments = {name: moment for name in names if (moment := getattr(opened, name))}
    return dataclasses.replace(opened, **{name: moment.replace(microsecond=0) for name, moment in moments.items()})


@settings(max_examples=60)
@given(TEXTS, st.sampled_from(["message", "detail", "other"]), STATUSES)
def test_what_the_tournament_says_is_told_in_one_line_without_keys_and_addresses(
    text: str, key: str, status: int
) -> None:
    door = door_to(text_of({"errors": [{key: f"{text} {SECRET}{PUBLIC_ID}{text} {SIGNED}"}]}), status)
    for question, _ in QUESTIONS.values():
        told = said(question, door)
        if isinstance(told, EraflowError):
            assert told.message.isprintable()


# Addresses that the tournament gives


@dataclasses.dataclass(frozen=True)
class Storage:
    """A storage that takes everything and gives three bytes, and where nothing listens."""

    server: Server
    port: str
    closed: str

    def three_times_asked(self, address: str) -> list[object]:
        """What comes of a download, of what is read back and of an upload, each at this address of the API's."""
        address = address.replace("{port}", self.port).replace("{closed}", self.closed)
        door = door_to(text_of(whole_answer(address)))
        with tempfile.TemporaryDirectory() as folder:
            got = said(lambda door: door.download("v5.3/live.parquet", Path(folder, "live.parquet")), door)
        read = said(lambda door: door.submitted_bytes("s1"), door)
        return [got, read, said(lambda door: door.upload("a.csv", b"id,prediction\n", MODEL_ID, allowed), door)]


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    server = Server(sending(OK + b"Content-Length: 3\r\n\r\nabc"))
    with server.running() as url:
        yield Storage(server, url.rpartition(":")[2], str(closed_port()))


# Of this machine, so that http will do; whether anything listens there is another question.
OWN_HOSTS = (
    "127.0.0.1:{port}", "localhost:{port}", "127.0.0.1:{closed}", "127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:x",
    "[::1]:{closed}", "127.0.0.1:", "LOCALHOST:{port}",
)  # fmt: skip
# Whoever it is: nobody is asked where they are, and the name and password before the fourth are told to nobody.
OTHER_HOSTS = (
    "storage.invalid", "127.0.0.1.invalid:{port}", "127.0.0.2:{port}", "me:hidden@127.0.0.1:{port}", "[::1", "",
    ":{port}", "127.0.0.1\\:{port}", "0.0.0.0:{port}", "2130706433:{port}", "[::ffff:127.0.0.1]:{port}",
)  # fmt: skip
RESTS = st.builds(
    "{}{}".format,
    st.sampled_from(["/", "?", "#", "/\ud800", "/%", "/%zz?a=\x00", "/\u0660", "/\n", "/ "]),
    st.text(max_size=6) | st.sampled_from(["../../x", "\ud800", "?signature=0123", "9" * 9000]),
)
HTTP = st.sampled_from(["http", "HTTP"])
# With https nothing would answer before its time-out where something listens that speaks no TLS.
OWN = st.builds("{}://{}{}".format, HTTP, st.sampled_from(OWN_HOSTS), RESTS) | st.builds(
    "https://{}{}".format, st.sampled_from([host for host in OWN_HOSTS if "{port}" not in host]), RESTS
)
OTHER = (
    st.text(max_size=12).filter(lambda text: "http" not in "".join(text.split()).lower())
    | st.builds("{}://{}{}".format, HTTP, st.sampled_from(OTHER_HOSTS), RESTS)
    | st.builds("{}://{}{}".format, st.sampled_from(["ftp", "file", "", "httpx"]), st.sampled_from(OWN_HOSTS), RESTS)
    | st.builds(
        "https://{}{}".format, st.sampled_from(["me:hidden@127.0.0.1:{port}", "me@127.0.0.1", "[::1", ""]), RESTS
    )
)


@settings(max_examples=100)
@given(OWN)
def test_any_address_on_this_machine_is_followed_or_refused(storage: Storage, address: str) -> None:
    got, read, put = storage.three_times_asked(address)
    assert isinstance(got, EraflowError | transport.Downloaded)
    assert isinstance(read, EraflowError | bytes)
    assert put == STORED_AS or isinstance(put, EraflowError)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST"])
def test_a_whole_address_on_this_machine_is_followed(host: str, storage: Storage) -> None:
    got, read, put = storage.three_times_asked(f"http://{host}:{{port}}/x?signature=0123")
    assert isinstance(got, transport.Downloaded)
    assert (read, put) == (b"abc", STORED_AS)


@settings(max_examples=150)
@given(OTHER)
def test_any_other_address_is_refused_before_anything_is_sent(storage: Storage, address: str) -> None:
    before = len(storage.server.heads)
    for told in storage.three_times_asked(address):
        assert isinstance(told, EraflowError), told
        # Half a surrogate pair is no text, so that the whole answer is refused.
        assert "must be an https address" in told.message or "\ud800" in address
    assert len(storage.server.heads) == before


# Odd answers over a connection

HEADER_NAMES = (
    "Date", "Retry-After", "Content-Length", "Content-Encoding", "Transfer-Encoding", "Content-Type", "Location",
    "Set-Cookie", "ETag", "Last-Modified", "Content-Range",
)  # fmt: skip
HEADER_VALUES = (
    "Fri, 31 Dec 9999 23:59:59 -2359", "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 +2359", "-1", "3",
    "1e3", "9" * 5000, "\xb2", "gzip", "gzip, chunked", "bytes 0-0/" + "9" * 5000, "a=b; domain=\xff", "", "\x00",
)  # fmt: skip
HEADERS = st.dictionaries(
    st.sampled_from(HEADER_NAMES),
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=8) | st.sampled_from(HEADER_VALUES),
    max_size=4,
)
STATUS_LINES = st.sampled_from([200, 200, 200, 206, 100, 204, 301, 304, 401, 404, 416, 429, 500, 999]).map(
    lambda status: f"HTTP/1.1 {status} Said\r\n".encode()
) | st.binary(max_size=20)
BODIES = st.binary(max_size=12) | JSONS.map(text_of) | st.just(text_of(WHOLE))


@pytest.fixture(scope="module")
def odd() -> Iterator[Callable[[bytes, Mapping[str, str], bytes], str]]:
    """Sets status line, headers and body of every answer from now on; returns the address."""
    server = Server(sending(b""))
    with server.running() as url:

        def set_to(line: bytes, headers: Mapping[str, str], body: bytes) -> str:
            told = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
            server.answer = sending(line + told + b"\r\n" + body)
            return url

        yield set_to


def assert_read_or_refused(url: str) -> None:
    """As an answer of the API, as a file, and as what was submitted; the clock goes on whatever it heard."""
    door = Tournament(url, KEYS, sleep=nap)
    assert_valid(said(lambda door: door.glance(), door))
    assert door.now_utc() + timedelta(days=365)
    files = door_to(text_of(whole_answer(f"{url}/live.parquet")))
    assert isinstance(said(lambda door: door.submitted_bytes("s1"), files), EraflowError | bytes)
    probed = said(lambda door: door.probe("v5.3/live.parquet"), files)
    assert probed is None or isinstance(probed, transport.Freshness)
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder, "live.parquet")
        got = said(lambda door: door.download("v5.3/live.parquet", to), files)
        assert isinstance(got, EraflowError) or (
            isinstance(got, transport.Downloaded) and to.stat().st_size == got.freshness.size_bytes
        )


@settings(max_examples=60)
@given(STATUS_LINES, HEADERS, BODIES)
def test_any_bytes_over_a_connection_are_read_to_a_valid_value_or_refused(
    odd: Callable[[bytes, Mapping[str, str], bytes], str], line: bytes, headers: dict[str, str], body: bytes
) -> None:
    assert_read_or_refused(odd(line, headers, body))


@pytest.mark.parametrize("name", HEADER_NAMES)
def test_any_value_of_a_header_is_understood_or_refused(
    odd: Callable[[bytes, Mapping[str, str], bytes], str], name: str
) -> None:
    for value in HEADER_VALUES:
        status = b"206 Partial" if name == "Content-Range" else b"200 OK"
        assert_read_or_refused(odd(b"HTTP/1.1 " + status + b"\r\n", {name: value}, b'{"data": {"rounds": []}}'))
