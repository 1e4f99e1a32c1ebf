"""Keys for runs that nobody starts by hand: an owner-only file of NAME=VALUE lines, in the form of systemd's
EnvironmentFile. What the environment has already wins. No line's text is ever told, as it may hold a key, and a
process that may hold keys leaves no copy of its memory behind when it crashes.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

from eraflow.errors import CredentialsError, InputError, StorageError
from eraflow.store import ANOTHER_HOME, against_home

ENVIRONMENT_FILE = "eraflow.env"
"""Its name in ERAFLOW_HOME."""
NAMES_A_SECRET = re.compile(r"SECRET|TOKEN|PASSW|KEY|PUBLIC_ID|AUTH", re.IGNORECASE)
# Shorter values would be found by chance in any text.
SHORTEST_SECRET = 6
QUOTED = re.compile(r"""'([^']*)'|"((?:[^"\\]|\\.)*)["]""")


def load(path: Path, environ: MutableMapping[str, str]) -> list[str]:
    """Set in `environ` what the file at `path` has and `environ` lacks; returns those names. No file, no names.

    From here on this process and those that it starts write no core file.

    Raises `CredentialsError` for a file that others can get at, `InputError` with the line's number for a line that
    is not NAME=VALUE, `StorageError` where its folder cannot be used; then nothing is set.
    """
    _leave_no_core()
    text = _read(path)
    values = dict(pair for number, line in enumerate(text.split("\n"), 1) if (pair := _pair(line, path, number)))
    missing = [name for name in values if name not in environ]
    for name in missing:
        environ[name] = values[name]
    return missing


def secrets_in(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The values in `environ` that no text may hold, by the names of their variables, the longest first."""
    found = {value for name, value in environ.items() if NAMES_A_SECRET.search(name) and len(value) >= SHORTEST_SECRET}
    return tuple(sorted(found, key=lambda value: (-len(value), value)))


def _leave_no_core() -> None:
    if os.name == "posix":
        import resource

        with suppress(OSError, ValueError):  # a sandbox that does not let it: no reason not to run
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _read(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would wait for its writer
            raise InputError(f"the environment file {path} must be a plain file, however it is none")
        with path.open("rb") as file:
            _require_private(os.fstat(file.fileno()), path)
            return file.read().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        if isinstance(error, PermissionError) and (why := against_home(path.parent)):  # the file may not even be there
            raise StorageError(f"{why}; {ANOTHER_HOME}") from error
        raise CredentialsError(
            f"the environment file {path} must be readable, however it is not: {error.strerror};"
            " make it yours (chown) and chmod 600 it"
        ) from error
    except UnicodeDecodeError:
        # Not as its cause either: that carries the file's bytes.
        problem = InputError(f"the environment file {path} must be UTF-8 text, however it is not; write it anew")
    raise problem


def _require_private(found: os.stat_result, path: Path) -> None:
    if os.name != "posix":  # elsewhere the mode says nothing about others
        return
    if found.st_uid != os.geteuid():
        raise CredentialsError(
            f"the environment file {path} holds keys and must belong to the user that runs eraflow"
            f" (uid {os.geteuid()}), however it belongs to uid {found.st_uid}; chown it, then chmod 600 {path}"
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise CredentialsError(
            f"the environment file {path} holds keys and must be its owner's alone, however its mode is {mode:o};"
            f" run: chmod 600 {shlex.quote(str(path))}"
        )


def _pair(line: str, path: Path, number: int) -> tuple[str, str] | None:
    line = line.strip()
    if not line or line[0] in "#;":
        return None
    name, equals, rest = line.partition("=")
    value = _value(rest.strip())
    if not equals or value is None or "\0" in value or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise InputError(
            f"line {number} of the environment file {path} must be NAME=VALUE, the value plain or in quotes that are"
            " closed, however it is not; correct it"
        )
    return name, value


def _value(text: str) -> str | None:
    """The value as systemd takes it, on one line; None for a quote or backslash that leads nowhere.

    Only quotes that begin the value count as such: in `it's` and in most passwords they are plain characters.

    >>> _value("'two words'"), _value("it's # all of it")
    ('two words', "it's # all of it")
    """
    parts = []
    while found := QUOTED.match(text):
        single, double = found.groups()
        parts.append(single if single is not None else re.sub(r'\\(["\\`$])', r"\1", double))
        text = text[found.end() :]
    if text[:1] in ("'", '"') or not re.fullmatch(r"(?:[^\\]|\\.)*", text):
        return None
    return "".join([*parts, re.sub(r"\\(.)", r"\1", text)])
