"""Whether the folder that everything is kept in can be used."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from eraflow.errors import StorageError
from eraflow.store import Store, against_home

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other accounts can look into, as pytest's own is its owner's alone."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may write everywhere, so it is somebody else meanwhile."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if before == 0:
            os.seteuid(before)


def test_a_home_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    home = tmp_path / "a" / "home"
    assert against_home(home) is None
    assert not home.exists(), "asking makes nothing"
    assert Store.open(home).home == home
    assert home.stat().st_mode & 0o777 == 0o700


def test_a_file_is_no_home(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert against_home(tmp_path / "file") == f"the folder {tmp_path}/file cannot be used: Not a directory"
    with pytest.raises(StorageError, match="file cannot be used: File exists; set ERAFLOW_HOME to one that can"):
        Store.open(tmp_path / "file")


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the mode says nothing")
def test_a_folder_that_may_not_be_written_to_is_no_home(folder: Path) -> None:
    folder.chmod(0o555)
    with as_nobody():
        assert against_home(folder) == f"the folder {folder} cannot be used: Permission denied"
        with pytest.raises(StorageError, match="Permission denied; give another"):
            Store.open(folder, "give another")
        with pytest.raises(StorageError, match="Permission denied; give another"):
            Store.open(folder / "home", "give another")


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the mode says nothing")
@pytest.mark.parametrize("mode", [0o333, 0o666, 0o000])
def test_a_folder_that_may_not_be_read_or_entered_is_no_home(folder: Path, mode: int) -> None:
    home = folder / "home"
    home.mkdir()
    home.chmod(0o777)
    with as_nobody():
        assert against_home(home) is None
    home.chmod(mode)
    with as_nobody():
        assert against_home(home) == f"the folder {home} cannot be used: Permission denied"


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the mode says nothing")
def test_a_home_that_cannot_be_looked_for_is_not_taken_for_one_that_is_not_there_yet(folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o700)
    (folder / "closed").chmod(0o700 if os.geteuid() == 0 else 0o000)
    home = folder / "closed" / "home"
    with as_nobody():
        assert against_home(home) == f"the folder {home} cannot be used: Permission denied"
    (folder / "closed").chmod(0o700)


@pytest.mark.skipif(os.name != "posix", reason="elsewhere no folder is asked for its file system")
def test_a_file_system_that_is_read_only_is_told_as_such(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.chmod(0o555)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    with as_nobody():
        assert against_home(folder) == f"the folder {folder} cannot be used: {os.strerror(errno.EROFS)}"
    folder.chmod(0o755)
    assert against_home(folder) is None, "whether it can be written to is for the system to say"


def test_a_kernel_that_cannot_be_asked_for_effective_ids_refuses_no_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose filter of system calls answers all that it does not know with EPERM."""
    access = os.access

    def filtered(path: Path, mode: int, *, effective_ids: bool = False) -> bool:
        return not effective_ids and access(path, mode)

    monkeypatch.setattr(os, "access", filtered)
    monkeypatch.setattr(os, "supports_effective_ids", {filtered})
    assert against_home(tmp_path) is None
