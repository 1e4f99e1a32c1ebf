"""The round's files on this disk, verified: downloaded from the tournament, or taken from a folder.

A file is written under a fresh name, checked (length, every row group decoded), and moved into place with its
manifest. Training and validation files are asked whether they changed and kept if not; live data are always fetched.

A file that is kept may have been damaged on this disk meanwhile. Those that are read as they are have the sha256 of
their manifest or are fetched again. `train.parquet` and `validation.parquet` have gigabytes, and a round that finds
them decoded does not read them: they are hashed where they are decoded, and where that goes wrong `fetch_damaged`
fetches them again.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from eraflow.errors import DataError, InputError, RefusedError, StorageError
from eraflow.parquet import verify_parquet
from eraflow.progress import Progress, silent
from eraflow.rounds import Round
from eraflow.store import (
    Manifest,
    Store,
    discard,
    exclusive,
    manifest_path,
    read_manifest,
    remove,
    replacing,
    sha256_of,
    utc_text,
    write_manifest,
)
from eraflow.tournament import Tournament

logger = logging.getLogger("eraflow")

# A page of a proxy, or bytes flipped on the way, may be whole and yet wrong: fetched again before giving up.
DAMAGED_TRIES = 3
IN_USE_S = 24 * 3600.0
FOLDER_HOLDS = "features.json, train.parquet, validation.parquet and live.parquet"
# What a recipe with `data.residual_of` needs besides, of the rows that have a target.
META_MODEL_FILE = "meta_model.parquet"
BENCHMARK_FILES = ("train_benchmark_models.parquet", "validation_benchmark_models.parquet")
# Another run may be at it for so long; one that was stopped holds its lock for ever [s].
LIVE_LOCK_S, LOCK_S = 120.0, 3600.0
CHANGED_HERE = "%s or its manifest has changed on this disk since it was fetched; it is fetched again"


@dataclass(frozen=True, kw_only=True)
class File:
    """One verified file."""

    path: Path
    name: str
    sha256: str
    size_bytes: int
    rows: int | None
    changed: bool
    """False where it was kept from an earlier fetch."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """What one round needs."""

    round: int | None
    features: File
    train: File
    validation: File
    live: File
    decoded: Path
    """Folder for the decoded forms of train and validation."""
    decoded_live: Path
    benchmarks: tuple[File, ...] = ()
    """Those of `BENCHMARK_FILES`, where they were asked for and could be had."""
    no_benchmarks: str = ""
    """Why they could not be had, where they were asked for."""


def fetch_files(
    tournament: Tournament,
    store: Store,
    opened: Round,
    version: str,
    progress: Progress = silent,
    *,
    benchmarks: bool = False,
) -> Files:
    """Bring the files of `version` for the round `opened`; live first, because a round can't do without it.

    With `benchmarks` also `BENCHMARK_FILES`: where the tournament does not have one, or it stays damaged, that is told
    in `no_benchmarks`, so that it costs only the recipes that need it.

    Raises `DataError` if a file stays damaged, `TransientError` or `RefusedError` if it can't be had,
    `StorageError` if there is no room for it.
    """
    data, here = store.data_folder(version), store.round_folder(opened.number)

    def fetched(folder: Path, name: str, check: Callable[[Path], int | None], hashed: bool = True) -> File:
        return _fetch(
            tournament, f"{version}/{name}", folder / name, opened, check,
            always=False, hashed=hashed, progress=progress,
        )  # fmt: skip

    live = fetch_live(tournament, store, opened, version, progress)
    found = Files(
        round=opened.number,
        features=fetched(data, "features.json", check_features),
        train=fetched(data, "train.parquet", verify_parquet, hashed=False),
        validation=fetched(data, "validation.parquet", verify_parquet, hashed=False),
        live=live,
        decoded=data / "decoded",
        decoded_live=here / "decoded",
    )
    _drop_decoded(found.decoded, keep={found.train.sha256, found.validation.sha256})
    if not benchmarks:
        return found
    return _with_benchmarks(found, lambda name: fetched(data, name, verify_parquet))


def fetch_damaged(tournament: Tournament, files: Files, progress: Progress = silent) -> Files:
    """`files`, those fetched again whose bytes are not of their sha256 any more; the same where all are.

    `files` must be of `fetch_files`. Raises as that does.
    """

    def whole(file: File) -> File:
        return _whole(tournament, file, files.round, progress)

    return replace(
        files,
        features=whole(files.features),
        train=whole(files.train),
        validation=whole(files.validation),
        live=whole(files.live),
        benchmarks=tuple(whole(file) for file in files.benchmarks),
    )


def fetch_references(
    tournament: Tournament, store: Store, opened: Round, version: str, progress: Progress = silent
) -> list[File]:
    """Bring what predictions are compared with, beside the data of `version`: the meta model and the benchmark models.

    Raises as `fetch_files` does.
    """
    data = store.data_folder(version)
    return [
        _fetch(tournament, f"{version}/{name}", data / name, opened, verify_parquet, always=False, progress=progress)
        for name in (META_MODEL_FILE, *BENCHMARK_FILES)
    ]


def fetch_live(tournament: Tournament, store: Store, opened: Round, version: str, progress: Progress = silent) -> File:
    """Bring the live file of the round `opened`, always anew. Raises as `fetch_files` does."""
    return fetch_for_round(tournament, store, opened, version, "live.parquet", progress)


def fetch_for_round(
    tournament: Tournament, store: Store, opened: Round, version: str, name: str, progress: Progress = silent
) -> File:
    """Bring a parquet file that is new in each round, always anew. Raises as `fetch_files` does."""
    path = store.round_folder(opened.number) / name
    return _fetch(tournament, f"{version}/{path.name}", path, opened, verify_parquet, always=True, progress=progress)


def adopt_files(folder: Path, store: Store, round_number: int | None, *, benchmarks: bool = False) -> Files:
    """Use the files in `folder` (v5.3 layout) where they are; nothing is written there.

    `benchmarks` is as of `fetch_files`.

    Raises `InputError` if the folder does not exist, `DataError` naming a file that is missing or of
    another kind, `StorageError` naming one that can't be read.
    """
    if not folder.is_dir():
        raise InputError(f"--data-from must name a folder, however {folder} is not one")
    found = {name: _adopted(folder, name) for name in ("train", "validation", "live")}
    features = folder / "features.json"
    if not features.is_file():
        raise DataError(f"{features} is missing; the folder must hold {FOLDER_HOLDS}")
    check_features(features)
    decoded = store.data_folder("local") / "decoded"
    files = Files(
        round=round_number,
        features=_file(features),
        train=found["train"],
        validation=found["validation"],
        live=found["live"],
        decoded=decoded,
        decoded_live=decoded,
    )
    return _with_benchmarks(files, lambda name: _adopted_benchmark(folder / name)) if benchmarks else files


def check_features(path: Path) -> None:
    """Raises `DataError` if the file at `path` is not a features.json."""
    from eraflow.dataset import read_features_json

    read_features_json(path)


def _with_benchmarks(files: Files, bring: Callable[[str], File]) -> Files:
    try:
        return replace(files, benchmarks=tuple(bring(name) for name in BENCHMARK_FILES))
    except (RefusedError, DataError) as error:
        logger.warning("%s", error.message)
        return replace(files, no_benchmarks=error.message)


def _adopted_benchmark(path: Path) -> File:
    if not path.is_file():
        raise DataError(f"{path} is missing; a recipe with data.residual_of needs {' and '.join(BENCHMARK_FILES)}")
    verify_parquet(path)
    return _file(path)


def _drop_decoded(folder: Path, keep: set[str]) -> None:
    """Remove the decoded forms of files that have been replaced: each week's validation file is gigabytes.

    Those of the last day stay, because another run may be training on them.
    """
    now = time.time()
    kept = {sha256[:16] for sha256 in keep}
    for path in folder.glob("*-*"):
        ours = re.fullmatch(r"[0-9a-f]{16}-[0-9a-f]{8}", path.name)
        if ours and path.name[:16] not in kept and now - path.stat().st_mtime > IN_USE_S:
            try:
                remove(path)
            except StorageError as error:  # a run that needs the room is told so where it needs it
                logger.warning("%s", error.message)


def _adopted(folder: Path, stem: str) -> File:
    for other in sorted(folder.glob(f"{stem}.*")):
        if other.suffix.lower() in (".csv", ".zip", ".gz", ".arrow", ".feather"):
            raise DataError(
                f"{other} cannot be used: the data must be {stem}.parquet in the tournament's v5.3 layout (columns id,"
                f" era, feature_... as whole numbers 0 to 4, target...); convert it, or remove {other.name}"
            )
    path = folder / f"{stem}.parquet"
    if not path.is_file():
        raise DataError(f"{path} is missing; the folder must hold {FOLDER_HOLDS}")
    return _file(path)


def _file(path: Path) -> File:
    try:
        size, sha256 = path.stat().st_size, sha256_of(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}; let this account read it") from error
    return File(path=path, name=path.name, sha256=sha256, size_bytes=size, rows=None, changed=False)


def _fetch(
    tournament: Tournament,
    name: str,
    path: Path,
    opened: Round,
    check: Callable[[Path], int | None],
    *,
    always: bool,
    hashed: bool = True,
    progress: Progress,
) -> File:
    with _alone_with(path, LIVE_LOCK_S if always else LOCK_S):
        known = None if always else read_manifest(path)
        if known is not None and _unchanged(tournament, known, opened):
            if not hashed or _is_of(path, known.sha256):
                return _of_manifest(path, known, changed=False)
            logger.warning(CHANGED_HERE, path)
        return _download(tournament, name, path, opened.number, check, progress)


def _whole(tournament: Tournament, file: File, number: int | None, progress: Progress) -> File:
    with _alone_with(file.path, LOCK_S):
        if _is_of(file.path, file.sha256):
            return file
        known = read_manifest(file.path)
        if known is not None and _is_of(file.path, known.sha256):
            return _of_manifest(file.path, known, changed=True)  # another run, or another recipe's turn, has fetched it
        logger.warning(CHANGED_HERE, file.path)
        check = check_features if file.path.suffix == ".json" else verify_parquet
        return _download(tournament, file.name, file.path, number, check, progress)


def _is_of(path: Path, sha256: str) -> bool:
    try:
        return sha256_of(path) == sha256
    except OSError:  # gone, or a disk that cannot read it any more
        return False


@contextmanager
def _alone_with(path: Path, limit_s: float) -> Iterator[None]:
    """Two that fetch at once do no harm, a round that waits for ever does."""
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(path, timeout_s=limit_s))
        except StorageError as error:
            if error.code != "in-use":
                raise
            logger.warning("%s; it is fetched all the same", error.message)
        yield


def _unchanged(tournament: Tournament, known: Manifest, opened: Round) -> bool:
    fresh = tournament.probe(known.name, opened.number)
    if fresh is None or not (fresh.etag or fresh.last_modified):
        return False
    return (fresh.size_bytes, fresh.etag, fresh.last_modified) == (known.size_bytes, known.etag, known.last_modified)


def _download(
    tournament: Tournament,
    name: str,
    path: Path,
    number: int | None,
    check: Callable[[Path], int | None],
    progress: Progress,
) -> File:
    for tries_left in reversed(range(DAMAGED_TRIES)):
        try:
            with replacing(path) as partial:
                got = tournament.download(name, partial, number, progress)
                rows = _named(check, partial, path)
                # A manifest must never describe other bytes than those beside it, whenever we are killed.
                discard(manifest_path(path))
            break
        except DataError as error:
            if not tries_left:
                raise
            logger.warning("%s; it is fetched again", error.message)
    manifest = Manifest(
        name=name,
        round=number,
        size_bytes=got.freshness.size_bytes,
        sha256=got.sha256,
        rows=rows,
        etag=got.freshness.etag,
        last_modified=got.freshness.last_modified,
        fetched_at_utc=utc_text(tournament.now_utc()),
    )
    write_manifest(path, manifest)
    return _of_manifest(path, manifest, changed=True)


def _named(check: Callable[[Path], int | None], partial: Path, path: Path) -> int | None:
    try:
        return check(partial)
    except DataError as error:
        raise DataError(error.message.replace(str(partial), str(path)).replace(partial.name, path.name)) from error


def _of_manifest(path: Path, manifest: Manifest, *, changed: bool) -> File:
    return File(
        path=path,
        name=manifest.name,
        sha256=manifest.sha256,
        size_bytes=manifest.size_bytes,
        rows=manifest.rows,
        changed=changed,
    )
