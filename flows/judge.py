"""Whether `eraflow up` may start: what is wrong with the configuration is said now, not on Saturday at 12:00 UTC.

A program too, `python -m flows.judge [CONFIG]`, because this imports torch and asks the tournament, and what stays up
for months should not carry that along.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eraflow.errors import EXIT_DONE, EraflowError, InputError, TransientError
from eraflow.later import Later
from eraflow.store import Store, default_home
from flows.terminal import complain

# A tournament that cannot be reached is no reason not to start: it may be back by Saturday [s].
ASKING_LIMIT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A configuration in which nothing wrong was found."""

    config_file: str
    """Its absolute path: the one given, or the home's own."""
    line: str
    """What it holds, for the user."""
    secrets: list[str]
    """The environment variables that alarm addresses are read from."""


def judge(config_file: Path | None, environ: Mapping[str, str]) -> Judged:
    """Look for everything that a round would fail at. Raises `EraflowError` for the first that was found."""
    from eraflow import alarms
    from eraflow.request import make_request
    from eraflow.steps import find_slots
    from eraflow.weekly_config import read_configuration

    home = Store.open(default_home(environ)).home
    path = _existing(config_file, home)
    configuration = read_configuration(path)
    request = make_request(home=home, config_file=path)
    alarms.check(configuration.alarm, environ)
    _require_password(environ)
    # What only the tournament knows: keys that it refuses, a slot that is not the account's.
    try:
        Later(lambda: find_slots(request), "the tournament").result(ASKING_LIMIT_S)
    except TransientError:
        complain("the tournament could not be asked whether keys and slots are right; going on without")
    named = ", ".join(f"{slot} ({recipe})" for slot, recipe in sorted(request.config.slots.items()))
    addresses = (*configuration.alarm.urls, configuration.alarm.heartbeat_url)
    return Judged(
        config_file=str(path),
        line=f"nothing wrong was found in {path}: {named}",
        secrets=[text.strip("${}") for text in addresses if text.startswith("$")],
    )


def judge_apart(config_file: Path | None, environ: Mapping[str, str]) -> Judged:
    """`judge` in a process of its own; raises what it raised."""
    done = subprocess.run(  # noqa: S603  # our own module
        [sys.executable, "-m", "flows.judge", *([str(config_file)] if config_file else [])],
        env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False,
    )  # fmt: skip
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise EraflowError(f"the configuration could not be judged (exit code {done.returncode}); try again") from None
    if done.returncode:
        error = EraflowError(answer["message"], code=answer["code"])
        error.exit_code = done.returncode
        raise error
    return Judged(**answer)


def main(arguments: list[str]) -> int:
    """Judge one configuration; the answer is JSON on standard output."""
    try:
        answer = dataclasses.asdict(judge(Path(arguments[0]) if arguments else None, os.environ))
    except EraflowError as error:
        sys.stdout.write(json.dumps({"message": error.message, "code": error.code}))
        return error.exit_code
    sys.stdout.write(json.dumps(answer))
    return EXIT_DONE


def _existing(config_file: Path | None, home: Path) -> Path:
    from eraflow.weekly_config import CONFIG_FILE, default_config_file

    path = config_file or default_config_file(home)
    if path is None:
        raise InputError(
            f"a configuration must be there, however neither --config was given nor is there {home / CONFIG_FILE};"
            " copy deployments/weekly.toml there and name your slots in it"
        )
    return path.resolve()


def _require_password(environ: Mapping[str, str]) -> None:
    password = environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if password and ":" not in password:
        raise InputError("PREFECT_SERVER_API_AUTH_STRING must be of the form user:password, however it has no colon")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
