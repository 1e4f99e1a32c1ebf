"""The only door to the disk: atomic writes, locks between processes, manifests, and where everything lies.

    ERAFLOW_HOME/                 owner only (mode 700)
    ├── ledger.sqlite             attempts, receipts, stage times
    ├── rounds/<number>/          live.parquet, its decoded form, predictions, submitted files, report
    ├── data/<version>/           features.json, train.parquet, validation.parquet, and decoded/ beside them
    ├── models/<id>/              one trained recipe: weights, history, recipe, hashes
    ├── prefect/                  Prefect's own state
    └── rehearsal/                the home of `eraflow rehearse`: a whole ERAFLOW_HOME of its own

A file that is there is whole: it is written under a fresh name beside its place, synced, and moved. What a
killed process leaves behind begins with `.partial-`, is never read, and is swept by `Store.sweep`. What goes in time
is for `eraflow.prune` to say.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from eraflow.errors import InputError, StorageError

PARTIAL = ".partial-"
STATE_FILE = "up.json"
"""What `eraflow up` says of itself while it runs."""
ANOTHER_HOME = "set ERAFLOW_HOME to one that can"
BLOCK_BYTES = 1 << 20
# A partial file that nobody has touched for this long belongs to a process that is gone.
ABANDONED_S = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is known of one stored file; lies beside it as `<name>.manifest.json`."""

    name: str
    """The tournament's name of the file, as `v5.3/train.parquet`."""
    round: int | None
    """The round it was fetched for."""
    size_bytes: int
    sha256: str
    """Ours: the tournament publishes none, so this detects later damage only."""
    rows: int | None
    """Rows of a parquet file, all row groups decoded."""
    etag: str | None
    last_modified: str | None
    fetched_at_utc: str


def against_home(home: Path) -> str | None:
    """Why nothing can be kept in the folder `home`; None if it can, or if it is not there yet. Makes nothing."""
    number = _number_against(home)
    return f"the folder {home} cannot be used: {os.strerror(number)}" if number else None


@dataclass(frozen=True)
class Store:
    """The folders below one home."""

    home: Path

    @classmethod
    def open(cls, home: Path, instead: str = ANOTHER_HOME) -> Store:
        """The store at `home`, created owner-only if it is not there.

        A folder that was there keeps its mode: it may be one that others use too. Raises `StorageError` if it can't be
        made, read or written to; `instead` says what to do then.
        """
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"the folder {home} cannot be used: {error.strerror}; {instead}") from error
        if why := against_home(home):
            raise StorageError(f"{why}; {instead}")
        return cls(home.resolve())

    @property
    def ledger_path(self) -> Path:
        return self.home / "ledger.sqlite"

    def round_folder(self, number: int) -> Path:
        return made_folder(self.home / "rounds" / str(int(number)))

    def data_folder(self, version: str) -> Path:
        return made_folder(self.home / "data" / safe_name(version))

    @property
    def models_folder(self) -> Path:
        return self.home / "models"

    def model_folder(self, model_id: str) -> Path:
        return made_folder(self.home / "models" / safe_name(model_id))

    def sweep(self) -> list[Path]:
        """Remove what killed processes left half-written more than a day ago; returns what was removed."""
        swept = []
        for folder, inner, files in os.walk(self.home):
            for name in [name for name in (*inner, *files) if name.startswith(PARTIAL)]:
                with suppress(OSError):  # another process finishes or sweeps its own meanwhile
                    if _swept(Path(folder, name)):
                        swept.append(Path(folder, name))
            inner[:] = [name for name in inner if not name.startswith(PARTIAL)]
        return swept


def default_home(environ: Mapping[str, str]) -> Path:
    """`ERAFLOW_HOME`, or the platform's user data folder for eraflow."""
    if given := environ.get("ERAFLOW_HOME"):
        return Path(given).expanduser()
    from platformdirs import user_data_path

    return user_data_path("eraflow", appauthor=False)


def safe_name(name: str) -> str:
    """`name` if it can be one folder's name, so that no text from outside walks through the disk.

    Raises `InputError` otherwise.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise InputError(f"a name must be of letters, digits, '.', '_' and '-', however {name!r} was given")
    return name


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A fresh path beside `path` to write one file to; on a clean exit it is synced and takes `path`'s place.

    Raises `StorageError` if the disk is full or read-only; then nothing of it stays.
    """
    partial = path.with_name(f"{PARTIAL}{secrets.token_hex(6)}-{path.name}")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}; nothing was changed") from error
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """The same for a folder: a fresh one to fill, moved to `path` on a clean exit; what was there goes."""
    partial = path.with_name(f"{PARTIAL}{secrets.token_hex(6)}-{path.name}")
    old = path.with_name(f"{PARTIAL}{secrets.token_hex(6)}-old-{path.name}")
    try:
        partial.mkdir(parents=True)
        yield partial
        for inner in (partial, *partial.rglob("*")):
            _sync_folder(inner) if inner.is_dir() else _sync(inner)
        _swap(partial, path, old)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}; nothing was changed") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_atomically(path: Path, data: bytes) -> None:
    """`data` becomes the file at `path`, whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def json_bytes(value: Any) -> bytes:
    """The one JSON text of `value`."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """The JSON text of `value` becomes the file at `path`."""
    write_atomically(path, json_bytes(value))


def remove(path: Path) -> None:
    """Remove a file or a folder so that nobody ever finds half of it; what a kill leaves of it is swept.

    Raises `StorageError` if it can't be removed.
    """
    partial = path.with_name(f"{PARTIAL}{secrets.token_hex(6)}-{path.name}")
    try:
        os.replace(path, partial)
        shutil.rmtree(partial) if partial.is_dir() and not partial.is_symlink() else partial.unlink()
    except OSError as error:
        raise StorageError(f"{path} cannot be removed: {error.strerror or error}") from error


def discard(path: Path) -> None:
    """Remove one file unless it has gone already: a manifest, a lock, a checkpoint, which nobody needs to be there.

    Raises `StorageError` if it can't be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path} cannot be removed: {error.strerror or error}") from error


def made_folder(folder: Path) -> Path:
    """`folder`, made if it is not there. Raises `StorageError` if it can't be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the folder {folder} cannot be made: {error.strerror}") from error
    return folder


@contextmanager
def exclusive(path: Path, timeout_s: float | None = None) -> Iterator[None]:
    """Hold the lock of `path` among all processes of this home; a killed holder's lock is free at once.

    Raises `StorageError` if another process still holds it after `timeout_s` [s]; waits for ever by default.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=-1 if timeout_s is None else timeout_s)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise StorageError(
            f"{path} has been in use by another process for {timeout_s:.0f} s; try again later", code="in-use"
        ) from error
    except OSError as error:
        raise StorageError(f"{path} cannot be locked: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_room(folder: Path, needed_bytes: int, what: str) -> None:
    """Raises `StorageError` with both figures if the disk of `folder` has less than `needed_bytes` [bytes] free."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise StorageError(
            f"{what} needs {needed_bytes:,} bytes, however only {free_bytes:,} are free on the disk of {folder};"
            " make room or set ERAFLOW_HOME to another disk",
            code="no-room",
        )


def manifest_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.manifest.json")


def write_manifest(path: Path, manifest: Manifest) -> None:
    write_json(manifest_path(path), dataclasses.asdict(manifest))


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of the file at `path` if both are there, readable and agree on the size; otherwise None.

    None means "fetch it again", which is always safe.
    """
    try:
        manifest = Manifest(**json.loads(manifest_path(path).read_bytes()))
        return manifest if path.stat().st_size == manifest.size_bytes else None
    except (OSError, ValueError, TypeError):
        return None


def utc_text(moment: datetime, timespec: str = "seconds") -> str:
    """ISO 8601 in UTC: `2026-08-22T12:04:08+00:00`. Raises `ValueError` for a time without a zone."""
    if moment.tzinfo is None:
        raise ValueError(f"a time must carry a zone, however {moment} has none")
    return moment.astimezone(UTC).isoformat(timespec=timespec)


def _number_against(home: Path) -> int:
    """The system's number of what stands against the folder `home`; 0 for nothing, or if it is not there yet."""
    try:
        os.lstat(home)
    except PermissionError:
        return errno.EACCES
    except OSError:
        return 0
    if not os.path.isdir(home):
        return errno.ENOTDIR
    # To ask for the effective ones takes a call to the kernel that old containers refuse, whatever the answer.
    differ = os.access in os.supports_effective_ids and (os.geteuid(), os.getegid()) != (os.getuid(), os.getgid())
    if os.access(home, os.R_OK | os.W_OK | os.X_OK, effective_ids=differ):
        return 0
    return errno.EROFS if _is_read_only(home) else errno.EACCES


def _is_read_only(folder: Path) -> bool:
    with suppress(OSError):
        return hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    return False


def _swept(path: Path) -> bool:
    if time.time() - path.lstat().st_mtime <= ABANDONED_S:
        return False
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return True


def _swap(fresh: Path, path: Path, old: Path) -> None:
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(fresh, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # Windows cannot open a folder
        _sync(folder)
