"""Whole rounds that fail in every way that could make a program talk, and then a search of every byte that was written.

Everything speaks up: each logger of the process, those of urllib3 and numerapi too, writes to a file that is searched.
What the command and Prefect write is searched by `test_command` and `tests/flows/test_round_flows`, in the same way.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from eraflow.rehearsal import Fault
from eraflow.rehearsal.core import Core
from eraflow.result import RoundResult, json_object, summary_text
from eraflow.watch import watch
from eraflow.weekly import plain_steps
from eraflow.weekly_config import AlarmConfig
from tests.behaviour.week import Week, tree

ECHO = "Bearer <secret_key> of <public_id> may not, see https://storage.invalid/x?signature=0123456789abcdef0123"
NO_TLS = "https://nowhere.invalid"
ERRORS = f'{{"errors": [{{"message": "{ECHO}"}}]}}'
ROUNDS: dict[str, tuple[Fault, ...]] = {
    "refused keys": (Fault(where="query:account", what="status", code=401, body=ECHO, times=None),),
    "an error that repeats what was sent": (
        Fault(where="query:account", what="status", code=200, times=None, body=ERRORS),
    ),
    "pages of HTML": (
        Fault(where="get:live.parquet", what="html-200", times=None), Fault(where="query:rounds", what="html-200"),
    ),
    "redirects of downloads": (Fault(where="get:*", what="redirect", times=None),),
    "redirects of uploads": (Fault(where="put", what="redirect", times=None),),
    "lost answers": (
        Fault(where="query:createSubmission", what="lost-answer"), Fault(where="put", what="lost-answer"),
        Fault(where="get:submission", what="reset-before", times=None),
    ),
    "refused uploads": (Fault(where="put", what="status", code=403, body=ECHO, times=None),),
    "files cut short": (Fault(where="get:*", what="truncate", n=100, times=None),),
    "addresses where nobody knows TLS": (Fault(where="query:dataset", what="address", to=NO_TLS, times=None),),
}  # fmt: skip


@pytest.fixture
def signatures(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The signature of every address that the tournament hands out."""
    made: list[str] = []
    sign = Core._signature

    def noted(self: Core, method: str, path: str, expires: int) -> str:
        made.append(sign(self, method, path, expires))
        return made[-1]

    monkeypatch.setattr(Core, "_signature", noted)
    return made


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """A file with everything that any logger of this process says."""
    path = tmp_path / "debug.log"
    root, handler = logging.getLogger(), logging.FileHandler(path)
    loggers = [root, *(logging.getLogger(name) for name in ("eraflow", "numerapi", "urllib3", "requests"))]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield path
    root.removeHandler(handler)
    handler.close()
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@dataclasses.dataclass
class Search:
    """What must be found nowhere, and all places where it could be."""

    week: Week
    signatures: list[str]
    log: Path
    told: list[str] = dataclasses.field(default_factory=list)

    def add(self, result: RoundResult) -> None:
        """What a run came to, in every form in which it is shown."""
        self.told += [repr(result), json.dumps(json_object(result)), summary_text(result)]

    def found(self, printed: str) -> list[str]:
        """Which secret is where, in words."""
        local = self.week.local
        secrets = {"the secret key": local.secret_key, "the public id": local.public_id}
        secrets |= {f"signature {i}": one for i, one in enumerate(self.signatures)}
        forms = {name: {one.encode() for one in (text, quote(text), text[:24])} for name, text in secrets.items()}
        places = {str(path): path.read_bytes() for path in (self.log, *self.week.home.rglob("*")) if path.is_file()}
        places |= {"what was printed": printed.encode(), "what came of it": "\n".join(self.told).encode()}
        return [
            f"{name} is in {place}"
            for place, data in places.items()
            for name, written in forms.items()
            if any(form in data for form in written)
        ]


@pytest.fixture
def search(week: Week, signatures: list[str], log: Path) -> Search:
    return Search(week, signatures, log)


def faults_of(name: str, week: Week) -> list[Fault]:
    """The faults, with the keys that are repeated and an address of TLS at which no TLS is spoken."""
    local, made = week.local, []
    for fault in ROUNDS[name]:
        body = fault.body.replace("<secret_key>", local.secret_key).replace("<public_id>", local.public_id)
        to = local.url.replace("http:", "https:") if fault.to == NO_TLS else fault.to
        made.append(dataclasses.replace(fault, body=body, to=to))
    return made


@pytest.mark.parametrize("name", ROUNDS)
def test_a_round_that_fails_leaves_no_secret_in_any_byte(
    name: str, week: Week, search: Search, capfd: pytest.CaptureFixture[str]
) -> None:
    week.local.faults.add(*faults_of(name, week))
    search.add(week.play())
    struck = list(week.local.faults.struck)
    week.local.faults.clear()
    search.add(week.play(steps=plain_steps()))
    assert struck, "nothing went wrong"
    assert search.signatures, "no address was handed out"
    assert search.log.stat().st_size > 1000
    assert (week.home / "ledger.sqlite").is_file()
    assert search.found("".join(capfd.readouterr())) == []


def test_the_search_finds_what_is_there(week: Week, search: Search, capfd: pytest.CaptureFixture[str]) -> None:
    search.add(week.play(steps=plain_steps()))
    assert search.found("".join(capfd.readouterr())) == []
    (week.home / "rounds" / "leak").write_text(f"x{search.signatures[-1]}x")
    logging.getLogger("anybody").debug("the key is %s", week.local.secret_key)
    found = {one.partition(" is in ")[0] for one in search.found(week.local.public_id)}
    assert {"the secret key", "the public id"} < found
    assert any(one.startswith("signature") for one in found)


# Names


def test_no_name_of_the_tournaments_becomes_a_path(week: Week, tmp_path: Path) -> None:
    evil = "../../../escaped"
    week.local.add_slot(evil)
    before = tree(tmp_path) - tree_below(tmp_path, week.home)
    result = week.play(week.request(slots=[evil]), steps=plain_steps())
    assert [(one.slot, one.status) for one in result.receipts] == [(evil, "submitted")]
    outside = tree(tmp_path) - tree_below(tmp_path, week.home)
    assert not [name for name in tree(tmp_path) if "escaped" in name]
    assert {name for name in outside - before if not name.startswith("tournament/")} == set()


def tree_below(folder: Path, inner: Path) -> set[str]:
    return {f"{inner.relative_to(folder)}/{name}" for name in tree(inner)}


@pytest.mark.parametrize("step", ["prepare", "train", "submit_slot"])
def test_an_error_of_anybodys_inside_a_step_is_told_without_the_keys(
    step: str, week: Week, search: Search, capfd: pytest.CaptureFixture[str]
) -> None:
    """A library's error may hold whatever it was given; its own text is in the traceback that --debug logs, alone."""

    def raises(*_: object, **__: object) -> None:
        local = week.local
        raise RuntimeError(f"Authorization: Token {local.public_id}${local.secret_key} {local.url}/x?signature=0123")

    changes: dict[str, Any] = {step: raises}
    broken = dataclasses.replace(plain_steps(), **changes)
    search.add(week.play(steps=broken))
    assert "RuntimeError" in search.told[0]
    assert search.found("".join(capfd.readouterr())) == []


def test_an_unexpected_error_of_the_watch_tells_no_secret(
    week: Week, search: Search, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    local = week.local

    def raises(_: object) -> None:
        raise RuntimeError(f"Authorization: Token {local.public_id}${local.secret_key} {local.url}/x?signature=0123")

    monkeypatch.setattr("eraflow.watch.ask", raises)
    watched = watch(week.request(), AlarmConfig(), os.environ)
    assert "unexpected RuntimeError: Authorization: Token ***$*** (address)" in watched.sentence
    search.told.append(repr(watched))
    assert search.found("".join(capfd.readouterr())) == []
