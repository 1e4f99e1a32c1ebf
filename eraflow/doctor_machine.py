"""What the doctor finds on this machine: packages, device, memory, disk, ledger, stored files, the Prefect server.

What a data version needs is reckoned from the files that are stored, and before the first download from the sizes of
v5.3 in September 2026.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

from eraflow.errors import EraflowError, InputError
from eraflow.feature_sets import read_features_json
from eraflow.finding import Case, Finding, fail, ok, warn
from eraflow.ledger import Ledger
from eraflow.status import UP_FILE
from eraflow.store import Manifest, Store, manifest_path, read_manifest, sha256_of
from eraflow.tournament import API_URL
from eraflow.transport import get
from eraflow.verdict import counted_text

MANIFEST = ".manifest.json"
# v5.3: features by set; rows and bytes of the two large files; targets; bytes of a row's id and era when decoded.
FEATURES: Mapping[str, int] = {"small": 42, "medium": 780, "all": 3555}
ROWS: Mapping[str, int] = {"train.parquet": 2_746_268, "validation.parquet": 4_128_060}
SIZE_BYTES: Mapping[str, int] = {"train.parquet": 2_800_000_000, "validation.parquet": 4_000_000_000}
TARGETS, KEY_BYTES = 41, 24
# Live data, models, reports and databases of a year [bytes].
REST_BYTES = 5_000_000_000
SHOWN = 3


def packages(_: Case) -> Iterator[Finding]:
    """Other distributions are called `tasks` and `flows` too, and overwrite ours without a word."""
    owners = packages_distributions()
    others = {name: sorted(set(owners.get(name, [])) - {"eraflow"}) for name in ("tasks", "flows")}
    for name, found in others.items():
        if found:
            do = f"uninstall eraflow and {found[0]}, and install eraflow again in an environment of its own"
            yield fail("packages", f"the package {name} is also installed by {', '.join(found)}", do)
    if not any(others.values()):
        yield ok("packages", "tasks and flows are eraflow's own")


def device(_: Case) -> Iterator[Finding]:
    """What recipes are trained on."""
    try:
        import torch

        from eraflow.training import pick_device
    except (ImportError, OSError) as error:
        yield fail("device", f"torch cannot be imported: {str(error)[:200]}", "install eraflow again, with its torch")
        return
    chosen = str(pick_device("auto"))
    name = f", {torch.cuda.get_device_name()}" if chosen == "cuda" else ""
    threads = f", {counted_text(torch.get_num_threads(), 'thread')}" if chosen == "cpu" else ""
    yield ok("device", f"torch {torch.__version__} uses {chosen}{name}{threads}")


def memory(case: Case) -> Iterator[Finding]:
    """The matrices that are trained on fit into memory."""
    has_bytes = memory_bytes()
    for name, columns in _feature_sets(case).items():
        needs_bytes = sum(_rows(case).values()) * columns
        text = f"feature set {name}: {_gib(needs_bytes)} GiB of int8, this machine has {_gib(has_bytes)} GiB"
        if needs_bytes > 0.8 * has_bytes:
            do = "choose a recipe with a smaller feature set, or a machine with more: training would read from the disk"
            yield warn("memory", text, do)
        else:
            yield ok("memory", text)


def disk(case: Case) -> Iterator[Finding]:
    """There is room for what is still to come: downloads, their decoded forms, and next week's validation file."""
    folder = next(path for path in (case.home, *case.home.parents) if path.exists())
    free_bytes = shutil.disk_usage(folder).free
    needs_bytes = needed_bytes(case)
    text = f"{_gib(free_bytes)} GiB free at {folder}, {_gib(needs_bytes)} GiB needed"
    if free_bytes < needs_bytes:
        yield fail("disk", text, "make room, or set ERAFLOW_HOME to another disk")
    else:
        yield ok("disk", text)


def needed_bytes(case: Case) -> int:
    """What is still to be written for this configuration [bytes]."""
    rows, sizes = _rows(case), _sizes(case)
    columns = sum(_feature_sets(case).values())
    decoded = {name: rows[name] * (columns + 4 * TARGETS + KEY_BYTES) for name in rows}
    # A newer validation file and its decoded form stand beside the old ones for a day.
    weekly = sizes["validation.parquet"] + decoded["validation.parquet"]
    total = sum(sizes.values()) + sum(decoded.values()) + weekly + REST_BYTES
    there = sum(path.stat().st_size for path in _data_folder(case).rglob("*") if path.is_file())
    return max(total - there, weekly)


def ledger(case: Case) -> Iterator[Finding]:
    """It can be read, and SQLite finds nothing damaged."""
    path = Store(case.home).ledger_path
    if not path.is_file():
        yield ok("ledger", f"{path} is not there yet; the first round makes it")
        return
    found = Ledger(path, (case.environ.get("ERAFLOW_API_URL") or API_URL).rstrip("/"))
    damage = found.check()
    if damage:
        do = "move it away: the tournament is asked what was submitted before anything is sent"
        yield fail("ledger", f"{path} is damaged: {damage[:200]}", do)
    else:
        newest = next((f"the newest round is {one.number}" for one in found.rounds(1)), "no round was seen yet")
        yield ok("ledger", f"{path} can be read; {newest}")


def stored_files(case: Case) -> Iterator[Finding]:
    """Each file is what its manifest says; with `deep` every byte, and every decoded value."""
    paths = [path.with_name(path.name.removesuffix(MANIFEST)) for path in _found(case, f"*{MANIFEST}")]
    known = {path: manifest for path in paths if (manifest := read_manifest(path))}
    wrong = [path for path in paths if path not in known]
    if wrong:
        do = "nothing: the next round fetches them again"
        yield warn("stored files", f"{_named(wrong)} must agree with the manifest, however {_not(wrong)}", do)
    else:
        yield ok("stored files", f"{counted_text(len(known), 'file')} agree with their manifests")
    if case.deep:
        damaged = [path for path, manifest in known.items() if sha256_of(path) != manifest.sha256]
        if damaged:
            do = f"delete {', '.join(map(str, damaged))}; the next round fetches them again"
            yield fail(
                "stored files", f"{_named(damaged)} must have the recorded sha256, however {_not(damaged)}", do, 5
            )
        else:
            yield ok("stored files", f"{counted_text(len(known), 'file')} of the recorded sha256")
        yield from _decoded(case, {path: m for path, m in known.items() if path not in damaged})


def _decoded(case: Case, known: Mapping[Path, Manifest]) -> Iterator[Finding]:
    """Every value of every decoded matrix against the file that it was decoded from."""
    by_sha256 = {manifest.sha256: path for path, manifest in known.items()}
    wrong: list[Path] = []
    compared = 0
    for header in _found(case, "header.json"):
        try:
            source = by_sha256.get(json.loads(header.read_bytes())["sha256"])
            compared += source is not None
            if not _is_same(header.parent, source):
                wrong.append(header.parent)
        except (EraflowError, OSError, ValueError, KeyError, TypeError):
            wrong.append(header.parent)
    if wrong:
        do = f"delete {', '.join(map(str, wrong))}; the next round makes them again"
        yield fail("stored files", f"{_named(wrong)} must hold what was decoded, however {_not(wrong)}", do, 5)
    else:
        yield ok("stored files", f"{counted_text(compared, 'decoded file')} compared with its file, value by value")


def _is_same(folder: Path, source: Path | None) -> bool:
    import numpy as np

    from eraflow.columns import feature_blocks, target_blocks
    from eraflow.parquet import ParquetSource
    from eraflow.stored import open_stored

    stored = open_stored(folder)
    if source is None:
        return True  # its file has been replaced meanwhile
    with ParquetSource(source) as parquet:
        return all(
            np.array_equal(stored.codes_NF[rows, places], block.T)
            for rows, places, block in feature_blocks(parquet, stored.stored_features)
        ) and all(
            np.array_equal(stored.target_NT[rows, places], block.T, equal_nan=True)
            for rows, places, block in target_blocks(parquet, stored.targets)
        )


def prefect_server(case: Case) -> Iterator[Finding]:
    """It answers and is of our version. A round goes on without one."""
    try:
        ours = version("prefect")
    except PackageNotFoundError:
        yield fail("Prefect", "it is not installed", "install eraflow again")
        return
    url = case.environ.get("PREFECT_API_URL") or _url_of_up(case.home)
    if not url:
        yield warn("Prefect", f"{ours} is installed, no server runs for this home", "`eraflow up` starts one")
        return
    try:
        theirs = _version_of_server(url, case.environ)
    except EraflowError as error:
        do = "`eraflow up` starts one, or correct PREFECT_API_URL; rounds go on with a temporary one"
        yield warn("Prefect", f"the server at {url}: {error.message}", do)
        return
    if theirs != ours:
        yield warn("Prefect", f"the server at {url} is of version {theirs}, this is {ours}", "restart it with this one")
    else:
        yield ok("Prefect", f"the server at {url} answers, version {theirs}")


def memory_bytes() -> int:
    """What this process may use: the machine's memory, or less where a container has a limit."""
    has_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            has_bytes = min(has_bytes, int(text))
    return has_bytes


def _recipes(case: Case) -> list[Any]:
    from eraflow.request import DEFAULT_RECIPE, named_recipe

    found = []
    for name in dict.fromkeys(case.configuration.slots.values()) or {DEFAULT_RECIPE: None}:
        with suppress(InputError):  # the configuration's own line says so
            found.append(named_recipe(case.configuration.variants, name))
    return found


def _feature_sets(case: Case) -> dict[str, int]:
    """Each feature set of the configured recipes -> its features."""
    known = dict(FEATURES)
    path = _data_folder(case) / "features.json"
    if path.is_file():
        known = {name: len(columns) for name, columns in read_features_json(path).sets.items()}
    widest = max(known.values())
    return {recipe.data.feature_set: known.get(recipe.data.feature_set, widest) for recipe in _recipes(case)}


def _rows(case: Case) -> dict[str, int]:
    return {name: (m.rows if (m := _manifest(case, name)) and m.rows else rows) for name, rows in ROWS.items()}


def _sizes(case: Case) -> dict[str, int]:
    return {name: m.size_bytes if (m := _manifest(case, name)) else size for name, size in SIZE_BYTES.items()}


def _manifest(case: Case, name: str) -> Manifest | None:
    path = _data_folder(case) / name
    return read_manifest(path) if manifest_path(path).is_file() else None


def _data_folder(case: Case) -> Path:
    return case.home / "data" / case.configuration.data_version


def _found(case: Case, pattern: str) -> list[Path]:
    return sorted(path for folder in ("data", "rounds") for path in (case.home / folder).rglob(pattern))


def _url_of_up(home: Path) -> str | None:
    try:
        return str(json.loads((home / UP_FILE).read_bytes())["api_url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _version_of_server(api_url: str, environ: Mapping[str, str]) -> str:
    password = environ.get("PREFECT_API_AUTH_STRING") or environ.get("PREFECT_SERVER_API_AUTH_STRING")
    headers = {"Authorization": f"Basic {base64.b64encode(password.encode()).decode()}"} if password else {}
    with get(f"{api_url.rstrip('/')}/admin/version", "it", headers) as body:
        if body.status in (401, 403):
            raise EraflowError("it asks for a password; set PREFECT_API_AUTH_STRING")
        if body.status != 200:
            raise EraflowError(f"it answered {body.status}")
        return b"".join(body.chunks()).decode("utf-8", "replace").strip().strip('"')[:40]


def _named(paths: list[Path]) -> str:
    more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
    return ", ".join(map(str, paths[:SHOWN])) + more


def _not(paths: list[Path]) -> str:
    return "it does not" if len(paths) == 1 else "they do not"


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.1f}"
