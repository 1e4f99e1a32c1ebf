"""What the round's files hold (rows, eras, columns), and what changed since the last round that was looked at.

What was found is kept beside the round's files, in `rounds/<number>/files.json`. Only the column of eras is read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from eraflow.feature_sets import read_features_json
from eraflow.files import File, Files
from eraflow.parquet import ParquetSource
from eraflow.store import Store, write_json

KEPT = "files.json"


@dataclass(frozen=True, kw_only=True)
class Held:
    """What one file holds."""

    name: str
    rows: int | None
    """None for what has no rows, as features.json."""
    eras: int | None
    newest_era: str | None
    columns: int
    """Of features.json: the features that it names."""
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """The files of a round."""

    round: int | None
    held: tuple[Held, ...]

    def find(self, name: str) -> Held | None:
        return next((held for held in self.held if held.name == name), None)


def take(files: Files, store: Store) -> tuple[Inventory, Inventory | None]:
    """What `files` hold, and what those of the last round before held; kept for the rounds to come.

    A file with the bytes of an earlier one is not read again. Raises `DataError` for one that cannot be read.
    """
    last = _last(store, files.round) if files.round is not None else None
    known = {held.sha256: held for held in (last.held if last else ())}
    of_round = (files.live, files.validation, files.train, files.features)
    held = tuple(known.get(file.sha256) or _look_into(file) for file in of_round)
    found = Inventory(round=files.round, held=held)
    if files.round is not None:
        write_json(store.round_folder(files.round) / KEPT, asdict(found))
    return found, last


def change_text(now: Held, last: Held | None) -> str:
    """What changed in a file since `last`.

    >>> from dataclasses import replace
    >>> held = Held(name="a", rows=5, eras=2, newest_era="0002", columns=7, size_bytes=9, sha256="1")
    >>> change_text(replace(held, rows=8, eras=3, sha256="2"), held)
    '+3 rows, +1 era'
    """
    if last is None:
        return "first seen"
    if last.sha256 == now.sha256:
        return "unchanged"
    changes = [
        _difference_text(now.rows, last.rows, "row"),
        _difference_text(now.eras, last.eras, "era"),
        _difference_text(now.columns, last.columns, "column" if now.rows is not None else "feature"),
    ]
    return ", ".join(filter(None, changes)) or "other values in as many rows"


def _difference_text(now: int | None, last: int | None, noun: str) -> str:
    if now is None or last is None or now == last:
        return ""
    return f"{now - last:+,} {noun}{'' if abs(now - last) == 1 else 's'}"


def _last(store: Store, number: int) -> Inventory | None:
    """The newest one that was kept of a round before this."""
    folders = [path for path in (store.home / "rounds").glob("*") if path.name.isdecimal() and int(path.name) < number]
    for folder in sorted(folders, key=lambda path: int(path.name), reverse=True):
        try:
            told = json.loads((folder / KEPT).read_bytes())
            return Inventory(round=told["round"], held=tuple(Held(**held) for held in told["held"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # none was kept, or by another version
    return None


def _look_into(file: File) -> Held:
    rows, eras, newest, columns = _of_features(file) if file.path.suffix == ".json" else _of_parquet(file)
    return Held(
        name=file.name,
        rows=rows,
        eras=eras,
        newest_era=newest,
        columns=columns,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
    )


def _of_features(file: File) -> tuple[None, None, None, int]:
    return None, None, None, len(set().union(*read_features_json(file.path).sets.values()))


def _of_parquet(file: File) -> tuple[int, int | None, str | None, int]:
    with ParquetSource(file.path) as source:
        if "era" not in source.names:
            return source.rows, None, None, len(source.names)
        eras: set[str] = set()
        for group in range(len(source.group_rows)):  # one after the other, so that none is held longer than it takes
            eras.update(map(str, source.read(group, ["era"])["era"].unique().to_pylist()))
        return source.rows, len(eras), _newest(sorted(eras)), len(source.names)


def _newest(eras: Sequence[str]) -> str | None:
    """By number where they are numbers, whatever their zeros; the live file may have a sign in its place."""
    return max(eras, key=lambda era: (int(era) if era.isdecimal() else -1, era), default=None)
