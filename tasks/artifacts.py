"""What the dashboard shows of a round: one artifact for each question a user has, with a key that stays.

    week              is this week safe?
    data              what the files hold, and what changed
    model-<recipe>    how good the model is, against the last one
    checks            what the predictions were judged by
    scores            how past rounds scored
    study             which of a study's recipes is better

What each says stands in `eraflow.dashboard`, and of a study in `eraflow.study.answer`. Whatever fails here is logged
and costs nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import httpx
from prefect.artifacts import Artifact, create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import Artifact as ArtifactResponse
from prefect.context import SyncClientContext
from prefect.settings import (
    PREFECT_API_REQUEST_TIMEOUT,
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from eraflow import dashboard
from eraflow.dashboard import Answer
from eraflow.files import Files
from eraflow.known import receipts_of
from eraflow.request import Request
from eraflow.result import ModelReport, RoundResult
from eraflow.rounds import Round
from eraflow.store import Store
from eraflow.verdict import verdict
from tasks.health import answers

if TYPE_CHECKING:
    from eraflow.study.run import Found

logger = logging.getLogger("eraflow")

T = TypeVar("T")

# For one request of a call [s], and how often it is tried again.
LIMIT_S, RETRIES = 5.0, 1


def show(what: str, call: Callable[[], T]) -> T | None:
    """Let `call` tell the dashboard something; None if it could not, for a record may never cost a submission."""
    try:
        # A server that has gone would hold up a call for many seconds.
        if not answers(PREFECT_API_URL.value() or ""):
            raise ConnectionError("its server does not answer")
        with _hurried():
            return call()
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        logger.warning("the dashboard could not be given the %s (%s: %s)", what, type(error).__name__, reason)
        return None


@contextmanager
def _hurried() -> Iterator[None]:
    """By default a server that says it is well, and whose database hangs, would hold up each call for six minutes."""
    with ExitStack() as stack:
        limits = {PREFECT_API_REQUEST_TIMEOUT: LIMIT_S, PREFECT_CLIENT_MAX_RETRIES: RETRIES}
        stack.enter_context(temporary_settings(limits))
        if of_run := SyncClientContext.get():  # keeps the patience with which it was made
            client: httpx.Client = of_run.client._client
            stack.callback(setattr, client, "timeout", client.timeout)
            client.timeout = httpx.Timeout(LIMIT_S)
        yield


def week_begins(request: Request, opened: Round) -> None:
    """Key `week`, while the run is at work; what a run before has made safe stays as that one said it."""
    if request.submit and request.config.slots:
        _put("week", lambda: dashboard.week_begins(opened, receipts_of(request, opened)))


def week_ends(request: Request, result: RoundResult) -> None:
    """Key `week`, when the run is over, unless it knows less than those before, or nothing new.

    Most attempts find everything done; a picture from each would cost half a second, and most of the database.
    """

    def find() -> Answer | None:
        if dashboard.is_repetition(result) and _newest_sentence("week") == verdict(result).sentence:
            return None
        return dashboard.week_ends(request, result, datetime.now(UTC))

    _put("week", find)


def data(request: Request, files: Files) -> None:
    """Key `data`: what the files hold, and what changed."""
    _put("data", lambda: dashboard.data(files, Store.open(request.home)))


def model(report: ModelReport) -> None:
    """Key `model-<recipe>`: how good the model is."""
    _put(f"model {report.recipe}", lambda: dashboard.model(report))


def scores(sentence: str, markdown_table: str, png: bytes | None) -> None:
    """Key `scores`: how past rounds scored."""
    _put("scores", lambda: dashboard.scores(sentence, markdown_table, png))


def study(find: Callable[[], Found]) -> None:
    """Key `study`: which of a study's recipes is better; what it came to is found only where somebody can see it."""
    from eraflow.study.answer import study_answer  # what a study needs, a round does not

    _put("study", lambda: study_answer(find()))


def checks(result: RoundResult) -> None:
    """Key `checks`: what the predictions were judged by, for every slot that sent some now."""
    judged = [(receipt.slot, check) for receipt in result.receipts for check in receipt.checks]
    if not judged:
        return
    rows = [
        {"slot": slot, "check": c.name, "must be": c.must, "found": c.found, "passed": c.passed} for slot, c in judged
    ]
    passed = f"{sum(c.passed for _, c in judged)} of {len(judged)} checks passed, round {result.round}"
    show("artifact checks", lambda: create_table_artifact(table=rows, key="checks", description=passed))


def _newest_sentence(key: str) -> str | None:
    found = Artifact.get(key)
    return found.description if isinstance(found, ArtifactResponse) else None


def _put(what: str, find: Callable[[], Answer | None]) -> None:
    """Show the answer that `find` comes to, if it comes to one."""

    def put() -> None:
        if found := find():
            create_markdown_artifact(markdown=found.markdown, key=found.key, description=found.sentence)

    show(f"artifact {what}", put)
