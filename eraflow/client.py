"""The real `numerapi` client with our own transport beneath it. Only `tournament` uses this.

The client builds the queries and reads the answers; `Queries` sends them once, with time-outs, and tells apart what
the client's own transport turns into an empty answer: passing faults, refusals, closed rounds and refused keys.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eraflow import transport
from eraflow.environment import ENVIRONMENT_FILE
from eraflow.errors import ClosedError, CredentialsError, EraflowError, RefusedError, TransientError
from eraflow.rounds import Clock
from eraflow.store import default_home
from eraflow.untold import without_secrets

TOURNAMENT = 8


@dataclass(frozen=True)
class Keys:
    """The account's key pair. Never printed: its `repr` says only that there is one."""

    public_id: str = field(repr=False)
    secret_key: str = field(repr=False)

    def __post_init__(self) -> None:
        for name, value in (("NUMERAI_PUBLIC_ID", self.public_id), ("NUMERAI_SECRET_KEY", self.secret_key)):
            if not re.fullmatch(r"[!-~]+", value):
                raise CredentialsError(f"{name} must be printable characters without spaces, however it is not")


class Queries:
    """Sends one query at a time to the API at `url` and judges the answer."""

    def __init__(self, url: str, keys: Keys | None, clock: Clock) -> None:
        self._url, self._keys, self._clock = url, keys, clock
        self._api: Any = None

    def client(self) -> Any:
        """The client, made at the first use because importing it takes half a second."""
        if self._api is None:
            self._api = _client_over(self)
        return self._api

    def require_keys(self) -> Keys:
        """The keys. Raises `CredentialsError` if there are none."""
        if self._keys is None:
            raise CredentialsError(
                "this needs the account's keys; make them at numer.ai, and set NUMERAI_PUBLIC_ID and"
                f" NUMERAI_SECRET_KEY or write both into {default_home(os.environ) / ENVIRONMENT_FILE} (chmod 600);"
                " `eraflow rehearse` needs none",
                code="no-keys",
            )
        return self._keys

    def send(
        self,
        query: str,
        variables: Mapping[str, Any] | None = None,
        authorization: bool = False,
        leaves_within_s: float | None = None,
    ) -> dict[str, Any]:
        """The answer `{"data": {...}}` to one query, sent once, or not at all once `leaves_within_s` [s] have passed.

        Raises `TransientError` (`NotSentError` if it never left), `ClosedError`, `CredentialsError` or `RefusedError`.
        """
        headers = {"Accept": "application/json"}
        if authorization:
            keys = self.require_keys()
            headers["Authorization"] = f"Token {keys.public_id}${keys.secret_key}"
        body = {"query": query, "variables": variables}
        answer = transport.post_json(self._url, body, headers, leaves_within_s)
        if answer.date_utc is not None:
            self._clock.heard(answer.date_utc)
        return self._judged(answer)

    def _judged(self, answer: transport.Answer) -> dict[str, Any]:
        body = answer.body if isinstance(answer.body, dict) else {}
        # Whatever the body says: such a query may have taken effect, so it is never a plain refusal.
        if answer.status >= 500 or answer.status in (408, 425, 429):
            raise transport.refusal(answer.status, "the tournament's API", answer.retry_after)
        if errors := body.get("errors"):
            raise self._graphql_error(errors)
        if answer.status in (401, 403):
            raise CredentialsError(
                f"the tournament's API answered {answer.status}: the keys may not do this; check NUMERAI_PUBLIC_ID,"
                " NUMERAI_SECRET_KEY and the scopes of the key"
            )
        if answer.status != 200:
            raise transport.refusal(answer.status, "the tournament's API", answer.retry_after)
        if not isinstance(body.get("data"), dict):
            raise TransientError("the tournament's API answered with something that is not its JSON; try again later")
        return body

    def _graphql_error(self, errors: Any) -> EraflowError:
        first = errors[0] if isinstance(errors, list) and errors else errors
        message = first.get("message") or first.get("detail") if isinstance(first, dict) else first
        secrets = (self._keys.public_id, self._keys.secret_key) if self._keys else ()
        text = without_secrets(str(message), secrets)
        if re.search(
            r"session is invalid|expired|unauthori[sz]ed|not authori[sz]ed|scope|permission|logged in", text, re.I
        ):
            return CredentialsError(
                f"the tournament does not accept the keys for this: {text}; check NUMERAI_PUBLIC_ID,"
                " NUMERAI_SECRET_KEY and the scopes of the key"
            )
        if re.search(r"not open for submissions", text, re.I):
            return ClosedError(f"the tournament says: {text}", code="no-round")
        if re.search(r"internal|timed? ?-?out|temporar|unavailable|try again|too many requests|rate limit", text, re.I):
            return TransientError(f"the tournament says: {text}; try again later")
        return RefusedError(f"the tournament says: {text}", code="tournament-says-no")


def _client_over(queries: Queries) -> Any:
    import numerapi

    class Client(numerapi.NumerAPI):
        """Builds queries and reads answers as always; sends nothing itself."""

        def __init__(self) -> None:
            # The original sets up the root logger and reads .env files, so it is not called.
            self.logger = logging.getLogger("numerapi")
            self.tournament_id = TOURNAMENT
            self.show_progress_bars = False

        def raw_query(
            self, query: str, variables: dict[str, Any] | None = None, authorization: bool = False, **_: Any
        ) -> dict[str, Any]:
            return queries.send(query, variables, authorization)

    return Client()
