"""The door to the disk: whole or not at all, one process at a time, and names that stay inside."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eraflow.errors import InputError, StorageError
from eraflow.store import (
    ABANDONED_S,
    PARTIAL,
    Manifest,
    Store,
    default_home,
    manifest_path,
    read_manifest,
    replacing,
    replacing_folder,
    require_room,
    safe_name,
    sha256_of,
    utc_text,
    write_atomically,
    write_json,
    write_manifest,
)
from tests.eraflow.processes import child
from tests.eraflow.syncing import syncs_and_moves


def partials(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.startswith(PARTIAL)]


# Atomic writes


def test_a_file_takes_its_place_whole(tmp_path: Path) -> None:
    path = tmp_path / "live.parquet"
    path.write_bytes(b"old")
    with replacing(path) as partial:
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert (partial.parent, partial.name[: len(PARTIAL)]) == (tmp_path, PARTIAL)
    assert path.read_bytes() == b"new"
    assert partials(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError("lost"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "live.parquet"
    path.write_bytes(b"old")

    def fail_halfway() -> None:
        with replacing(path) as partial:
            partial.write_bytes(b"ne")
            raise error

    with pytest.raises(type(error)):
        fail_halfway()
    assert [p.name for p in tmp_path.iterdir()] == ["live.parquet"]
    assert path.read_bytes() == b"old"


def test_a_full_disk_is_a_storage_error_that_leaves_nothing(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    def fill_the_disk() -> None:
        with replacing(tmp_path / "live.parquet") as partial:
            partial.symlink_to("/dev/full")
            partial.write_bytes(b"x")

    with pytest.raises(StorageError, match=r"live\.parquet cannot be written: No space left on device; nothing was"):
        fill_the_disk()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("door", ["fsync", "replace"])
@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_is_a_storage_error_that_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: str, kind: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(kind, os.strerror(kind))

    path = tmp_path / "live.parquet"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, door, refuse)
    with pytest.raises(StorageError, match=f"cannot be written: {os.strerror(kind)}; nothing was changed"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert partials(tmp_path) == []


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be written: No such file or directory"):
        write_atomically(tmp_path / "none" / "file", b"x")


def test_the_bytes_are_synced_before_they_take_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = syncs_and_moves(monkeypatch)
    write_atomically(tmp_path / "file", b"x")
    assert done == ["fsync", "replace", "fsync"]


def test_a_process_killed_while_writing_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "live.parquet"
    path.write_bytes(b"old")
    code = """
import sys, pathlib, time
from eraflow.store import replacing
with replacing(pathlib.Path(sys.argv[1])) as partial:
    partial.write_bytes(b"half of the n")
    print("ready", flush=True)
    time.sleep(60)
"""
    with child(code, path) as writer:
        writer.send_signal(signal.SIGKILL)
    assert path.read_bytes() == b"old"
    left = [p for p in tmp_path.iterdir() if p != path]
    assert [p.name.startswith(PARTIAL) for p in left] == [True]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_folder_takes_the_place_of_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "decoded"
    path.mkdir()
    (path / "old.npy").write_bytes(b"old")
    with replacing_folder(path) as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "new.npy").write_bytes(b"new")
        assert [p.name for p in path.iterdir()] == ["old.npy"]
    assert [p.relative_to(path).as_posix() for p in sorted(path.rglob("*"))] == ["deep", "deep/new.npy"]
    assert partials(tmp_path) == []


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "decoded"
    path.mkdir()
    (path / "old.npy").write_bytes(b"old")

    def fail_halfway() -> None:
        with replacing_folder(path) as partial:
            (partial / "new.npy").write_bytes(b"ne")
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        fail_halfway()
    assert [p.name for p in tmp_path.iterdir()] == ["decoded"]
    assert (path / "old.npy").read_bytes() == b"old"


def test_a_folder_that_cannot_be_moved_leaves_the_old_one_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "decoded"
    path.mkdir()
    (path / "old.npy").write_bytes(b"old")
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if (source / "new.npy").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(StorageError, match="nothing was changed"), replacing_folder(path) as partial:
        (partial / "new.npy").write_bytes(b"new")
    assert (path / "old.npy").read_bytes() == b"old"
    assert partials(tmp_path) == []


def test_json_is_sorted_and_ends_its_last_line(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [2]})
    text = (tmp_path / "a.json").read_text()
    assert text.endswith("}\n")
    assert list(json.loads(text)) == ["a", "b"]


def test_json_that_no_reader_understands_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


# Room


def test_a_disk_without_room_is_refused_with_both_figures(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        require_room(tmp_path, 1 << 60, "train.parquet")
    assert caught.value.code == "no-room"
    assert caught.value.message.startswith("train.parquet needs 1,152,921,504,606,846,976 bytes, however only ")
    assert f"are free on the disk of {tmp_path}; make room or set ERAFLOW_HOME" in caught.value.message


def test_the_last_byte_of_room_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    require_room(tmp_path, 1000, "train.parquet")
    with pytest.raises(StorageError, match="needs 1,001 bytes, however only 1,000 are free"):
        require_room(tmp_path, 1001, "train.parquet")


# Manifests


def stored(tmp_path: Path) -> tuple[Path, Manifest]:
    path = tmp_path / "train.parquet"
    path.write_bytes(b"data")
    manifest = Manifest(
        name="v5.3/train.parquet", round=7, size_bytes=4, sha256=sha256_of(path), rows=3, etag=None,
        last_modified=None, fetched_at_utc="2026-08-22T12:04:08+00:00",
    )  # fmt: skip
    write_manifest(path, manifest)
    return path, manifest


def test_a_manifest_lies_beside_its_file_and_reads_back(tmp_path: Path) -> None:
    path, manifest = stored(tmp_path)
    assert manifest_path(path).name == "train.parquet.manifest.json"
    assert read_manifest(path) == manifest


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[]", b"null", b'{"name": "x"}', b'{"name":1,"round":1,"size_bytes":4,"surplus":1}'],
)
def test_a_manifest_that_cannot_be_understood_counts_as_none(tmp_path: Path, content: bytes) -> None:
    path, _ = stored(tmp_path)
    manifest_path(path).write_bytes(content)
    assert read_manifest(path) is None


def test_a_manifest_that_does_not_match_its_file_counts_as_none(tmp_path: Path) -> None:
    path, _ = stored(tmp_path)
    path.write_bytes(b"dat")
    assert read_manifest(path) is None
    path.unlink()
    assert read_manifest(path) is None


def test_a_file_without_manifest_has_none(tmp_path: Path) -> None:
    path, _ = stored(tmp_path)
    manifest_path(path).unlink()
    assert read_manifest(path) is None


# Where everything lies


def test_a_home_is_made_for_its_owner_only(tmp_path: Path) -> None:
    found = Store.open(tmp_path / "deep" / "home")
    assert stat.S_IMODE(found.home.stat().st_mode) == 0o700
    assert found.ledger_path == found.home / "ledger.sqlite"
    assert found.round_folder(7) == found.home / "rounds" / "7"
    assert found.data_folder("v5.3").is_dir()
    assert found.model_folder("abc").is_dir()


def test_a_home_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # it may be a folder that others use too
    assert stat.S_IMODE(Store.open(tmp_path).home.stat().st_mode) == 0o755


def test_two_that_make_a_home_at_the_same_instant_both_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both_found_none, mkdir = threading.Barrier(2, timeout=30), os.mkdir

    def together(*arguments: object, **named: object) -> None:
        both_found_none.wait()
        mkdir(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "mkdir", together)
    with ThreadPoolExecutor(2) as threads:
        opened = list(threads.map(Store.open, [tmp_path / "home"] * 2))
    assert [found.home for found in opened] == [tmp_path / "home"] * 2


def test_a_relative_home_does_not_move_with_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Store.open(Path("home")).home
    monkeypatch.chdir("/")
    assert home == (tmp_path / "home").resolve()


def test_a_home_that_cannot_be_used_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file cannot be used: File exists; set ERAFLOW_HOME to one that can"):
        Store.open(tmp_path / "file")
    with pytest.raises(StorageError, match="cannot be used: Not a directory"):
        Store.open(tmp_path / "file" / "below")


def test_a_folder_below_the_home_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "rounds").touch()
    with pytest.raises(StorageError, match="cannot be made"):
        Store.open(tmp_path).round_folder(7)


def test_eraflow_home_moves_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_home({"ERAFLOW_HOME": "/some/where"}) == Path("/some/where")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_home({"ERAFLOW_HOME": "~/eraflow"}) == Path("/home/somebody/eraflow")
    assert default_home({"ERAFLOW_HOME": ""}).name == default_home({}).name == "eraflow"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a\\b", "a\n", "a b", "C:", "é", "x" * 101, "a\0"]
)
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"a name must be of letters, digits, '\.', '_' and '-', however .* was given"):
        safe_name(name)


@given(st.text(max_size=110) | st.from_regex(r"[A-Za-z0-9._-]+", fullmatch=True))
def test_an_accepted_name_is_one_folder_right_below(name: str) -> None:
    try:
        accepted = safe_name(name)
    except InputError:
        return
    below = Path("/root/of/all") / accepted
    assert accepted == name
    assert Path(os.path.normpath(below)) == below
    assert below.parent == Path("/root/of/all")
    assert not accepted.startswith(PARTIAL)


# Sweeping


def aged(path: Path, seconds: float) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def test_only_old_partial_files_are_swept(tmp_path: Path) -> None:
    home = Store.open(tmp_path)
    deep = home.round_folder(7)
    old_file = deep / f"{PARTIAL}1-live.parquet"
    old_file.write_bytes(b"half")
    old_folder = deep / f"{PARTIAL}2-decoded"
    old_folder.mkdir()
    (old_folder / "a.npy").write_bytes(b"half")
    kept = [deep / f"{PARTIAL}3-fresh", deep / "live.parquet", home.ledger_path]
    for path in kept:
        path.write_bytes(b"whole")
    for path in (old_file, old_folder, *kept[1:]):
        aged(path, ABANDONED_S + 60)
    aged(kept[0], ABANDONED_S - 60)
    assert sorted(home.sweep()) == [old_file, old_folder]
    assert sorted(p for p in home.home.rglob("*") if p.is_file()) == sorted(kept)
    assert home.sweep() == []


def test_sweeping_follows_no_link(tmp_path: Path) -> None:
    home = Store.open(tmp_path / "home")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    link = home.home / f"{PARTIAL}link"
    link.symlink_to(outside)
    os.utime(link, (0, 0), follow_symlinks=False)
    assert home.sweep() == [link]
    assert (outside / "precious").exists()


def test_a_partial_file_that_vanishes_meanwhile_does_not_stop_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Store.open(tmp_path)
    for name in ("1", "2"):
        aged_file = home.home / f"{PARTIAL}{name}"
        aged_file.touch()
        aged(aged_file, ABANDONED_S + 60)
    real = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        if path.name == f"{PARTIAL}1":
            path.unlink(missing_ok=True)
        return real(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    assert [p.name for p in home.sweep()] == [f"{PARTIAL}2"]


def test_times_are_written_in_utc_with_seconds() -> None:
    tokyo = timezone(timedelta(hours=9))
    moment = datetime(2026, 8, 22, 21, 4, 8, 999, tzinfo=tokyo)
    assert utc_text(moment) == utc_text(moment.astimezone(UTC)) == "2026-08-22T12:04:08+00:00"
