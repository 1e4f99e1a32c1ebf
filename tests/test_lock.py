"""The locks: exact versions with hashes, complete on every system, and the only way in for all but torch's family.

Read `locked` first. Whether a hash is that of the archive its author published is not asked here, as that needs a
network: `make lock` writes them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
RUNTIME, DEV, BENCH = LOCKS = ("requirements.lock", "requirements-dev.lock", "benchmarks/requirements.lock")
# What fits one build of torch only; it comes with torch by torch's own pins.
FAMILY = re.compile(r"torch|torchvision|triton|(?:nvidia|cuda)-.+")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PIP = (sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--quiet")
SYSTEMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "aarch64"},
    "macos": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
    "windows": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
}
PYTHONS = ("3.11.2", "3.12.4", "3.13.1", "3.14.2")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One package of a lock."""

    version: str
    marker: Marker | None
    """Where it is installed; everywhere without one."""
    hashes: tuple[str, ...]

    def is_for(self, environment: Mapping[str, str]) -> bool:
        """Whether it is installed in an environment."""
        return self.marker is None or self.marker.evaluate(dict(environment))


def lines_of(name: str) -> list[str]:
    """A requirements file's lines with continued ones joined, without comments."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()) if line]


@cache
def locked(name: str) -> dict[str, Entry]:
    """The entries of a lock by name; whatever is neither an exact version nor a sha256 fails."""
    found: dict[str, Entry] = {}
    for line in lines_of(name):
        told, *hashes = re.split(r"\s+--hash=sha256:", line)
        requirement = Requirement(told)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        assert "*" not in specifier.version, line
        assert requirement.name not in found, f"{requirement.name} is there twice"
        found[requirement.name] = Entry(
            version=specifier.version, marker=requirement.marker, hashes=tuple(text.strip() for text in hashes)
        )
    return found


def constrained() -> dict[str, str]:
    """The versions of constraints.txt by name."""
    told = [re.fullmatch(r"(\S+)==(\S+)", line) for line in lines_of("constraints.txt")]
    assert None not in told
    return {canonicalize_name(match[1]): match[2] for match in told if match is not None}


def declared(name: str) -> list[Requirement]:
    """What a lock is made from."""
    told = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    if name == DEV:
        told += [line for extra in PROJECT["project"]["optional-dependencies"].values() for line in extra]
    if name == BENCH:
        told += lines_of("benchmarks/requirements.txt")
    return [Requirement(line) for line in told]


@pytest.mark.parametrize("name", LOCKS)
def test_each_entry_has_an_exact_version_and_a_sha256(name: str) -> None:
    entries = locked(name)
    assert len(entries) > 100
    for package, entry in entries.items():
        assert entry.hashes, package
        assert all(re.fullmatch(r"[0-9a-f]{64}", text) for text in entry.hashes), package
        assert len(set(entry.hashes)) == len(entry.hashes), package


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_address_no_index_and_no_path(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.findall(r"/|@|index-url|find-links|trusted", text) == []
    assert "make lock" in text.partition("==")[0]


@pytest.mark.parametrize("name", LOCKS)
def test_all_that_is_declared_is_in_the_lock_within_its_bounds(name: str) -> None:
    entries = locked(name)
    for requirement in declared(name):
        package = canonicalize_name(requirement.name)
        if not FAMILY.fullmatch(package):
            assert requirement.specifier.contains(entries[package].version), requirement
            assert entries[package].marker is None, requirement


def test_the_locks_hold_the_versions_of_constraints() -> None:
    versions = constrained()
    runtime, dev, bench = ({package: entry.version for package, entry in locked(name).items()} for name in LOCKS)
    assert {**dev, "torch": versions["torch"]} == versions
    assert runtime.items() <= dev.items()
    assert runtime.items() <= bench.items()
    assert {package: version for package, version in bench.items() if versions.get(package, version) != version} == {}


@pytest.mark.parametrize("name", LOCKS)
def test_torch_comes_by_an_exact_version_and_its_family_without_a_hash(name: str) -> None:
    assert [package for package in locked(name) if FAMILY.fullmatch(package)] == []
    (bound,) = (line for line in PROJECT["project"]["dependencies"] if line.startswith("torch"))
    assert Requirement(bound).specifier.contains(constrained()["torch"])
    unlocked = [line for line in declared(BENCH) if FAMILY.fullmatch(line.name) and line.name != "torch"]
    assert [[each.operator for each in line.specifier] for line in unlocked] == [["=="]]


@cache
def told_by(package: str) -> tuple[Requirement, ...]:
    """What an installed package asks for; nothing if it is not here."""
    try:
        return tuple(map(Requirement, metadata.requires(package) or []))
    except metadata.PackageNotFoundError:
        return ()


def needed(extras: frozenset[str], environment: Mapping[str, str]) -> set[str]:
    """All that eraflow with some extras stands on, as the packages that are installed here tell it.

    What another system needs and this one has not got is named too, though not what that stands on in turn.
    """
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [("eraflow", extras)]
    while waiting:
        package, wanted = waiting.pop()
        if (package, wanted) in seen:
            continue
        seen.add((package, wanted))
        for requirement in told_by(package):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in (*wanted, "")):
                name = canonicalize_name(requirement.name)
                found.add(name)
                waiting.append((name, frozenset(requirement.extras)))
    return {name for name in found if not FAMILY.fullmatch(name)}


def environment_of(system: str, python: str) -> dict[str, str]:
    """What markers are judged by on another machine."""
    told = {
        "python_version": python.rpartition(".")[0],
        "python_full_version": python,
        "implementation_version": python,
    }
    return {**{key: str(value) for key, value in default_environment().items()}, **SYSTEMS[system], **told}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(("name", "extras"), [(RUNTIME, frozenset[str]()), (DEV, frozenset({"dev"}))])
def test_a_lock_lacks_nothing_on_any_system(name: str, extras: frozenset[str], system: str, python: str) -> None:
    environment = environment_of(system, python)
    installs = {package for package, entry in locked(name).items() if entry.is_for(environment)}
    wanted = needed(extras, environment)
    assert {"prefect", "lightgbm" if extras else "numpy"} <= wanted
    assert wanted - installs == set()


def test_what_the_tests_run_with_is_what_the_lock_holds() -> None:
    entries = locked(DEV)
    environment = {key: str(value) for key, value in default_environment().items()}
    wanted = needed(frozenset({"dev"}), environment)
    assert {package: metadata.version(package) for package in wanted} == {
        package: entries[package].version for package in wanted
    }


# How make and the container install


def constraints_of(command: list[str]) -> list[str]:
    """The constraints that a pip command names, with their flags."""
    return [part for at, part in enumerate(command) if "--constraint" in (part, command[at - 1])]


def judge(command: list[str], lock: str) -> str:
    """Which of the three ways of installing a pip command goes; any other fails."""
    if "--require-hashes" in command:
        assert command[command.index("--requirement") + 1] == lock
        assert "--no-deps" in command, "what the lock lacks would come without a hash"
        assert command[command.index("--only-binary") + 1] == ":all:", "building would fetch tools without a hash"
        return "lock"
    if "--constraint" in command:
        options = {*constraints_of(command), "--quiet", "--no-cache-dir", "${PIP_FLAGS}"}
        named = [part for part in command[command.index("install") + 1 :] if part not in options]
        assert "constraints.txt" in options
        assert "torch" in named
        assert all(FAMILY.fullmatch(part) for part in named), "only torch's family may come without a hash"
        return "torch"
    assert {"--no-deps", "--no-build-isolation", "."} <= set(command)
    return "eraflow"


def installs_of(script: str) -> list[list[str]]:
    """The arguments of each `pip install` in a shell script, in order."""
    commands = re.split(r"&&|\n", script.replace("\\\n", " "))
    return [shlex.split(each) for each in commands if re.search(r"\bpip\b.*\binstall\b", each)]


def make(*arguments: str) -> str:
    """What make would do, without doing it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "--dry-run", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("target", "lock"),
    [("venv/.installed", RUNTIME), ("venv/.installed-dev", DEV), ("bench/.installed", BENCH)],
)
def test_make_installs_by_hash_and_again_when_the_lock_changes(target: str, lock: str, tmp_path: Path) -> None:
    folders = (f"VENV={tmp_path / 'venv'}", f"BENCH={tmp_path / 'bench'}")
    mark = str(tmp_path / target)
    commands = installs_of(make(*folders, mark))
    assert [judge(command, lock) for command in commands] == ["lock", "torch", "eraflow"]
    assert "--editable" in commands[-1]

    (tmp_path / target).parent.joinpath("bin").mkdir(parents=True)
    for made in ((tmp_path / target).parent / "bin" / "python", tmp_path / target):
        made.touch()
    assert installs_of(make(*folders, mark)) == []
    for changed in (lock, "constraints.txt", "pyproject.toml"):
        assert installs_of(make(*folders, f"--what-if={changed}", mark)) == commands


def test_the_container_installs_by_hash() -> None:
    commands = installs_of((ROOT / "deployments" / "Containerfile").read_text(encoding="utf-8"))
    assert [judge(command, RUNTIME) for command in commands] == ["lock", "torch", "eraflow"]


def tiny_wheel(folder: Path) -> Path:
    """A wheel of one empty module."""
    info = "tinything-1.0.dist-info"
    path = folder / "tinything-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tinything.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"tinything.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def test_pip_refuses_an_archive_with_another_hash(tmp_path: Path) -> None:
    right = hashlib.sha256(tiny_wheel(tmp_path).read_bytes()).hexdigest()
    lock = tmp_path / "tiny.lock"

    def installed(sha256: str) -> subprocess.CompletedProcess[str]:
        lock.write_text(f"tinything==1.0 \\\n    --hash=sha256:{sha256}\n", encoding="utf-8")
        way = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "--no-index", "--find-links", str(tmp_path))
        command = [*PIP, *way, "--target", str(tmp_path / "installed"), "--requirement", str(lock)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    refused = installed(hashlib.sha256(b"another").hexdigest())
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr
    assert not (tmp_path / "installed").exists()
    accepted = installed(right)
    assert accepted.returncode == 0, accepted.stderr
    assert (tmp_path / "installed" / "tinything.py").is_file()
