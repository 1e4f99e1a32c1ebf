"""A tournament on this machine: `LocalTournament` starts it, moves its clock and breaks it on request.

Behind it stand, from the outside in: `wire` (HTTP, faults), `answers` with `graphql` and `schema` (what the client
asks), `core` (rounds, keys, submissions) with `timetable` and `scoring`, `publishing` with `market` and `market_files`
(data), `state` (what stays).
"""

from __future__ import annotations

import dataclasses
import logging
import shlex
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from eraflow.errors import InputError, StorageError
from eraflow.rehearsal.core import Core, check_replacement
from eraflow.rehearsal.faults import Fault, Faults
from eraflow.rehearsal.market import Market, MarketConfig
from eraflow.rehearsal.market_files import VERSION
from eraflow.rehearsal.publishing import Publisher
from eraflow.rehearsal.state import SCOPES, Submission, write_private
from eraflow.rehearsal.wire import TournamentServer
from eraflow.rounds import system_now_utc
from eraflow.store import Store, exclusive

logger = logging.getLogger("eraflow")

# A round is opened by moving the clock to this long after its opening, and closed likewise; fast ones have less.
AFTER_OPENING = timedelta(seconds=1)
AFTER_CLOSE = timedelta(seconds=1)
# How often it is seen whether another fast round has to be made ready [s].
AHEAD_EVERY_S = 0.1
# How long a tournament that is just stopping in the same home is waited for.
WAITS_FOR_HOME_S = 5.0


class LocalTournament:
    """One tournament in the folder `home`; a context manager that serves it while it is open.

    The home keeps everything: keys made at random once, clock, slots, submissions; a later start goes on there, at
    the same address if it is free. `market` is the synthetic one, of default size if not given; with `data_from` the
    files of that folder are served instead. `seed` moves the delays of the openings, and the default market.
    `url_lifetime_s` is how long a signed address lasts [s of the tournament's clock]. With `every_s` rounds are fast,
    see `set_pace`. Raises `InputError` for a folder that is none or a pace that cannot be, `StorageError` if another
    process serves this home.
    """

    def __init__(
        self, home: Path, *, port: int = 0, market: MarketConfig | None = None, data_from: Path | None = None,
        slots: Sequence[str] = ("rehearsal_one", "rehearsal_two"), seed: int = 0, weekly_only: bool = True,
        url_lifetime_s: float = 3600.0, system: Callable[[], datetime] = system_now_utc,
        every_s: float | None = None, window_s: float | None = None, delay_scale: float = 0.0,
    ) -> None:  # fmt: skip
        if every_s is None and window_s is not None:
            raise InputError("the window of fast rounds needs how often one opens, however only the window was given")
        self.home = Store.open(Path(home)).home
        self.market = Market(market or MarketConfig(seed=seed))
        self.faults = Faults()
        self._asked_port = port
        self._core = Core(
            self.home, Publisher(self.home, self.market, data_from), slots=slots, seed=seed, weekly_only=weekly_only,
            url_lifetime_s=url_lifetime_s, system=system,
        )  # fmt: skip
        self._server: TournamentServer | None = None
        self._ahead: threading.Thread | None = None
        self._held = ExitStack()
        if every_s is not None:
            self.set_pace(every_s, window_s, delay_scale)

    # Running

    def start(self) -> None:
        """Listen on 127.0.0.1, and write address and keys to `environment_file`."""
        with ExitStack() as held:
            held.enter_context(exclusive(self.home / "tournament.json", timeout_s=WAITS_FOR_HOME_S))
            self._server = held.enter_context(self._listen())
            self._held = held.pop_all()
        self._core.state.port = int(self._server.server_address[1])
        self._core.save()
        values = {
            "ERAFLOW_API_URL": self.url,
            "NUMERAI_PUBLIC_ID": self.public_id,
            "NUMERAI_SECRET_KEY": self.secret_key,
        }
        write_private(self.environment_file, "".join(f"{name}={shlex.quote(text)}\n" for name, text in values.items()))
        if self.open_round() is not None:
            self._core.publisher.prepare(self._core.latest())
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="tournament", daemon=True).start()
        self._ahead = threading.Thread(
            target=self._prepare_ahead, args=(self._server.stopping,), name="tournament-ahead", daemon=True
        )
        self._ahead.start()

    def stop(self) -> None:
        """Stop listening; requests that hang are cut."""
        if self._server is not None:
            self._server.stopping.set()
            self._server.shutdown()
            if self._ahead is not None:
                self._ahead.join()
            self._held.close()
            self._server = None

    def __enter__(self) -> LocalTournament:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address, as `ERAFLOW_API_URL` takes it. Raises `InputError` before the start."""
        return self._running().url

    @property
    def environment_file(self) -> Path:
        """Address and keys as environment variables; only its owner can read it."""
        return self.home / "tournament.env"

    @property
    def public_id(self) -> str:
        return self._core.keys.public_id

    @property
    def secret_key(self) -> str:
        return self._core.keys.secret_key

    # The clock and the rounds

    def now_utc(self) -> datetime:
        """The tournament's time."""
        return self._core.now_utc()

    def move_clock(self, seconds: float) -> None:
        """Let `seconds` pass at once."""
        self._core.move_by(seconds)

    def open_round(self) -> int | None:
        """The number of the round that is open on time, or None."""
        latest = self._core.latest()
        return latest.number if latest.opens_at_utc <= self.now_utc() < latest.closes_at_utc else None

    def current_round(self) -> int | None:
        """The number of the round that `number: 0` names; for a while after the deadline it is still there."""
        current = self._core.current()
        return current.number if current else None

    def open_next_round(self, delay_s: float | None = None) -> int:
        """Move the clock to just after the next opening; returns the round's number.

        `delay_s` is how late it opens; without it the timetable's own draw stands. Its data files are made first.
        """
        number = self.delay_next_round(delay_s)
        at = self._core.timetable.round(number)
        self._core.publisher.prepare(at)  # outside the lock: requests need not wait for it
        self._core.move_to(at.opens_at_utc + min(AFTER_OPENING, 0.01 * (at.closes_at_utc - at.opens_at_utc)))
        return number

    def delay_next_round(self, delay_s: float | None) -> int:
        """Let the next round open so late, without moving the clock; returns its number.

        Raises `InputError` for a delay that fast rounds have no room for.
        """
        with self._core.lock:
            number = self._core.timetable.following(self.now_utc()).number
            if delay_s is not None:
                self._core.set_delay(number, delay_s)
            return number

    def set_pace(self, every_s: float, window_s: float | None = None, delay_scale: float = 0.0) -> None:
        """From the next round on, open one every `every_s` seconds of the clock, the first of them `every_s` from now.

        Each is open on time for `window_s` (three quarters of `every_s` if not given), stands for a week, and is
        scored on days of `every_s / 5`. Drawn delays are multiplied by `delay_scale`, so 0 opens every round on time.
        The rounds so far stay as they were, and the same pace again changes nothing: it outlasts a restart.
        Raises `InputError` for a pace that cannot be.
        """
        self._core.set_pace(every_s, 0.75 * every_s if window_s is None else window_s, delay_scale)

    def close_round(self) -> int:
        """Move the clock to just after the on-time deadline of the latest round; returns its number."""
        with self._core.lock:
            latest = self._core.latest()
            past = min(AFTER_CLOSE, 0.5 * (latest.ends_at_utc - latest.closes_at_utc))
            self._core.move_to(latest.closes_at_utc + past)
            return latest.number

    def move_deadline(self, seconds: float) -> datetime:
        """Make the on-time deadline of the latest round so much earlier; returns the new one.

        The end of the round (`closeTime`) moves along, later rounds do not, and what was submitted before stays on time
        or late as it was. A negative number takes earlier moves back. Raises `InputError` if the deadline would not lie
        after the opening, or would lie after the timetable's own.
        """
        return self._core.move_deadline(seconds)

    def best_reachable(self, target: str) -> float | None:
        """Mean era Spearman that nobody can beat on this week's validation file; None where it is not known.

        `target` is a column of the synthetic market; for `target` itself it is the one that equals it.
        """
        if self._core.publisher.data_from is not None:
            return None
        column = "target_ender_60" if target == "target" else target
        by_era = self.market.oracle(self._core.latest().week, column)
        return sum(by_era.values()) / len(by_era)

    # What was sent to it

    def submissions(self, round_number: int | None = None) -> list[Submission]:
        """Every submission, valid or not, by order of creation; of one round where it is named."""
        return [one for one in self._core.submissions() if round_number in (None, one.round)]

    def accepted(self, round: int | None = None) -> list[Submission]:
        """The valid ones. What was carried over from the round before is marked so, and among them."""
        return [one for one in self.submissions(round) if one.valid]

    def submitted_bytes(self, submission: Submission) -> bytes:
        """The bytes of one of them."""
        return self._core.stored(str(submission.sha256))

    @property
    def requests(self) -> list[tuple[str, str, str]]:
        """Method, path without its query, and root fields of every request since the start."""
        return list(self._running().requests)

    # What is different from the usual

    def set_file(self, name: str, path: Path | None) -> None:
        """Serve the bytes at `path` under this name (`v5.3/live.parquet`) from now on; None ends that."""
        with self._core.lock:
            if path is None:
                self._core.state.files.pop(name, None)
            else:
                self._core.state.files[name] = check_replacement(path)
            self._core.save()

    def add_slot(self, name: str, hosted: bool = False) -> str:
        """A model of the account; returns its id. A hosted one has a pickle upload and takes no submissions."""
        with self._core.lock:
            slot = self._core.state.add_slot(name, hosted=hosted)
            self._core.save()
            return slot.id

    def remove_slot(self, name: str) -> None:
        """Take a model out of the account; its submissions stay in the books.

        `add_slot` with the same name makes a new model. Raises `InputError` if the account has none of this name.
        """
        with self._core.lock:
            self._core.state.remove_slot(name)
            self._core.save()

    def set_scopes(self, scopes: Sequence[str]) -> None:
        """What the account's key may do. Raises `InputError` for a scope that there is not."""
        if unknown := sorted(set(scopes) - set(SCOPES)):
            raise InputError(f"a scope must be one of {', '.join(SCOPES)}, however {', '.join(unknown)} was given")
        with self._core.lock:
            self._core.state.scopes = list(scopes)
            self._core.save()

    def add_data_version(self, version: str) -> None:
        """List the data files of this version too, as `v5.4`, with the bytes of the usual one."""
        with self._core.lock:
            if version not in (VERSION, *self._core.state.data_versions):
                self._core.state.data_versions.append(version)
            self._core.withdraw_data_version(version, False)

    def withdraw_data_version(self, version: str) -> None:
        """List the data files of this version no more; addresses of them that are out already answer 404.

        Raises `InputError` for a version that there never was.
        """
        self._core.withdraw_data_version(version, True)

    def return_data_version(self, version: str) -> None:
        """End `withdraw_data_version`. Raises `InputError` for a version that there never was."""
        self._core.withdraw_data_version(version, False)

    # Helpers

    def _prepare_ahead(self, stopping: threading.Event) -> None:
        """Make the data files of the next fast round before it opens, so that no request waits for them."""
        ready = 0
        while not stopping.wait(AHEAD_EVERY_S):
            if not self._core.state.paces:
                continue
            coming = self._core.timetable.following(self.now_utc())
            if coming.number == ready:
                continue
            try:
                self._core.publisher.prepare(coming)
            except (StorageError, OSError) as error:
                logger.warning("the files of round %d cannot be made ahead: %s", coming.number, error)
            ready = coming.number

    def _running(self) -> TournamentServer:
        if self._server is None:
            raise InputError("the local tournament must be started first, however it is not running")
        return self._server

    def _listen(self) -> TournamentServer:
        wanted = [self._asked_port] if self._asked_port else [self._core.state.port, 0]
        for port in wanted:
            try:
                return TournamentServer(port, self._core, self.faults, self._called)
            except OSError as error:
                if port == wanted[-1]:
                    raise StorageError(
                        f"the local tournament must listen on 127.0.0.1:{port}, however: {error.strerror};"
                        " choose another port"
                    ) from error
        raise AssertionError("unreachable")

    def _called(self, call: str, arguments: dict[str, Any]) -> Any:
        """One call of `POST /control`, with plain values in and out."""
        calls: dict[str, Callable[..., Any]] = {
            "now_utc": lambda: self.now_utc().isoformat(),
            "move_clock": self.move_clock,
            "open_round": self.open_round,
            "current_round": self.current_round,
            "open_next_round": self.open_next_round,
            "delay_next_round": self.delay_next_round,
            "set_pace": self.set_pace,
            "close_round": self.close_round,
            "move_deadline": lambda seconds: self.move_deadline(seconds).isoformat(),
            "accepted": lambda **given: [dataclasses.asdict(one) for one in self.accepted(**given)],
            "submissions": lambda **given: [dataclasses.asdict(one) for one in self.submissions(**given)],
            "requests": lambda: self.requests,
            "add_faults": lambda faults: self.faults.add(*(Fault(**table) for table in faults)),
            "clear_faults": self.faults.clear,
            "struck": lambda: [fault.as_table() for fault in self.faults.struck],
            "set_file": lambda name, path: self.set_file(name, None if path is None else Path(path)),
            "add_slot": self.add_slot,
            "remove_slot": self.remove_slot,
            "set_scopes": self.set_scopes,
            "add_data_version": self.add_data_version,
            "withdraw_data_version": self.withdraw_data_version,
            "return_data_version": self.return_data_version,
        }
        if call not in calls:
            raise InputError(f"a control call must be one of {', '.join(calls)}, however {call!r} was given")
        return calls[call](**arguments)
