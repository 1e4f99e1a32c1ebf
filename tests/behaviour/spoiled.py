"""Data files that are not what they should be: each way is a function of a good file and a draw.

Read `SPOILED`. Nothing here is what a network does to bytes on their way (`rehearsal.faults`): these files are served
whole, as somebody at the other end has made them.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Table = Any
LIVE, TRAIN, VALIDATION, FEATURES = "live.parquet", "train.parquet", "validation.parquet", "features.json"
PARQUET = (LIVE, TRAIN, VALIDATION)
FOOTER_BYTES = 8
# As many rows as no round has ever had, and still soon written.
ABSURD = 40


@dataclass(frozen=True, kw_only=True)
class Spoiled:
    """One way."""

    files: tuple[str, ...]
    """Of which one is spoiled."""
    make: Callable[[Path, Path, random.Random], None]
    other_ids: bool = False
    """Only the tournament's validator can tell."""
    is_plausible: bool = False
    """Nobody can tell, so that a round with it may be right in another way."""


def spoil(how: str, good: Path, bad: Path, draw: random.Random) -> None:
    """Write to `bad` what the file `good` becomes in that way."""
    SPOILED[how].make(good, bad, draw)


def _truncated(good: Path, bad: Path, draw: random.Random) -> None:
    data = good.read_bytes()
    bad.write_bytes(data[: draw.randrange(len(data))])


def _flipped(good: Path, bad: Path, draw: random.Random) -> None:
    """Bits inside the columns: before the footer, whose length stands in front of the last four bytes."""
    data = bytearray(good.read_bytes())
    end = len(data) - FOOTER_BYTES - int.from_bytes(data[-8:-4], "little")
    for _ in range(20):
        data[draw.randrange(4, end)] ^= 1 << draw.randrange(8)
    bad.write_bytes(data)


def _wrong_footer(good: Path, bad: Path, draw: random.Random) -> None:
    data = bytearray(good.read_bytes())
    data[-draw.randrange(1, 200)] ^= 0xFF
    bad.write_bytes(data)


def _of(change: Callable[[Table, random.Random], Table]) -> Callable[[Path, Path, random.Random], None]:
    def make(good: Path, bad: Path, draw: random.Random) -> None:
        pq.write_table(change(pq.read_table(good), draw), bad)

    return make


def _feature(table: Table, draw: random.Random) -> str:
    return str(draw.choice([name for name in table.column_names if name.startswith("feature_")]))


def _with(table: Table, name: str, values: Any) -> Table:
    return table.set_column(table.column_names.index(name), name, values)


def _other_schema(table: Table, draw: random.Random) -> Table:
    name = _feature(table, draw)
    changes: list[Callable[[], Table]] = [
        lambda: table.drop_columns([name]),
        lambda: _with(table, name, table[name].cast(pa.string())),
        lambda: table.rename_columns(["week" if one == "era" else one for one in table.column_names]),
        lambda: table.drop_columns(["id"]),
    ]
    return draw.choice(changes)()


def _twice(table: Table, draw: random.Random) -> Table:
    return pa.concat_tables([table, table.slice(draw.randrange(table.num_rows), 1)])


def _other_ids(table: Table, draw: random.Random) -> Table:
    letters = "0123456789abcdef"
    ids = ["n" + "".join(draw.choice(letters) for _ in range(15)) for _ in range(table.num_rows)]
    return _with(table, "id", pa.array(ids, table["id"].type))


def _null_feature(table: Table, draw: random.Random) -> Table:
    for name in [one for one in table.column_names if one.startswith("feature_")]:
        table = _with(table, name, pa.nulls(table.num_rows, table[name].type))
    return table


def _infinite(table: Table, draw: random.Random) -> Table:
    name = _feature(table, draw)
    return _with(table, name, pa.array([math.inf] * table.num_rows, pa.float32()))


def _infinite_target(table: Table, draw: random.Random) -> Table:
    name = draw.choice([one for one in table.column_names if one.startswith("target")])
    values = table[name].to_pylist()
    values[draw.randrange(len(values))] = draw.choice((math.inf, -math.inf, 1e30))
    return _with(table, name, pa.array(values, table[name].type))


def _absurd(table: Table, draw: random.Random) -> Table:
    if draw.random() < 0.5:
        return table.slice(0, draw.choice((0, 1, 3)))
    return _other_ids(pa.concat_tables([table] * ABSURD), draw)


def _other_features(good: Path, bad: Path, draw: random.Random) -> None:
    told = json.loads(good.read_bytes())
    for name, features in told["feature_sets"].items():
        kept = [one for one in features if draw.random() > 0.2] or features[:1]
        told["feature_sets"][name] = kept
    bad.write_text(json.dumps(told))


def _unknown_feature(good: Path, bad: Path, draw: random.Random) -> None:
    told = json.loads(good.read_bytes())
    for features in told["feature_sets"].values():
        features[draw.randrange(len(features))] = "feature_of_another_version"
    bad.write_text(json.dumps(told))


SPOILED = {
    "a file cut short": Spoiled(files=(*PARQUET, FEATURES), make=_truncated),
    "flipped bits inside a column": Spoiled(files=PARQUET, make=_flipped),
    "a wrong footer": Spoiled(files=PARQUET, make=_wrong_footer),
    "another schema": Spoiled(files=PARQUET, make=_of(_other_schema)),
    "duplicate ids": Spoiled(files=(LIVE,), make=_of(_twice)),
    "ids of another round": Spoiled(files=(LIVE,), make=_of(_other_ids), other_ids=True),
    "features that are all null": Spoiled(files=PARQUET, make=_of(_null_feature)),
    "an infinite feature": Spoiled(files=PARQUET, make=_of(_infinite)),
    "an infinite target": Spoiled(files=(TRAIN, VALIDATION), make=_of(_infinite_target)),
    "absurd row counts": Spoiled(files=PARQUET, make=_of(_absurd), is_plausible=True, other_ids=True),
    "fewer features": Spoiled(files=(FEATURES,), make=_other_features, is_plausible=True),
    "a feature that there is not": Spoiled(files=(FEATURES,), make=_unknown_feature),
}
