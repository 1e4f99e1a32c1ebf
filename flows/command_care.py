"""What the command does around a round: the environment file, up, status, doctor, scores."""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.terminal import complain, elsewhere, show

if TYPE_CHECKING:
    from eraflow.status import Seen, Status

REDRAWN_EACH_S = 2.0
# Nobody watches more closely than this, and the tournament has others to answer [s].
ASKED_EACH_S = 30.0


def load_environment_file(options: argparse.Namespace) -> None:
    """Keys and addresses for runs that nobody starts by hand; what the environment has goes first.

    What is wrong with them is left in `options.unfit` to the commands that tell somebody, and raised for the others.
    """
    from eraflow.environment import ENVIRONMENT_FILE, load
    from eraflow.errors import EraflowError
    from eraflow.store import default_home

    try:
        load(default_home(os.environ) / ENVIRONMENT_FILE, os.environ)
    except EraflowError as error:
        if options.command not in ("weekly", "daily") and not (options.command == "status" and options.check):
            raise
        options.unfit = error


def up(options: argparse.Namespace) -> int:
    """Run server and deployments until stopped."""
    from flows.up import up as run

    return run(options.config, os.environ, port=options.port, check_only=options.check)


def status(options: argparse.Namespace) -> int:
    """Tell whether this week is safe."""
    if options.check:
        return _check(options)
    from eraflow.status import look
    from eraflow.store import default_home

    home = default_home(os.environ)
    if options.watch:
        return _watch(home, options)
    show(_shown(_with_home(look(home, os.environ, options.config), home), options))
    return 0


def _with_home(found: Status, home: Path) -> Status:
    """`found` with a warning where nothing could be kept in the home, which looking at it does not show."""
    from dataclasses import replace

    from eraflow.store import ANOTHER_HOME, against_home

    why = against_home(home)
    return replace(found, warnings=(f"{why}; {ANOTHER_HOME}", *found.warnings)) if why else found


def doctor(options: argparse.Namespace) -> int:
    """Tell whether this machine is fit."""
    from eraflow.doctor import examine, exit_code, json_object, line
    from eraflow.finding import Case
    from eraflow.store import default_home

    case = Case(
        home=default_home(os.environ),
        config_file=options.config,
        environ=os.environ,
        deep=options.deep,
        alarm_test=options.alarm_test,
    )
    findings = []
    for finding in examine(case):
        findings.append(finding)
        if not options.json:
            show(line(finding))
    if options.json:
        show(json.dumps(json_object(findings)))
    return exit_code(findings)


def scores(options: argparse.Namespace) -> int:
    """Collect and show what past rounds scored."""
    from eraflow.errors import TransientError
    from eraflow.ledger import Ledger
    from eraflow.scores import collect, json_object, scores_png, table_text
    from eraflow.store import Store, default_home, write_atomically
    from eraflow.tournament import Tournament

    store = Store.open(default_home(os.environ))
    slots = options.model or list(_configured_slots(store.home, options.config))
    code = 0
    try:
        found = collect(store.home, slots)
    except TransientError as error:
        complain(f"{error.message}{elsewhere(error.code)}; this is what was collected before")
        kept = Ledger(store.ledger_path, Tournament.from_environment().url).scores()
        found, code = [score for score in kept if score.slot in slots], error.exit_code
    chart = store.home / "scores.png"
    write_atomically(chart, scores_png(found))
    show(
        json.dumps({**json_object(found), "chart": str(chart)})
        if options.json
        else f"{table_text(found)}\nchart {chart}"
    )
    return code


def _configured_slots(home: Path, config_file: Path | None) -> Mapping[str, str]:
    from eraflow.weekly_config import default_config_file, read_configuration

    path = config_file or default_config_file(home)
    slots = read_configuration(path).slots
    if not slots:
        from eraflow.errors import InputError
        from eraflow.request import how_to_name_one

        raise InputError(f"no slot whose scores to collect; {how_to_name_one(home, path)}")
    return slots


def _check(options: argparse.Namespace) -> int:
    """The dead man's switch."""
    from eraflow.store import default_home
    from eraflow.watch import check, json_object

    watched = check(default_home(os.environ), options.config, os.environ, options.unfit)
    show(json.dumps(json_object(watched)) if options.json else watched.sentence)
    return watched.exit_code


def _shown(found: Status, options: argparse.Namespace) -> str:
    from eraflow.status_text import json_object, text

    return json.dumps(json_object(found)) if options.json else text(found)


def _watch(home: Path, options: argparse.Namespace) -> int:
    """Keep it on the screen; where that is no terminal, print it again when something has changed."""
    on_screen, stopped = sys.stdout.isatty() and not options.json, threading.Event()

    def stop(*_: object) -> None:
        # An exception that is raised inside a callback of a library's is printed there and lost.
        stopped.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, stop)
    try:
        _watched(home, options, _draw if on_screen else _print_changes(), stopped)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # nobody reads it any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        signal.signal(signal.SIGINT, before)
    return 0


def _watched(
    home: Path, options: argparse.Namespace, put: Callable[[Status, str], None], stopped: threading.Event
) -> None:
    from eraflow.status import look, see

    seen: Seen | None = None
    asked_at_s = 0.0
    while not stopped.is_set():
        started = time.monotonic()
        if seen is None or started - asked_at_s >= ASKED_EACH_S:
            seen, asked_at_s = see(os.environ), started
        found = _with_home(look(home, os.environ, options.config, seen), home)
        put(found, _shown(found, options))
        stopped.wait(max(0.1, REDRAWN_EACH_S - (time.monotonic() - started)))


def _draw(_: Status, text: str) -> None:
    columns, rows = shutil.get_terminal_size()  # 80 and 24 where the terminal does not know
    # What does not fit would scroll, and what was there before would stay.
    lines = [line[:columns] for line in text.splitlines()][: max(1, rows - 1)]
    sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
    sys.stdout.flush()


def _print_changes() -> Callable[[Status, str], None]:
    before: list[Any] = []

    def put(found: Status, text: str) -> None:
        from dataclasses import replace

        _require_reader()
        if not before or replace(before[0], now_utc=found.now_utc) != found:
            before[:] = [found]
            sys.stdout.write(f"{text}\n\n")
            sys.stdout.flush()

    return put


def _require_reader() -> None:
    """Raises `BrokenPipeError` once nobody reads what is printed: with nothing new to write it would not be noticed."""
    if not hasattr(select, "poll"):  # Windows
        return
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
        raise BrokenPipeError
