"""Whether a run is at work on a round, as other processes see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from eraflow import at_work as module
from eraflow.at_work import at_work, at_work_s
from eraflow.errors import StorageError
from eraflow.store import Store


def test_a_run_is_at_work_until_it_ends(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    assert at_work_s(store, 1401) is None
    with at_work(store, 1401):
        assert at_work_s(store, 1401) is not None
        assert at_work_s(store, 1402) is None
    assert at_work_s(store, 1401) is None


def test_a_lock_that_nobody_holds_counts_for_nothing_even_where_it_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path)
    with at_work(store, 1401):
        (lock,) = (tmp_path / "rounds" / "1401").glob(f".{module.AT_WORK}-*.lock")
    lock.touch()

    def refuse(path: Path) -> None:
        raise StorageError(f"{path} cannot be removed")

    monkeypatch.setattr(module, "discard", refuse)
    assert at_work_s(store, 1401) is None
    assert lock.exists()
