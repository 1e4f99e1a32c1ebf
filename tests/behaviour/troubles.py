"""Everything that can go wrong with a round, as contexts: inside one, it does.

Read `Trouble` and `TROUBLES`. A trouble is drawn with a generator of random numbers that its caller seeds, so that the
same seed draws the same one. What it does to the tournament or to the files is undone on leaving; what it does to the
process of the run is the `Harm` that it yields. That it was begun does not say that the run met it: a fault may strike
nobody, and a signal may come too late (`was_met`).
"""

from __future__ import annotations

import errno
import hashlib
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from eraflow.rehearsal import Fault, LocalTournament
from tests.behaviour.crash_points import LEDGER
from tests.behaviour.harmed import NO_MEMORY, NO_ROOM, Harm, Run, drawn_of, files_by_kind
from tests.behaviour.spoiled import SPOILED, spoil
from tests.behaviour.week import SLOTS

FILES = ("live.parquet", "features.json", "train.parquet", "validation.parquet")
QUERIES = ("rounds", "account", "model", "dataset", "submissionUploadAuth", "createSubmission", "submissions",
           "submissionDownloadAuth")  # fmt: skip
CREATE = "query:createSubmission"
HANDS_OUT = ("dataset", "submissionUploadAuth", "submissionDownloadAuth")
NOWHERE = {
    "refused": "http://127.0.0.1:9",
    "no such host": "https://nowhere.invalid",
    "another host": "http://192.0.2.1",
}
AT_REST = {
    "a data file or its manifest": ("data",),
    "a decoded file": ("decoded",),
    "a file of a model": ("models",),
    "a file of a round": ("rounds",),
    "the ledger": (LEDGER,),
}
"""What may be damaged while nobody is at work -> the kinds of files (`files_by_kind`)."""
RETRY_AFTER = ("0", "1", "120", "Fri, 31 Dec 2027 23:59:59 GMT")


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
    times: Sequence[int | None] = (1, 1, 2, 6, None)
    """How often a fault may strike; None for as long as the run lasts."""
    after: Sequence[int] = (0, 0, 1, 2)
    """How many requests it may let pass first."""


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
    """What a run sends that meets it may be other predictions than those of a round without trouble."""


def _where(draw: random.Random) -> str:
    kind = draw.choice(("query", "get", "put"))
    if kind == "put":
        return "put"
    return f"query:{draw.choice(QUERIES)}" if kind == "query" else f"get:{draw.choice((*FILES, 'submission'))}"


def _of_answers(draw: random.Random) -> str:
    return draw.choice([f"query:{name}" for name in QUERIES] + [f"get:{name}" for name in (*FILES, "submission")])


@contextmanager
def _planned(world: World, fault: Fault) -> Iterator[Harm]:
    world.local.faults.add(fault)
    try:
        yield Harm(name=str(fault), fault=fault)
    finally:
        world.local.faults.clear()


def _halfway(draw: random.Random) -> str:
    return draw.choice(("query:dataset", "put", CREATE))


def _while_asked(draw: random.Random) -> str:
    """Such requests as tell the tournament's time: the storage does not, and no real clock leaps meanwhile."""
    return draw.choice(("query:dataset", "query:submissionUploadAuth", CREATE))


def _fault(what: str, where: Callable[[random.Random], str] = _where, **given: object) -> Callable[..., object]:
    """Faults of one kind; whatever is given of one may be a function of the draw."""

    def begin(world: World, draw: random.Random) -> AbstractContextManager[Harm]:
        drawn = {"times": draw.choice(world.times), "after": draw.choice(world.after)}
        told = {name: value(draw) if callable(value) else value for name, value in given.items()}
        return _planned(world, Fault(where=where(draw), what=what, **{**drawn, **told}))  # type: ignore[arg-type]

    return begin


def _address(world: World, draw: random.Random) -> AbstractContextManager[Harm]:
    to, where = draw.choice([*NOWHERE.values(), world.untrusted]), f"query:{draw.choice(HANDS_OUT)}"
    return _planned(world, Fault(where=where, what="address", to=to, times=draw.choice(world.times)))


def _clocks(world: World, draw: random.Random) -> AbstractContextManager[Harm]:
    """Of some of its answers, or of all."""
    where, n = f"query:{draw.choice(QUERIES)}", draw.choice((-600, -200, 200, 600))
    if draw.random() < 0.5:
        return _planned(world, Fault(where="any query", what="clock", n=n, times=None))
    return _planned(world, Fault(where=where, what="clock", n=n, times=draw.choice(world.times)))


@contextmanager
def _no_api(world: World, draw: random.Random) -> Iterator[Harm]:
    to = draw.choice([NOWHERE["refused"], NOWHERE["no such host"], world.untrusted])
    yield Harm(name=to, environment={"ERAFLOW_API_URL": to})


@contextmanager
def _closed(world: World, draw: random.Random) -> Iterator[Harm]:
    world.local.close_round()
    if draw.random() < 0.5:
        world.local.move_clock(2 * 3600)  # between rounds
    yield Harm(asks=("rounds",))


@contextmanager
def _earlier(world: World, draw: random.Random) -> Iterator[Harm]:
    latest = world.local._core.latest()
    left_s = (latest.closes_at_utc - world.local.now_utc()).total_seconds()
    # Without an older model of each recipe the round is lost where there is no time to train; a home that knows of no
    # round's duration keeps two minutes for sending alone.
    older = {path.parent.name.rpartition("-")[0] for path in world.home.glob("models/*/model.json")}
    least_s = 60.0 if len(older) >= len(SLOTS) else 240.0
    world.local.move_deadline(left_s - draw.uniform(least_s, 600.0))
    yield Harm(asks=("rounds",))


@contextmanager
def _without_slot(world: World, draw: random.Random) -> Iterator[Harm]:
    name = draw.choice(("rehearsal_one", "rehearsal_two"))
    world.local.remove_slot(name)
    try:
        yield Harm(name=name, asks=("account",))
    finally:
        world.local.add_slot(name)


@contextmanager
def _without_version(world: World, draw: random.Random) -> Iterator[Harm]:
    world.local.withdraw_data_version("v5.3")
    try:
        yield Harm(asks=("dataset", "listDatasets"))
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
            yield Harm(name=name, asks=(f"/{name}",))
        finally:
            world.local.set_file(name, None)

    return begin


@contextmanager
def _altered(world: World, draw: random.Random) -> Iterator[Harm]:
    """The storage takes other bytes than those that were sent: a digit of an id or of a prediction is another one."""
    core, left, altered = world.local._core, draw.choice((1, 1, 2)), set[str]()
    receive = core.receive

    def received(granted: str, data: bytes) -> bool:
        nonlocal left
        if left > 0:
            left -= 1
            at = draw.choice([at for at, one in enumerate(data) if chr(one).isdigit()])
            data = data[:at] + str((int(chr(data[at])) + 1) % 10).encode() + data[at + 1 :]
            altered.add(hashlib.sha256(data).hexdigest())
        return receive(granted, data)

    core.receive = received  # type: ignore[method-assign]
    try:
        yield Harm(altered=altered)
    finally:
        core.receive = receive  # type: ignore[method-assign]


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
def _spoiled_meanwhile(world: World, draw: random.Random) -> Iterator[Harm]:
    yield Harm(spoils_before=draw.randrange(150), spoils_with=str(draw.random()))


def _damaged(*kinds: str) -> Callable[[World, random.Random], AbstractContextManager[Harm]]:
    @contextmanager
    def begin(world: World, draw: random.Random) -> Iterator[Harm]:
        """A file of the home is removed, cut, or has a bit flipped; the ledger may be cut or go."""
        files = {kind: found for kind, found in files_by_kind(world.home).items() if kind.startswith(kinds)}
        how, told = draw.choice(("removed", "cut", "flipped")), "nothing"
        for path in drawn_of(files, draw):
            told = _damage(path, how, draw)
        yield Harm(name=told, is_there=bool(files))

    return begin


def _damage(path: Path, how: str, draw: random.Random) -> str:
    data = bytearray(path.read_bytes())
    if how == "removed" or not data:
        path.unlink()
        return f"removed: {path.name}"
    if how == "cut":
        path.write_bytes(data[: draw.randrange(len(data))])
    else:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
    return f"{how}: {path.name}"


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
    _network("slow: the answer trickles", "slow", _of_answers, n=lambda draw: int(10 ** draw.uniform(3.5, 5))),
    _network("never answered", "hang"),
    _network("429 with Retry-After", "status", code=429,
             headers=lambda draw: {"Retry-After": draw.choice(RETRY_AFTER)}),
    _network("5xx", "status", code=lambda draw: draw.choice((500, 502, 503, 504))),
    _network("403", "status", code=403),
    _network("200 with a page of HTML", "html-200"),
    _network("200 with half of a JSON text", "bad-json", lambda draw: f"query:{draw.choice(QUERIES)}"),
    _network("wrong length", "wrong-length", _of_answers, n=_bytes),
    _network("endless body", "endless", _of_answers),
    _network("redirect to another host", "redirect", to="http://192.0.2.1/there"),
    _network("flipped bits on the way", "flip-bits", _of_answers, n=lambda draw: draw.choice((1, 3, 100))),
    Trouble(door="network", name="addresses that lead nowhere, to another host or to untrusted TLS", begin=_address),
    Trouble(door="network", name="an API that is refused, is nowhere or has untrusted TLS", begin=_no_api),
    Trouble(door="network", name="an upload altered on its way", begin=_altered, other_ids=True),
    Trouble(door="tournament", name="closed, or between rounds", begin=_closed, ends_round=True),
    Trouble(door="tournament", name="a new round in mid-run", other_ids=True,
            begin=_fault("new-round", _halfway)),  # type: ignore[arg-type]
    Trouble(door="tournament", name="the deadline passes in mid-run", ends_round=True,
            begin=_fault("close", _while_asked, times=1)),  # type: ignore[arg-type]
    Trouble(door="tournament", name="the deadline moved earlier", begin=_earlier),
    Trouble(door="tournament", name="a slot removed", begin=_without_slot),
    Trouble(door="tournament", name="the data version gone", begin=_without_version),
    Trouble(door="tournament", name="clocks that disagree by minutes", begin=_clocks),
    *(Trouble(door="data", name=how, begin=_spoiled(how), other_ids=way.other_ids, other_bytes=way.is_plausible)
      for how, way in SPOILED.items()),
    Trouble(door="disk", name="full from the n-th write on", begin=_disk(errno.ENOSPC)),
    Trouble(door="disk", name="full at byte n of a file", begin=_full),
    Trouble(door="disk", name="read-only from the n-th write on", begin=_disk(errno.EROFS)),
    Trouble(door="disk", name="a slow disk", begin=_slow_disk),
    *(Trouble(door="disk", name=f"{what} removed, cut or flipped", begin=_damaged(*kinds))
      for what, kinds in AT_REST.items()),
    Trouble(door="disk", name="a file removed or cut under a run", begin=_spoiled_meanwhile),
    Trouble(door="process", name="SIGTERM", begin=_ended),
    Trouble(door="process", name="out of memory", begin=_starved),
)  # fmt: skip

REFUSED = ("403", "redirect to another host")
# After these a run ends or goes on within seconds, whatever its time-outs are.
QUICK = tuple(one for one in TROUBLES if one.name in (*REFUSED, "5xx", "200 with a page of HTML")
              or one.begin is _address)  # fmt: skip


def was_met(harm: Harm, run: Run, struck: Sequence[Fault], asked: Sequence[tuple[str, str, str]] = ()) -> bool:
    """Whether the run met what this harm was to be.

    `struck` are the faults that did while it was at work, `asked` the requests that the tournament got meanwhile.
    """
    if harm.signal is not None or harm.stop_before is not None:
        return run.is_ended if harm.signal == signal.SIGTERM else run.is_killed
    if harm.fault is not None:
        return harm.fault in struck
    if harm.spoils_before is not None:
        return bool(run.spoiled)
    if harm.altered is not None:
        return bool(harm.altered)
    if harm.asks:
        return any(one in root.split(",") or path.endswith(one) for _, path, root in asked for one in harm.asks)
    if harm.disk_error or harm.write_s or harm.environment:
        return run.was_struck
    if harm.largest_file_bytes is not None:
        return run.says(*NO_ROOM)
    return run.says(*NO_MEMORY) if harm.memory_bytes is not None else harm.is_there
