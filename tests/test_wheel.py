"""The wheel: every file of ours is in it and no other, and installed far from the checkout it works."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from eraflow import __version__, recipes

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("eraflow", "tasks", "flows", "deployments")
DATA = (
    "flows/logging.yml",
    "deployments/weekly.toml",
    "deployments/eraflow.service",
    "deployments/eraflow-watch.service",
    "deployments/eraflow-watch.timer",
    "deployments/crontab",
    "deployments/Containerfile",
    "deployments/README.md",
    "eraflow/rehearsal/openings.csv",
)


def ran(*command: str, cwd: Path, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that the checkout keeps no litter and lends the build none."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    for room in (*ROOMS, "tests"):
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    ran(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", cwd=source)
    (found,) = (source / "dist").iterdir()
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel is installed into; what it depends on is that of this environment."""
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index")
    ran(*pip, "--target", str(target), str(wheel), cwd=target)
    return target


def test_the_wheel_holds_every_file_of_ours_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    python = [path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert sorted(names) == sorted([*python, *DATA])


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    assert wheel.name == f"eraflow-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        info = f"eraflow-{__version__}.dist-info"
        entry_points = configparser.ConfigParser()
        entry_points.read_string(archive.read(f"{info}/entry_points.txt").decode())
        metadata = archive.read(f"{info}/METADATA").decode()
        assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert dict(entry_points["console_scripts"]) == {"eraflow": "flows.command:main"}
    assert "License-Expression: MIT" in metadata
    assert "Requires-Python: >=3.11" in metadata


def test_the_installed_wheel_works_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(installed), "ERAFLOW_HOME": str(tmp_path / "home")}
    packages = ", ".join((*ROOMS, "eraflow.rehearsal"))
    code = f"import {packages}\nprint(*(m.__file__ for m in ({packages})), sep='\\n')"
    found = ran(sys.executable, "-c", code, cwd=tmp_path, **environment).splitlines()
    assert len(found) == len(ROOMS) + 1
    assert all(Path(path).is_relative_to(installed) for path in found)
    listed = ran(sys.executable, "-m", "flows", "recipes", cwd=tmp_path, **environment)
    assert [line.split()[0] for line in listed.splitlines()] == list(recipes.RECIPES)
    assert ran(sys.executable, "-m", "flows", "--version", cwd=tmp_path, **environment) == f"eraflow {__version__}\n"


def test_the_console_script_is_installed(installed: Path, tmp_path: Path) -> None:
    script = installed / "bin" / "eraflow"
    shown = ran(sys.executable, str(script), "--version", cwd=tmp_path, PYTHONPATH=str(installed))
    assert shown == f"eraflow {__version__}\n"


def test_data_files_are_found_beside_the_installed_code(installed: Path, tmp_path: Path) -> None:
    code = f"""
import os
from importlib.resources import files
from pathlib import Path
from flows import prefect_home
prefect_home.prepare(os.environ, Path.cwd())
print(Path(os.environ["PREFECT_LOGGING_CONFIG_PATH"]).is_file())
for path in {DATA!r}:
    print(files(path.rpartition("/")[0].replace("/", ".")).joinpath(path.rpartition("/")[2]).is_file())
"""
    found = ran(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert found.split() == ["True"] * (1 + len(DATA))
