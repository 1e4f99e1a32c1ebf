"""The tournament's `features.json`: which features make up which set. It reads no data and knows no model."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eraflow.errors import DataError, InputError

# The tournament's has 1 MB; the whole of it is read into memory.
LARGEST_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class FeatureSets:
    """What one `features.json` says."""

    source: Path
    """The file it was read from."""
    sets: Mapping[str, tuple[str, ...]]
    """Name of the set -> names of its features, in the file's order."""
    targets: tuple[str, ...]
    """Names of the targets; empty where the file lists none."""

    def columns(self, name: str) -> tuple[str, ...]:
        """The features of the set `name`. Raises `InputError` with the known names if there is no such set."""
        if name in self.sets:
            return self.sets[name]
        close = difflib.get_close_matches(name, self.sets, n=1)
        raise InputError(
            f"a feature set must be one of {', '.join(sorted(self.sets))}, however {name!r} was given"
            f"{f'; did you mean {close[0]}?' if close else ''} ({self.source})"
        )


def read_features_json(path: Path) -> FeatureSets:
    """The sets and targets in the file at `path`.

    Raises `DataError` if it is not a JSON object with `feature_sets`, a table of lists of feature names that are
    not empty and name nothing twice, and, where it is there, `targets`, a list of target names.
    """
    try:
        if (size_bytes := path.stat().st_size) > LARGEST_BYTES:
            raise _refused(path, f"must have at most {LARGEST_BYTES:,} bytes, however it has {size_bytes:,}")
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; put the tournament's features.json there") from error
    except (OSError, ValueError, RecursionError) as error:  # ValueError covers bad JSON and bad UTF-8
        raise _refused(path, f"must be JSON, however it cannot be read: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("feature_sets"), dict) or not found["feature_sets"]:
        raise _refused(path, "must be a JSON object with a table `feature_sets` of at least one set")
    sets = {name: _names(path, f"set {name}", names, "feature") for name, names in found["feature_sets"].items()}
    targets = found.get("targets", [])
    return FeatureSets(source=path, sets=sets, targets=_names(path, "targets", targets, "target") if targets else ())


def _names(path: Path, what: str, names: Any, prefix: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not names:
        raise _refused(path, f"{what} must be a list with at least one name, however it is {str(names)[:60]}")
    seen: set[str] = set()
    for place, name in enumerate(names):
        if not isinstance(name, str) or not name.startswith(prefix):
            raise _refused(path, f"{what} must hold names in {prefix}..., however entry {place} is {name!r}")
        if name in seen:
            raise _refused(path, f"{what} must name nothing twice, however entry {place} is {name!r} again")
        seen.add(name)
    return tuple(names)


def _refused(path: Path, text: str) -> DataError:
    return DataError(f"{path}: {text}; fetch the tournament's features.json again")
