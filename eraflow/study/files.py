"""The files of a study: a folder that the user names, or what the last weekly round left on this disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from eraflow.errors import DataError, InputError
from eraflow.files import File
from eraflow.parquet import verify_parquet
from eraflow.store import Store, read_manifest, sha256_of

PARTS = ("train.parquet", "validation.parquet")
FEATURES = "features.json"


@dataclass(frozen=True, kw_only=True)
class StudyFiles:
    """What a study reads."""

    data: tuple[File, ...]
    """In order of time."""
    features: Path
    decoded: Path
    """Where the decoded forms lie."""


def files_of(folder: Path | None, store: Store) -> StudyFiles:
    """The files in `folder`, or without one those of the newest data version that a round has downloaded.

    Nothing is downloaded and nothing written beside them. Raises `InputError` if there are none, `DataError` naming
    the file that is missing or damaged.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(f"--data-from must name a folder, however {folder} is not one")
    here = folder or next(_downloaded(store), None)
    if here is None:
        raise InputError(
            f"a study needs data, however no round has downloaded any to {store.home / 'data'}; name a folder with"
            " --data-from, or run `eraflow weekly --no-submit` first"
        )
    if not (here / FEATURES).is_file():
        raise DataError(f"{here} must hold {FEATURES}, however it does not; put the tournament's there")
    decoded = store.home / "adopted" / "decoded" if folder else here / "decoded"
    return StudyFiles(data=tuple(_file(here / name) for name in PARTS), features=here / FEATURES, decoded=decoded)


def _file(path: Path) -> File:
    if not path.is_file():
        raise DataError(f"{path} must be there, however it is not; put the tournament's {path.name} there")
    manifest = read_manifest(path)
    sha256 = manifest.sha256 if manifest else sha256_of(path)
    rows = manifest.rows if manifest else verify_parquet(path)
    return File(path=path, name=path.name, sha256=sha256, size_bytes=path.stat().st_size, rows=rows, changed=False)


def _downloaded(store: Store) -> Iterator[Path]:
    """Folders of data versions with all parts, the newest first."""
    found = [path for path in (store.home / "data").glob("*") if all((path / part).is_file() for part in PARTS)]
    return iter(sorted(found, key=lambda path: (path / PARTS[-1]).stat().st_mtime, reverse=True))
