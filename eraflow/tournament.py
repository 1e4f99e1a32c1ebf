"""The only door to the network: what eraflow asks of the tournament and sends to it.

The queries are those of `numerapi`; how they travel is ours (`client`, `transport`): its transport resumes downloads
of other rounds, never checks uploads, re-sends submissions and turns failures into empty answers. Read `Tournament`
from top to bottom: the round, the slots, files in, predictions out, read-back, scores. It never stakes.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from eraflow import transport
from eraflow.client import TOURNAMENT, Keys, Queries
from eraflow.entries import (
    Listed,
    PayoutTerms,
    ScoreEntry,
    Slot,
    data_versions,
    read_listed,
    read_payout,
    read_round,
    read_score,
)
from eraflow.errors import (
    ClosedError,
    CredentialsError,
    EraflowError,
    InputError,
    RefusedError,
    TransientError,
    UnknownOutcomeError,
)
from eraflow.progress import Progress, silent
from eraflow.rounds import Clock, Round
from eraflow.transport import Downloaded, Freshness, NotSentError
from eraflow.untold import without_secrets

__all__ = ["API_URL", "Keys", "Listed", "ScoreEntry", "Slot", "Tournament"]

logger = logging.getLogger("eraflow")

T = TypeVar("T")

API_URL = "https://api-tournament.numer.ai"
# Waits between the tries of one query or transfer [s]; with the time-outs they span a few minutes at most.
RETRY_WAITS_S = (0.5, 2.0, 5.0, 10.0)
LONGEST_WAIT_S = 60.0

_DATASET = """query ($filename: String! $round: Int $tournament: Int) {
    dataset(filename: $filename round: $round tournament: $tournament) }"""
_HOSTED = "query { account { models { id computePickleUpload { id } } } }"
_CREATE = """mutation($filename: String! $tournament: Int! $modelId: String $triggerId: String, $dataDatestamp: Int) {
    create_submission(filename: $filename tournament: $tournament modelId: $modelId triggerId: $triggerId
                      source: "numerapi" dataDatestamp: $dataDatestamp) { id } }"""
_JUDGED = "query($modelId: String) { model(modelId: $modelId) { submissions { filename errorInfo } } }"
_DOWNLOAD_AUTH = "query($id: String) { submissionDownloadAuth(id: $id) { filename url } }"
_SCOPES = "query { apiTokenInfo { publicId scopes } }"
_GLANCE = """query($tournament: Int!) {
    rounds(tournament: $tournament number: 0) { number openTime closeStakingTime closeTime } }"""
_FILES = "query($tournament: Int) { listDatasets(tournament: $tournament) }"


class _UploadRefusedError(RefusedError):
    """A PUT that failed, in whatever way; cured by a fresh address or not at all."""

    code = "upload-refused"


class Tournament:
    """The tournament at one address, with or without keys."""

    def __init__(
        self, url: str = API_URL, keys: Keys | None = None, *, clock: Clock | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.url = transport.checked_address(url, "ERAFLOW_API_URL").rstrip("/")
        self.clock = clock or Clock()
        self._queries = Queries(self.url, keys, self.clock)
        self._sleep = sleep

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Tournament:
        """The tournament at `ERAFLOW_API_URL` with `NUMERAI_PUBLIC_ID` and `NUMERAI_SECRET_KEY`.

        Raises `InputError` for an address that is neither https nor loopback, `CredentialsError` for half a key pair.
        """
        public_id, secret_key = environ.get("NUMERAI_PUBLIC_ID", ""), environ.get("NUMERAI_SECRET_KEY", "")
        if bool(public_id) != bool(secret_key):
            raise CredentialsError("NUMERAI_PUBLIC_ID and NUMERAI_SECRET_KEY must both be set, however one is missing")
        keys = Keys(public_id, secret_key) if public_id else None
        return cls(environ.get("ERAFLOW_API_URL") or API_URL, keys)

    def __repr__(self) -> str:
        return f"Tournament({self.url!r})"

    def now_utc(self) -> datetime:
        """The time at the tournament."""
        return self.clock.now_utc()

    def require_keys(self) -> None:
        """Raises `CredentialsError` if there are no keys; asks nobody."""
        self._queries.require_keys()

    # The round and the slots

    def current_round(self) -> Round:
        """The round that is open now. Raises `ClosedError` between rounds."""
        try:
            number = self._ask(_current_number)
        except RefusedError as error:
            if error.code != "tournament-says-no":
                raise
            # The query has no arguments to be wrong; between rounds it is answered with an error of unknown wording.
            raise ClosedError(f"no round is open: {error.message}", code="no-round") from None
        if number is None:
            raise ClosedError(
                "no round is open at the tournament; the next one opens on its timetable", code="no-round"
            )
        found = self._ask(lambda api: [r for r in api.list_rounds(number=number) if r["number"] == number])
        if not found:
            raise TransientError(
                f"the tournament names round {number} as current but does not list it; try again later"
            )
        opened = self._understood(lambda: read_round(found[0]))
        if self.now_utc() < opened.opens_at_utc:
            raise ClosedError(f"round {number} opens at {opened.opens_at_utc:%Y-%m-%d %H:%M} UTC", code="no-round")
        return opened

    def latest_round(self) -> Round:
        """The round that is open or closed last. Raises `ClosedError` if the tournament names none of this week."""
        try:
            return self.current_round()
        except ClosedError as closed:
            rounds = self._ask(lambda api: [read_round(entry) for entry in api.list_rounds(limit=20)])
            now = self.now_utc()
            past = [r for r in rounds if r.opens_at_utc <= now and now - r.closes_at_utc < timedelta(days=7)]
            if not past:
                raise closed
            return max(past, key=lambda r: r.number)

    def payout(self, number: int) -> PayoutTerms:
        """What round `number` pays. Raises `InputError` if the tournament does not list it."""
        found = self._ask(lambda api: [r for r in api.list_rounds(number=number) if r["number"] == number])
        if not found:
            raise InputError(f"round {number} must be one of the tournament's, however it lists none of that number")
        return self._understood(lambda: read_payout(found[0]))

    def slots(self) -> dict[str, Slot]:
        """The account's slots by name. Raises `CredentialsError` if the keys are missing or refused."""
        models = self._ask(lambda api: {str(name): str(known) for name, known in api.get_models(TOURNAMENT).items()})
        hosted: set[str] | None
        try:
            answer = self._ask(lambda api: api.raw_query(_HOSTED, authorization=True)["data"]["account"]["models"])
            hosted = self._understood(lambda: {str(one["id"]) for one in answer if one.get("computePickleUpload")})
        except (RefusedError, CredentialsError, TransientError):
            hosted = None  # not part of what the client asks, so an API without it must not stop a round
        return {
            name: Slot(name=name, model_id=model_id, hosted=None if hosted is None else model_id in hosted)
            for name, model_id in models.items()
        }

    # Files in

    def probe(self, name: str, round_number: int | None = None) -> Freshness | None:
        """Size, ETag and date of the file `name`, by a one-byte ranged GET; None where that can't be answered."""
        with (
            suppress(TransientError, RefusedError),
            transport.get(self._address(name, round_number), f"the file {name}", {"Range": "bytes=0-0"}) as body,
        ):
            total = re.fullmatch(r"bytes 0-0/([0-9]{1,18})", body.content_range or "")
            if body.status == 206 and total:
                return Freshness(size_bytes=int(total[1]), etag=body.etag, last_modified=body.last_modified)
        return None

    def download(self, name: str, to: Path, round_number: int | None = None, progress: Progress = silent) -> Downloaded:
        """Write all bytes of the file `name` to the fresh path `to`; every try starts from its first byte.

        Raises `TransientError` after several tries, `RefusedError` if the tournament has no such file,
        `StorageError` if the disk has no room for it.
        """

        def once() -> Downloaded:
            with transport.get(self._address(name, round_number), f"the file {name}") as body:
                return transport.receive(body, name, to, progress)

        # A signed address expires, so even a refusal may be cured by a fresh one.
        return self._repeated(once, also=RefusedError)

    # Predictions out

    def upload(self, filename: str, data: bytes, model_id: str, before: Callable[[], None]) -> str:
        """PUT the bytes under a fresh address; returns the name that the tournament gave them.

        `before` is called ahead of each PUT and may raise (a closed round). Raises `RefusedError` if the
        upload stays refused after several tries, each with a fresh address.
        """

        def once() -> str:
            granted = self._ask(lambda api: api._upload_auth("submission_upload_auth", filename, TOURNAMENT, model_id))
            url, stored_as = self._understood(lambda: (self._trusted(str(granted["url"])), str(granted["filename"])))
            before()
            try:
                status = transport.put(url, data, "the upload address")
                if status not in (200, 201, 204):
                    raise transport.refusal(status, "the upload address")
            except (TransientError, RefusedError) as error:
                raise _UploadRefusedError(
                    f"the predictions could not be uploaded, nothing was submitted: {error.message}"
                ) from None
            return stored_as

        return self._repeated(once, also=_UploadRefusedError)

    def create(self, stored_as: str, model_id: str, before: Callable[[], float | None]) -> str:
        """Turn uploaded bytes into a submission; returns its id. The API has no idempotency keys, so it arrives once:
        only what certainly never left is tried again.

        `before` is called ahead of each try and may raise; it returns within how many seconds the request must have
        left, or None. Raises `NotSentError` if it cannot have arrived, `RefusedError`, `ClosedError` or
        `CredentialsError` if the tournament said no, `UnknownOutcomeError` in every other case.
        """
        variables = {
            "filename": stored_as, "tournament": TOURNAMENT, "modelId": model_id,
            "triggerId": None, "dataDatestamp": None,
        }  # fmt: skip

        def once() -> str:
            leaves_within_s = before()
            try:
                answer = self._queries.send(_CREATE, variables, True, leaves_within_s)
                if identity := answer["data"]["create_submission"]["id"]:
                    return str(identity)
                detail = "its answer has no id"
            except NotSentError:
                raise
            except TransientError as error:
                detail = error.message
            except (KeyError, TypeError):
                detail = "its answer has no id"
            raise UnknownOutcomeError(f"the submission was sent, but it is not known whether it took effect: {detail}")

        return self._repeated(once)

    # Read-back

    def selected(self, model_id: str, round_number: int) -> list[Listed]:
        """The submission that counts for this slot and round (none, or one; more only if the API misbehaves)."""
        named = self._ask(
            lambda api: [
                str(found["filename"])
                for found in api.get_submission_filenames(TOURNAMENT, round_number, model_id)
                if found["filename"]
            ]
        )
        known = {entry.filename: entry for entry in self.listed(model_id)} if named else {}
        # One that is not (yet) in the list of all submissions counts all the same.
        return [known.get(name) or Listed(filename=name, id=None, inserted_at_utc=None) for name in named]

    def listed(self, model_id: str) -> list[Listed]:
        """Every submission of the slot, of any round, newest first."""
        entries = self._ask(lambda api: [read_listed(entry) for entry in api.submission_ids(model_id)])
        oldest = datetime.min.replace(tzinfo=UTC)
        return sorted(entries, key=lambda entry: entry.inserted_at_utc or oldest, reverse=True)

    def submitted_bytes(self, submission_id: str) -> bytes:
        """The bytes of a submission, downloaded again.

        Raises `CredentialsError` or `RefusedError` for keys that may not.
        """

        def once() -> bytes:
            answer = self._ask(lambda api: api.raw_query(_DOWNLOAD_AUTH, {"id": submission_id}, authorization=True))
            url = self._understood(lambda: str(answer["data"]["submissionDownloadAuth"]["url"]))
            with transport.get(self._trusted(url), "the submission", limit_s=transport.ANSWER_LIMIT_S) as body:
                if body.status != 200:
                    raise transport.refusal(body.status, "the submission")
                data = transport.gathered(body.chunks(), "the submission that came back")
                if body.length_bytes not in (None, len(data)):
                    raise TransientError("the submission that came back is cut short; try again later")
                return data

        return self._repeated(once)

    def complaint(self, model_id: str, stored_as: str) -> str | None:
        """What the tournament's validator found wrong with a submission, or None; None also where it won't tell."""
        with suppress(CredentialsError, RefusedError, TransientError):
            answer = self._ask(lambda api: api.raw_query(_JUDGED, {"modelId": model_id}, authorization=True))
            found = self._understood(
                lambda: [
                    entry.get("errorInfo")
                    for entry in answer["data"]["model"]["submissions"]
                    if entry.get("filename") == stored_as
                ]
            )
            return without_secrets(str(found[0])) if found and found[0] else None
        return None

    # Scores, keys and data versions

    def scores(self, model_id: str, last_rounds: int = 30, name: str | None = None) -> list[ScoreEntry]:
        """What the slot's submissions to the last rounds scored, day by day; only the score called `name` if given."""
        return self._ask(
            lambda api: [
                read_score(entry)
                for entry in api.submission_scores(model_id, display_name=name, last_n_rounds=last_rounds) or []
            ]
        )

    def scopes(self) -> tuple[str, ...]:
        """What the key may do, as `upload_submission`. Raises `CredentialsError` if it is missing or refused."""
        return self._ask(
            lambda api: tuple(map(str, api.raw_query(_SCOPES, authorization=True)["data"]["apiTokenInfo"]["scopes"]))
        )

    def data_versions(self) -> tuple[str, ...]:
        """The data versions that the tournament lists, as `v5.3`, the newest last."""
        return self._ask(lambda api: data_versions(map(str, api.list_datasets())))

    # At a glance

    def glance(self) -> Round | None:
        """The round that is current, or None between rounds: one query, sent once, without the client.

        Raises `TransientError` or `RefusedError` if that is not answered.
        """
        try:
            answer = self._queries.send(_GLANCE, {"tournament": TOURNAMENT})
        except ClosedError:
            return None
        except RefusedError as error:
            if error.code != "tournament-says-no":
                raise
            return None  # the query has no argument to be wrong, see `current_round`
        found = self._understood(lambda: [read_round(entry) for entry in answer["data"]["rounds"] if entry])
        return found[0] if found else None

    def glance_at_versions(self) -> tuple[str, ...]:
        """`data_versions`, asked once and raised like `glance`."""
        answer = self._queries.send(_FILES, {"tournament": TOURNAMENT})
        return self._understood(lambda: data_versions(map(str, answer["data"]["listDatasets"])))

    # How it is asked

    def _ask(self, query: Callable[[Any], T]) -> T:
        """Run one of the client's queries, again after a passing fault."""
        return self._repeated(lambda: self._understood(lambda: query(self._queries.client())))

    def _understood(self, read: Callable[[], T]) -> T:
        """What `read` makes of an answer; an answer of another shape than documented is a passing fault."""
        try:
            return read()
        except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError):
            raise TransientError(
                "the tournament's answer is not of the documented shape", code="tournament-answer"
            ) from None

    def _repeated(
        self,
        once: Callable[[], T],
        *,
        also: type[EraflowError] | tuple[()] = (),
    ) -> T:
        for tried, wait_s in enumerate((*RETRY_WAITS_S, None), 1):
            try:
                return once()
            except EraflowError as error:
                passing = error if isinstance(error, TransientError) else None
                again = not passing.given_up if passing else isinstance(error, also)
                if wait_s is None or not again:
                    if passing:
                        # What an inner query has tried long enough is not tried as often again by an outer one:
                        # that would take a quarter of an hour where the API hangs.
                        passing.given_up = True
                    raise
                pause_s = min(max(wait_s, (passing and passing.retry_after_s) or 0.0), LONGEST_WAIT_S)
                logger.info("try %d of %d in %g s: %s", tried + 1, len(RETRY_WAITS_S) + 1, pause_s, error.message)
                self._sleep(pause_s)
        raise AssertionError("unreachable")

    def _address(self, name: str, round_number: int | None) -> str:
        variables = {"filename": name, "round": round_number, "tournament": TOURNAMENT}
        url = self._ask(lambda api: str(api.raw_query(_DATASET, variables)["data"]["dataset"]))
        return self._trusted(url)

    def _trusted(self, url: str) -> str:
        """A signed address may be plain http only where the tournament itself is on this machine."""
        if self.url.startswith("https:") and not url.startswith("https:"):
            raise RefusedError("the tournament gave an address that is not https; nothing was read from or sent to it")
        try:
            return transport.checked_address(url, "an address from the tournament")
        except InputError as error:
            raise RefusedError(error.message) from None


def _current_number(api: Any) -> int | None:
    try:
        number = api.get_current_round()
    except IndexError:  # `rounds: []`
        return None
    return None if number is None else int(number)
