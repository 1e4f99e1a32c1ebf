"""Everything that can go wrong with a round, as contexts: inside one, it does.

Read `Trouble` and `TROUBLES`. A trouble is drawn with a generator of random numbers that its caller seeds, so that the
same seed draws the same one. What it does to the tournament or to the files is undone on leaving; what it does to the
process of the run is the `Harm` that it yields.
"""

from __future__ import annotations

import errno
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from eraflow.rehearsal import Fault, LocalTournament
from eraflow.store import PARTIAL
from tests.behaviour.harmed import Harm
from tests.behaviour.spoiled import SPOILED, spoil

FILES = ("live.parquet", "features.json", "train.parquet", "validation.parquet")
QUERIES = ("rounds", "account", "model", "dataset", "submissionUploadAuth", "createSubmission", "submissions",
           "submissionDownloadAuth")  # fmt: skip
HANDS_OUT = ("dataset", "submissionUploadAuth", "submissionDownloadAuth")
NOWHERE = {
    "refused": "http://127.0.0.1:9",
    "no such host": "https://nowhere.invalid",
    "another host": "http://192.0.2.1",
}


@dataclass(frozen=True, kw_only=True)
class World:
    """What a trouble may touch."""

    local: LocalTournament
    home: Path
    untrusted: str
    """Address of a server whose TLS certificate nobody has signed."""
    duration_s: float
    """Of a round without trouble [s]."""
    points: int
    """Of a round without trouble (`crash_points`)."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """One of them, with what is drawn at random in it."""

    door: str
    """network, tournament, data, disk or process."""
    name: str
    begin: Callable[[World, random.Random], AbstractContextManager[Harm]]
    ends_round: bool = False
    """The round cannot be saved any more, unless it was before."""
    other_ids: bool = False
    """Only the tournament's validator can tell, and what it refuses has no effect."""
    other_bytes: bool = False
    """The round may be saved with other predictions than a round without trouble."""


def _where(draw: random.Random) -> str:
    kind = draw.choice(("query", "get", "put"))
    if kind == "put":
        return "put"
    return f"query:{draw.choice(QUERIES)}" if kind == "query" else f"get:{draw.choice((*FILES, 'submission'))}"


def _of_answers(draw: random.Random) -> str:
    return draw.choice([f"query:{name}" for name in QUERIES] + [f"get:{name}" for name in (*FILES, "submission")])


def _fault(what: str, where: Callable[[random.Random], str] = _where, **given: object) -> Callable[..., object]:
    """Faults of one kind; `n` and `times` may be functions of the draw."""

    @contextmanager
    def begin(world: World, draw: random.Random) -> Iterator[Harm]:
        told = {name: value(draw) if callable(value) else value for name, value in given.items()}
        times = draw.choice((1, 1, 2, 6, None))
        fault = Fault(where=where(draw), what=what, times=times, after=draw.choice((0, 0, 1, 2)), **told)  # type: ignore[arg-type]
        world.local.faults.add(fault)
        try:
            yield Harm(name=str(fault))
        finally:
            world.local.faults.clear()

    return begin


@contextmanager
def _address(world: World, draw: random.Random) -> Iterator[Harm]:
    to = draw.choice([*NOWHERE.values(), world.untrusted])
    world.local.faults.add(
        Fault(where=f"query:{draw.choice(HANDS_OUT)}", what="address", to=to, times=draw.choice((1, None)))
    )
    try:
        yield Harm(name=to)
    finally:
        world.local.faults.clear()


@contextmanager
def _closed(world: World, draw: random.Random) -> Iterator[Harm]:
    world.local.close_round()
    if draw.random() < 0.5:
        world.local.move_clock(2 * 3600)  # between rounds
    yield Harm()


@contextmanager
def _earlier(world: World, draw: random.Random) -> Iterator[Harm]:
    latest = world.local._core.latest()
    left_s = (latest.closes_at_utc - world.local.now_utc()).total_seconds()
    world.local.move_deadline(left_s - draw.uniform(60.0, 600.0))
    yield Harm()


@contextmanager
def _without_slot(world: World, draw: random.Random) -> Iterator[Harm]:
    name = draw.choice(("rehearsal_one", "rehearsal_two"))
    world.local.remove_slot(name)
    try:
        yield Harm(name=name)
    finally:
        world.local.add_slot(name)


@contextmanager
def _without_version(world: World, draw: random.Random) -> Iterator[Harm]:
    world.local.withdraw_data_version("v5.3")
    try:
        yield Harm()
    finally:
        world.local.return_data_version("v5.3")


def _spoiled(how: str) -> Callable[[World, random.Random], AbstractContextManager[Harm]]:
    @contextmanager
    def begin(world: World, draw: random.Random) -> Iterator[Harm]:
        name = f"v5.3/{draw.choice(SPOILED[how].files)}"
        bad = world.home.parent / f"bad-{Path(name).name}"
        served = world.local._core.data_file(name, world.local._core.latest())
        spoil(how, served, bad, draw)
        world.local.set_file(name, bad)
        try:
            yield Harm(name=name)
        finally:
            world.local.set_file(name, None)

    return begin


def _disk(error: int) -> Callable[[World, random.Random], AbstractContextManager[Harm]]:
    @contextmanager
    def begin(world: World, draw: random.Random) -> Iterator[Harm]:
        yield Harm(name=errno.errorcode[error], disk_error=error, from_write=draw.randrange(150))

    return begin


@contextmanager
def _full(world: World, draw: random.Random) -> Iterator[Harm]:
    yield Harm(name="full at byte n", largest_file_bytes=int(10 ** draw.uniform(1, 5)))


@contextmanager
def _slow_disk(world: World, draw: random.Random) -> Iterator[Harm]:
    yield Harm(name="slow disk", write_s=draw.uniform(0.001, 0.01))


@contextmanager
def _damaged(world: World, draw: random.Random) -> Iterator[Harm]:
    """A file of the home is removed, cut, or has a bit flipped; the ledger may be cut or go."""
    files = sorted(path for path in world.home.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    path = draw.choice(files) if files else None
    how = draw.choice(("removed", "cut", "flipped"))
    if path is not None:
        data = bytearray(path.read_bytes())
        if how == "removed" or not data:
            path.unlink()
        elif how == "cut":
            path.write_bytes(data[: draw.randrange(len(data))])
        else:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            path.write_bytes(data)
    yield Harm(name=f"{how}: {path.name if path and PARTIAL not in path.name else 'a partial file'}")


@contextmanager
def _killed(world: World, draw: random.Random) -> Iterator[Harm]:
    yield Harm(signal=signal.SIGKILL, after_s=draw.uniform(0.0, 1.0) * world.duration_s)


@contextmanager
def _killed_at_a_point(world: World, draw: random.Random) -> Iterator[Harm]:
    yield Harm(stop_before=draw.randrange(world.points))


@contextmanager
def _ended(world: World, draw: random.Random) -> Iterator[Harm]:
    yield Harm(signal=signal.SIGTERM, after_s=draw.uniform(0.0, 1.2) * world.duration_s)


@contextmanager
def _starved(world: World, draw: random.Random) -> Iterator[Harm]:
    yield Harm(memory_bytes=int(10 ** draw.uniform(4, 8)))


def _bytes(draw: random.Random) -> int:
    return int(10 ** draw.uniform(0, 4.5))


KILLS = (
    Trouble(door="process", name="SIGKILL at a random moment", begin=_killed),
    Trouble(door="process", name="SIGKILL before a write, a commit or a request", begin=_killed_at_a_point),
)


def _network(name: str, what: str, where: Callable[[random.Random], str] = _where, **given: object) -> Trouble:
    return Trouble(door="network", name=name, begin=_fault(what, where, **given))  # type: ignore[arg-type]


TROUBLES = (
    _network("cut before it takes effect", "reset-before"),
    _network("reset at byte n", "reset-after", n=_bytes),
    _network("answer cut at byte n", "truncate", _of_answers, n=_bytes),
    _network("answer lost after it took effect", "lost-answer"),
    _network("stalled: one byte a minute", "stall", _of_answers, n=_bytes),
    _network("slow", "slow", _of_answers, n=lambda draw: int(10 ** draw.uniform(3.5, 5))),
    _network("never answered", "hang"),
    _network("429 with Retry-After", "status", code=429, headers={"Retry-After": "1"}),
    _network("5xx", "status", code=lambda draw: draw.choice((500, 502, 503, 504))),
    _network("403", "status", code=403),
    _network("200 with a page of HTML", "html-200"),
    _network("200 with half of a JSON text", "bad-json", lambda draw: f"query:{draw.choice(QUERIES)}"),
    _network("wrong length", "wrong-length", _of_answers, n=_bytes),
    _network("endless body", "endless", _of_answers),
    _network("redirect to another host", "redirect", to="http://192.0.2.1/there"),
    _network("flipped bits on the way", "flip-bits", _of_answers, n=lambda draw: draw.choice((1, 3, 100))),
    Trouble(door="network", name="addresses that lead nowhere, to another host or to untrusted TLS", begin=_address),
    Trouble(door="tournament", name="closed, or between rounds", begin=_closed, ends_round=True),
    Trouble(door="tournament", name="a new round in mid-run", other_bytes=True, other_ids=True,
            begin=_fault("new-round", lambda draw: draw.choice(("query:dataset", "put", "query:createSubmission")))),  # type: ignore[arg-type]
    Trouble(door="tournament", name="the deadline moved earlier", begin=_earlier, other_bytes=True),
    Trouble(door="tournament", name="a slot removed", begin=_without_slot),
    Trouble(door="tournament", name="the data version gone", begin=_without_version),
    Trouble(door="tournament", name="clocks that disagree by minutes", begin=_fault(  # type: ignore[arg-type]
        "clock", lambda draw: f"query:{draw.choice(QUERIES)}", n=lambda draw: draw.choice((-600, -200, 200, 600)))),
    *(Trouble(door="data", name=how, begin=_spoiled(how), other_ids=way.other_ids, other_bytes=way.is_plausible)
      for how, way in SPOILED.items()),
    Trouble(door="disk", name="full from the n-th write on", begin=_disk(errno.ENOSPC)),
    Trouble(door="disk", name="full at byte n of a file", begin=_full),
    Trouble(door="disk", name="read-only from the n-th write on", begin=_disk(errno.EROFS)),
    Trouble(door="disk", name="slow", begin=_slow_disk),
    Trouble(door="disk", name="a file removed, cut or flipped", begin=_damaged),
    Trouble(door="process", name="SIGTERM", begin=_ended),
    Trouble(door="process", name="out of memory", begin=_starved),
)  # fmt: skip
