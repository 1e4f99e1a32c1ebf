"""Whether the folder that everything is kept in can be used."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
