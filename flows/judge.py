"""Whether `eraflow up` may start: what is wrong with the configuration is said now, not on Saturday at 12:00 UTC.

A program too, `python -m flows.judge CONFIG`, because this imports torch and asks the tournament, and what stays up
for months should not carry that along.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from eraflow.errors import EraflowError, InputError, TransientError
from eraflow.store import Store, default_home
from flows.terminal import complain

# A tournament that cannot be reached is no reason not to start: it may be back by Saturday [s].
ASKING_LIMIT_S = 20.0


def judge(config_file: Path, environ: Mapping[str, str]) -> str:
    """A line that says what the configuration holds. Raises `EraflowError` for what a round would fail at."""
    from eraflow import alarms
    from eraflow.request import make_request
    from eraflow.steps import find_slots
    from eraflow.weekly_config import read_configuration

    configuration = read_configuration(config_file)
    request = make_request(home=Store.open(default_home(environ)).home, config_file=config_file)
    alarms.check(configuration.alarm, environ)
    _require_password(environ)
    # What only the tournament knows: keys that it refuses, a slot that is not the account's.
    if not _in_time(lambda: find_slots(request)):
        complain("the tournament could not be asked whether keys and slots are right; this goes on without")
    named = ", ".join(f"{slot} ({recipe})" for slot, recipe in sorted(request.config.slots.items()))
    return f"{config_file} holds nothing wrong: {named}"


def judge_apart(config_file: Path, environ: Mapping[str, str]) -> str:
    """`judge` in a process of its own; raises what it raised."""
    done = subprocess.run(  # noqa: S603  # our own module
        [sys.executable, "-m", "flows.judge", str(config_file)],
        env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False,
    )  # fmt: skip
    try:
        answer: dict[str, str] = json.loads(done.stdout)
    except ValueError:
        raise EraflowError(f"{config_file} could not be judged (exit code {done.returncode}); try again") from None
    if done.returncode:
        error = EraflowError(answer["message"], code=answer["code"])
        error.exit_code = done.returncode
        raise error
    return answer["line"]


def main(arguments: list[str]) -> int:
    """Judge one configuration; the answer is JSON on standard output."""
    try:
        answer, code = {"line": judge(Path(arguments[0]), os.environ)}, 0
    except EraflowError as error:
        answer, code = {"message": error.message, "code": error.code}, error.exit_code
    sys.stdout.write(json.dumps(answer))
    return code


def _require_password(environ: Mapping[str, str]) -> None:
    password = environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if password and ":" not in password:
        raise InputError("PREFECT_SERVER_API_AUTH_STRING must be of the form user:password, however it has no colon")


def _in_time(ask: Callable[[], object]) -> bool:
    """Whether `ask` was answered within the limit; raises what it raised, except for what may pass by itself."""
    found: list[EraflowError | None] = []

    def asking() -> None:
        try:
            ask()
            found.append(None)
        except EraflowError as error:
            found.append(error)

    thread = threading.Thread(target=asking, daemon=True)
    thread.start()
    thread.join(ASKING_LIMIT_S)
    if not found or isinstance(found[0], TransientError):
        return False
    if found[0]:
        raise found[0]
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
