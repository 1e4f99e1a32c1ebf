"""How an answer of the API is judged, whatever it holds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eraflow import transport
from eraflow.client import Keys, Queries
from eraflow.errors import ClosedError, CredentialsError, EraflowError, RefusedError, TransientError
from eraflow.rounds import Clock
from eraflow.transport import Answer

URL = "https://api-tournament.example"
KEYS = Keys("PUBLIC-ID-1", "SECRET-KEY-2")
Ask = Callable[..., Any]


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Send a query that is answered with the status, the body and the `Retry-After` given."""

    def ask(status: int, body: object, retry_after: str | None = None) -> dict[str, Any]:
        answer = Answer(status, body, None, retry_after)
        monkeypatch.setattr(transport, "post_json", lambda *_: answer)
        return Queries(URL, KEYS, Clock()).send("query { x }", authorization=True)

    return ask


def gone_wrong(message: object) -> dict[str, Any]:
    return {"data": None, "errors": [{"message": message, "path": ["x"]}]}


def test_an_answer_with_data_is_handed_on(answered: Ask) -> None:
    assert answered(200, {"data": {"x": 1}}) == {"data": {"x": 1}}
    assert answered(200, {"data": {"x": 1}, "errors": []}) == {"data": {"x": 1}, "errors": []}


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Your session is invalid or has expired.", CredentialsError),
        ("You are not authorized to do this", CredentialsError),
        ("Token lacks the scope upload_submission", CredentialsError),
        ("Round is not open for submissions", ClosedError),
        ("Internal server error", TransientError),
        ("Rate limit exceeded", TransientError),
        ("request timed out", TransientError),
        ("invalid_submission_ids: not enough stocks submitted", RefusedError),
        ("", RefusedError),
        (None, RefusedError),
    ],
)
def test_what_the_tournament_says_becomes_the_error_it_means(
    answered: Ask, message: str | None, kind: type[EraflowError]
) -> None:
    with pytest.raises(EraflowError) as caught:
        answered(200, gone_wrong(message))
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "errors", ["text", {"detail": "text"}, [{"detail": "text"}], ["text"], [["text"]], [None], 5, [{}]]
)
def test_errors_of_any_shape_are_an_error(answered: Ask, errors: object) -> None:
    with pytest.raises(RefusedError, match="the tournament says: "):
        answered(200, {"errors": errors})


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 425, 429])
@pytest.mark.parametrize("body", [None, {}, gone_wrong("Something odd"), gone_wrong("Your session is invalid"), []])
def test_a_passing_status_is_never_a_refusal_whatever_its_body_says(answered: Ask, status: int, body: object) -> None:
    """A submission answered with 500 may have been accepted; a refusal would say that it certainly was not."""
    with pytest.raises(TransientError, match=f"the tournament's API answered {status}; try again later"):
        answered(status, body)


def test_the_wait_that_the_api_asks_for_is_handed_on(answered: Ask) -> None:
    with pytest.raises(TransientError) as caught:
        answered(429, None, "7")
    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("status", "kind"), [(401, CredentialsError), (403, CredentialsError), (400, RefusedError), (404, RefusedError)]
)
def test_a_status_that_stays_is_told_apart(answered: Ask, status: int, kind: type[EraflowError]) -> None:
    with pytest.raises(EraflowError) as caught:
        answered(status, None)
    assert type(caught.value) is kind


@pytest.mark.parametrize("body", [None, [], "text", 5, {}, {"data": None}, {"data": []}, {"data": "x"}])
def test_an_answer_without_data_is_a_passing_fault(answered: Ask, body: object) -> None:
    with pytest.raises(TransientError, match="answered with something that is not its JSON"):
        answered(200, body)


def test_keys_in_the_tournaments_own_words_are_not_repeated(answered: Ask) -> None:
    with pytest.raises(EraflowError) as caught:
        answered(200, gone_wrong(f"Token {KEYS.public_id}${KEYS.secret_key} at https://x/?key=1 is unknown"))
    assert caught.value.message == "the tournament says: Token ***$*** at (address) is unknown"


@pytest.mark.parametrize(("authorization", "sent"), [(True, "Token PUBLIC-ID-1$SECRET-KEY-2"), (False, None)])
def test_keys_are_sent_only_where_they_are_needed(
    monkeypatch: pytest.MonkeyPatch, authorization: bool, sent: str | None
) -> None:
    seen: list[dict[str, str]] = []

    def post(url: str, body: dict[str, Any], headers: dict[str, str], leaves_within_s: float | None) -> Answer:
        seen.append(headers)
        return Answer(200, {"data": {}}, None, None)

    monkeypatch.setattr(transport, "post_json", post)
    Queries(URL, KEYS, Clock()).send("query { x }", authorization=authorization)
    assert seen[0].get("Authorization") == sent


def test_without_keys_nothing_that_needs_them_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "post_json", lambda *_: pytest.fail("it was sent"))
    with pytest.raises(CredentialsError, match="set NUMERAI_PUBLIC_ID and NUMERAI_SECRET_KEY") as caught:
        Queries(URL, None, Clock()).send("query { x }", authorization=True)
    assert caught.value.code == "no-keys"


def test_without_keys_it_is_said_where_they_are_made_and_kept_and_what_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERAFLOW_HOME", str(tmp_path))
    with pytest.raises(CredentialsError) as caught:
        Queries(URL, None, Clock()).require_keys()
    assert caught.value.message == (
        "this needs the account's keys; make them at numer.ai, and set NUMERAI_PUBLIC_ID and NUMERAI_SECRET_KEY or"
        f" write both into {tmp_path}/eraflow.env (chmod 600); `eraflow rehearse` needs none"
    )


def test_even_a_refusal_sets_the_clock_right(monkeypatch: pytest.MonkeyPatch) -> None:
    noon = datetime(2026, 8, 22, 12, tzinfo=UTC)
    clock = Clock(system=lambda: noon)
    monkeypatch.setattr(transport, "post_json", lambda *_: Answer(400, None, noon + timedelta(hours=1), None))
    with pytest.raises(RefusedError):
        Queries(URL, KEYS, clock).send("query { x }")
    assert clock.now_utc() == noon + timedelta(hours=1)


@pytest.mark.parametrize("secret", ["", " ", "a b", "a\n", "é", "a\0", "a\x7f"])
def test_a_key_that_could_break_a_header_is_refused_without_repeating_it(secret: str) -> None:
    with pytest.raises(CredentialsError) as caught:
        Keys("fine", secret)
    assert caught.value.message == "NUMERAI_SECRET_KEY must be printable characters without spaces, however it is not"


def test_keys_are_never_shown() -> None:
    assert repr(KEYS) == str(KEYS) == "Keys()"


def test_making_the_client_leaves_logging_as_it_was() -> None:
    before = (list(logging.getLogger().handlers), logging.getLogger().level)
    queries = Queries(URL, KEYS, Clock())
    assert queries.client() is queries.client()
    assert (list(logging.getLogger().handlers), logging.getLogger().level) == before
