"""A home that is used for years: old rounds lose their data and keep their record; old models go, those in use stay."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from eraflow.at_work import at_work
from eraflow.budget import unlimited
from eraflow.comparison import last_model
from eraflow.errors import StorageError
from eraflow.ledger import Ledger
from eraflow.prune import KEPT_ROUNDS, prune
from eraflow.rehearsal import LocalTournament
from eraflow.request import make_request
from eraflow.steps import gather_files, open_round
from eraflow.store import PARTIAL, Store, exclusive, manifest_path, remove
from eraflow.trained import load
from tests.eraflow.made_up import model_of

NOW = datetime(2026, 11, 21, 13, tzinfo=UTC)
RECORD = ["files.json", "my-notes.txt", "report.html", "submission-3158bd2524bf.csv", "week.png"]
DATA = [
    "decoded",
    "live.parquet",
    "live.parquet.manifest.json",
    "live_benchmark_models.parquet",
    "live_benchmark_models.parquet.manifest.json",
    "predictions-simple-mlp-3158bd2524bf.csv",
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "home")


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store.ledger_path, "http://127.0.0.1:1")


def played(store: Store, number: int) -> Path:
    """A round's folder after the round."""
    folder = store.round_folder(number)
    for name in (*RECORD, *DATA):
        if name != "decoded":
            (folder / name).write_bytes(b"x")
    (folder / "decoded" / "3158bd2524bf3158-4c5b6a11").mkdir(parents=True)
    (folder / "decoded" / "3158bd2524bf3158-4c5b6a11" / "codes.npy").write_bytes(b"x")
    return folder


def model(store: Store, name: str, weeks_old: float, *, cut: bool = False, recipe: str = "simple-mlp") -> Path:
    """A trained model, made so long ago."""
    folder = store.model_folder(f"{recipe}-{name * 12}")
    model_of(folder, recipe=recipe)
    told = json.loads((folder / "model.json").read_text())
    told |= {"model_id": folder.name, "cut": cut, "made_at_utc": (NOW - timedelta(weeks=weeks_old)).isoformat()}
    (folder / "model.json").write_text(json.dumps(told))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_old_rounds_keep_their_record_and_lose_their_data(store: Store, ledger: Ledger) -> None:
    folders = [played(store, number) for number in (998, 999, 1000, 1001)]
    removed = prune(store, ledger, 8.0, NOW, keep_rounds=2)
    assert [names(folder) for folder in folders] == [RECORD] * 2 + [sorted(RECORD + DATA)] * 2
    assert sorted(removed) == [folder / name for folder in folders[:2] for name in DATA if not name.endswith(".json")]
    assert prune(store, ledger, 8.0, NOW, keep_rounds=2) == []


def test_a_round_begins_by_making_room(
    store: Store, ledger: Ledger, local: LocalTournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERAFLOW_API_URL", local.url)
    monkeypatch.setenv("NUMERAI_PUBLIC_ID", local.public_id)
    monkeypatch.setenv("NUMERAI_SECRET_KEY", local.secret_key)
    folders = [played(store, 1000 + i) for i in range(KEPT_ROUNDS + 2)]
    request = make_request(home=store.home, recipe="simple-mlp", submit=False)
    opened = open_round(request)
    gather_files(request, opened, unlimited(opened))
    assert [names(folder) == RECORD for folder in folders] == [True, True, *[False] * KEPT_ROUNDS]


def test_a_round_that_somebody_is_at_work_on_keeps_its_data(store: Store, ledger: Ledger) -> None:
    old, _ = played(store, 7), played(store, 8)
    with at_work(store, 7):
        assert prune(store, ledger, 8.0, NOW, keep_rounds=1) == []
    assert names(old) == sorted(RECORD + DATA)
    assert prune(store, ledger, 8.0, NOW, keep_rounds=1)


def test_old_models_go_and_the_newest_whole_one_of_each_recipe_stays(store: Store, ledger: Ledger) -> None:
    kept = [model(store, "a", 7.9), model(store, "b", 50.0, recipe="era-pearson")]
    gone = [model(store, "c", 8.1), model(store, "d", 60.0, recipe="era-pearson"), model(store, "e", 9.0, cut=True)]
    assert sorted(prune(store, ledger, 8.0, NOW)) == sorted(gone)
    assert names(store.models_folder) == sorted(folder.name for folder in kept)


def test_a_model_that_predicted_for_one_of_the_last_rounds_stays(store: Store, ledger: Ledger) -> None:
    used, unused, _ = model(store, "a", 30.0), model(store, "b", 30.0), model(store, "c", 1.0)
    for number, folder in ((1, unused), (2, used)):
        ledger.begin(
            round_number=number, slot="main", recipe="simple-mlp", source="older-model", sha256="", late=False,
            model_id=folder.name,
        )  # fmt: skip
    assert prune(store, ledger, 8.0, NOW, keep_rounds=1) == [unused]


def test_this_weeks_model_is_still_compared_with_the_last_one_after_a_year_away(store: Store, ledger: Ledger) -> None:
    old = model(store, "a", 52.0)
    prune(store, ledger, 8.0, NOW)
    assert last_model(load(model(store, "b", 0.0))) == load(old)


def test_a_training_that_was_never_finished_is_as_old_as_its_last_checkpoint(store: Store, ledger: Ledger) -> None:
    going_on, given_up = store.model_folder(f"era-pearson-{'a' * 12}"), store.model_folder(f"era-pearson-{'b' * 12}")
    for folder, weeks in ((going_on, 7), (given_up, 9)):
        (folder / "holdout-0").mkdir()
        (folder / "holdout-0" / "checkpoint.safetensors").write_bytes(b"x")
        moment_s = (NOW - timedelta(weeks=weeks)).timestamp()
        for path in (folder / "holdout-0" / "checkpoint.safetensors", folder / "holdout-0", folder):
            os.utime(path, (moment_s, moment_s))
    assert prune(store, ledger, 8.0, NOW) == [given_up]


def test_a_model_that_somebody_is_at_work_on_stays(store: Store, ledger: Ledger) -> None:
    old, _ = model(store, "a", 30.0), model(store, "b", 1.0)
    with exclusive(old):
        assert prune(store, ledger, 8.0, NOW) == []
    assert prune(store, ledger, 8.0, NOW) == [old]


def test_what_the_user_put_there_stays(store: Store, ledger: Ledger) -> None:
    _, copy = model(store, "a", 1.0), model(store, "b", 99.0)
    copy = copy.rename(copy.with_name(f"{copy.name}.bak"))
    (store.models_folder / "my-folder").mkdir()
    (store.home / "rounds" / "my-folder").mkdir(parents=True)
    assert prune(store, ledger, 0.0, NOW + timedelta(weeks=500), keep_rounds=0) == []
    assert copy.is_dir()


def test_what_cannot_be_removed_costs_nothing(
    store: Store, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    played(store, 1), model(store, "a", 30.0), model(store, "b", 1.0)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("eraflow.store.os.replace", refuse)
        assert prune(store, ledger, 8.0, NOW, keep_rounds=0) == []
    ledger.path.write_bytes(b"no database at all" * 100)
    assert {path.parent.name for path in prune(store, ledger, 8.0, NOW, keep_rounds=0)} == {"1"}


def test_what_is_removed_is_gone_at_once_or_swept_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, outside = tmp_path / "decoded", tmp_path / "outside"
    for path in (folder, outside):
        path.mkdir()
        (path / "codes.npy").write_bytes(b"x")
    (tmp_path / "link").symlink_to(outside)
    remove(tmp_path / "link")
    assert names(outside) == ["codes.npy"]

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("eraflow.store.shutil.rmtree", fail)
        with pytest.raises(StorageError, match=r"decoded cannot be removed: Input/output error"):
            remove(folder)
    assert [name.startswith(PARTIAL) for name in names(tmp_path)] == [True, False]
    assert not manifest_path(folder).exists()
