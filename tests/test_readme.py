"""The README says what is there: its commands, its files and its figures' command exist."""

from __future__ import annotations

import argparse
import re

import pytest

from eraflow.recipes import RECIPES
from flows.command import _parser
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def parsers() -> dict[str, argparse.ArgumentParser]:
    actions = _parser()._subparsers
    assert actions is not None
    found = next(action for action in actions._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def commands() -> list[str]:
    return sorted(parsers())


def test_every_command_is_documented_and_every_documented_command_exists() -> None:
    assert sorted(set(re.findall(r"^\| `eraflow (\w+)", README, re.M))) == commands()


def test_every_command_has_a_description_and_help_for_each_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for name in commands():
        with pytest.raises(SystemExit) as ended:
            _parser().parse_args([name, "--help"])
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert re.search(r"\n\n\w.+\n", shown)
        for action in parsers()[name]._actions:
            for given in action.option_strings or [str(action.metavar)]:
                assert re.search(rf"^  .*{given}\b.*(\n  )? +\w", shown, re.M), f"{name} {given} is not listed"
                assert action.help, f"{name} {given} has no help"


def test_every_file_of_the_tree_exists() -> None:
    tree = README.split("## Where things are")[1].split("```")[1]
    folder = ROOT
    for line in tree.strip().splitlines():
        name, _, rest = line.strip().partition(" ")
        if not line.startswith(" "):
            folder = ROOT / name
            assert folder.is_dir(), name
            continue
        for part in [name, *re.findall(r"\b\w+\.py\b", rest)]:
            assert (folder / part).exists(), f"{folder.name}/{part}"


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_every_benchmark_that_is_named_exists_and_says_in_which_environment_it_runs() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    named = [
        (page.name, *found)
        for page in pages
        for found in re.findall(r"([^`( ]*)python3?\s+(-m\s+)?benchmarks[./](\w+)", page.read_text(encoding="utf-8"))
    ]
    assert len(named) >= 30
    for page, environment, flag, script in named:
        assert environment in (".venv/bin/", ".venv-bench/bin/"), (page, script)
        assert flag, f"{page}: {script} is named by its path"
        assert (ROOT / "benchmarks" / f"{script}.py").is_file(), (page, script)


def test_the_recipes_that_are_named_exist() -> None:
    assert {name for name in RECIPES if f"`{name}`" in README} == set(RECIPES)
