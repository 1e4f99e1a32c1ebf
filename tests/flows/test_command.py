"""The `eraflow` command where it needs no tournament: help, refusals, recipes, and how it fails."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eraflow import __version__, recipes, request
from eraflow.errors import EXIT_DONE, EraflowError, InputError, TransientError
from eraflow.rehearsal import MarketConfig
from eraflow.study.config import StudyConfig
from flows import command, rehearse
from flows.command import main

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("rehearse", "weekly", "daily", "up", "status", "doctor", "scores", "study", "tournament", "recipes")
SECRET = "s3cr3t-of-the-account"


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A home of its own and no keys; afterwards signals and logging are as they were."""
    monkeypatch.setenv("ERAFLOW_HOME", str(tmp_path / "home"))
    for name in ("NUMERAI_PUBLIC_ID", "NUMERAI_SECRET_KEY", "ERAFLOW_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("importlib.metadata.packages_distributions", dict)  # reading them takes 0.2 s each time
    logger = logging.getLogger("eraflow")
    handlers, level, propagate, raising = logger.handlers, logger.level, logger.propagate, logging.raiseExceptions
    stop = signal.getsignal(signal.SIGTERM)
    yield
    logger.handlers, logger.level, logger.propagate, logging.raiseExceptions = handlers, level, propagate, raising
    signal.signal(signal.SIGTERM, stop)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments],
        cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


# Help


def test_every_command_is_listed_and_none_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert tuple(re.findall(r"^    (\w+)\b", capsys.readouterr().out, re.MULTILINE)) == COMMANDS


def test_the_help_tells_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    _, _, told = capsys.readouterr().out.partition("Exit codes: ")
    kinds, found = [EraflowError], {command.EXIT_INTERRUPTED, 128 + signal.SIGTERM, EXIT_DONE}
    while kinds:
        kind = kinds.pop()
        found.add(kind.exit_code)
        kinds += kind.__subclasses__()
    assert {int(code) for code in re.findall(r"\b\d+\b", told)} == found


@pytest.mark.parametrize(
    ("name", "flag", "default"),
    [
        ("rehearse", "--recipe", rehearse.DEFAULT_RECIPE),
        ("rehearse", "--model", *rehearse.DEFAULT_SLOTS),
        ("rehearse", "--rows", MarketConfig().train_eras * MarketConfig().rows_per_era),
        ("tournament", "--features", MarketConfig().features),
        ("weekly", "--recipe", request.DEFAULT_RECIPE),
        ("daily", "--wait", 0),
        ("study", "--recipes", ",".join(StudyConfig().recipes)),
        ("study", "--seeds", StudyConfig().seeds),
        ("study", "--target", StudyConfig().target),
        ("study", "--chunk-eras", StudyConfig().folds.chunk_eras),
        ("study", "--runner", f'"{StudyConfig().runner}"'),
        ("study", "--workers", StudyConfig().workers),
        ("study", "--benchmark", StudyConfig().benchmark),
    ],
)
def test_the_help_tells_the_default_that_is_used(name: str, flag: str, default: object) -> None:
    actions = command._parser()._actions
    parser = next(a for a in actions if isinstance(a, argparse._SubParsersAction)).choices[name]
    told = next(action.help for action in parser._actions if flag in action.option_strings)
    assert re.search(rf"{re.escape(str(default))}.*\bdefault|\bdefault.*\b{re.escape(str(default))}\b", told), told


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_for_each_of_its_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: eraflow {name} ")
    assert "--json" in shown
    assert "--debug" in shown
    subparsers = next(a for a in command._parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert all(action.help for action in subparsers.choices[name]._actions if action.option_strings)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"eraflow {__version__}\n"


# Refusals

WRONG = [
    ([], "the following arguments are required: COMMAND; see eraflow --help"),
    (["wekly"], "invalid choice: 'wekly'"),
    (["weekly", "--modle", "a"], "unrecognized arguments: --modle a; see eraflow weekly --help"),
    (["weekly", "--no-sub"], "unrecognized arguments: --no-sub"),
    (["weekly", "surplus"], "unrecognized arguments: surplus"),
    (["weekly", "--model"], "argument --model: expected one argument; see eraflow weekly --help"),
    (["weekly"], "no slot to submit for; name one with --model"),
    (["weekly", "--model", "a", "--recipe", "best"], "a recipe must be one of simple-mlp, fastai-tabular, era-pearson"),
    (["weekly", "--model", "a", "--resubmit", "--no-submit"], "--resubmit and --no-submit exclude each other"),
    (["weekly", "--model", "a", "--set", "training.epochs"], "--set must be key=value, however 'training.epochs'"),
    (["weekly", "--model", "a", "--set", "training.epoch=6"], "unknown key training.epoch; did you mean epochs?"),
    (["weekly", "--model", "a", "--set", "trainig.epochs=6"], "unknown key trainig.epochs in --set; did you mean"),
    (["weekly", "--model", "a", "--set", "model.dropout=2"], "model.dropout must be from 0 to below 1"),
    (["weekly", "--model", "a", "--config", "/none.toml"], "configuration file /none.toml does not exist"),
    (["weekly", "--model", "a", "--data-from", "/none"], "--data-from must name a folder, however /none is not one"),
    (["rehearse", "--rounds", "0"], "--rounds must be at least 1, however 0 was given"),
    (["rehearse", "--rounds", "many"], "argument --rounds: invalid int value: 'many'"),
    (["tournament"], "the following arguments are required: --home"),
    (["tournament", "--home", "x", "--port", "99999"], "argument --port: must be 0 to 65535, however 99999 was given"),
    (["recipes", "best"], "however 'best' was given"),
    (["recipes", "ridge"], "however 'ridge' was given; ridge and lightgbm exist in studies only"),
    (["scores"], "no slot whose scores to collect; name one with --model, or under [slots] of "),
]


@pytest.mark.parametrize(("arguments", "told"), WRONG)
def test_what_cannot_be_meant_ends_with_2_and_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("eraflow: ")
    assert shown.err.count("\n") == 1
    assert told in shown.err
    assert list(tmp_path.rglob("*.parquet")) == []


@pytest.mark.parametrize(("arguments", "told"), WRONG)
def test_with_json_the_refusal_is_the_last_line_of_standard_output_too(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--json"]) == 2
    shown = capsys.readouterr()
    found = json.loads(shown.out.splitlines()[-1])
    assert (found["rounds"], found["error"]["code"]) == ([], "wrong-input")
    if arguments != []:  # the flag itself is then the command that is missing
        assert told in found["error"]["message"]
    assert f"eraflow: {found['error']['message']}\n" == shown.err


@pytest.mark.parametrize(
    ("environment", "exit_code", "told"),
    [
        ({}, 4, "set NUMERAI_PUBLIC_ID and NUMERAI_SECRET_KEY"),
        ({"NUMERAI_SECRET_KEY": SECRET}, 4, "must both be set, however one is missing"),
        ({"NUMERAI_PUBLIC_ID": SECRET}, 4, "must both be set, however one is missing"),
        ({"NUMERAI_PUBLIC_ID": "P", "NUMERAI_SECRET_KEY": f"{SECRET}\n"}, 4, "NUMERAI_SECRET_KEY must be printable"),
        ({"ERAFLOW_API_URL": f"http://somebody:{SECRET}@host/"}, 2, "ERAFLOW_API_URL must be an https address"),
        ({"ERAFLOW_API_URL": "https://["}, 2, "ERAFLOW_API_URL must be an https address"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_keys_and_addresses_are_judged_before_any_work_and_never_shown(
    environment: dict[str, str],
    exit_code: int,
    told: str,
    debug: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["weekly", "--model", "a", "--json", *(["--debug"] if debug else [])]) == exit_code
    shown = capsys.readouterr()
    assert told in shown.err
    assert SECRET not in shown.err + shown.out
    assert not (tmp_path / "home").exists()


def test_a_tournament_that_is_out_of_reach_may_be_one_that_the_user_has_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(_: argparse.Namespace) -> int:
        raise TransientError("it cannot be reached")

    monkeypatch.setattr(command, "_recipes", unreachable)
    main(["recipes"])
    assert capsys.readouterr().err == "eraflow: it cannot be reached\n"
    monkeypatch.setenv("ERAFLOW_API_URL", "http://127.0.0.1:1")
    main(["recipes"])
    assert capsys.readouterr().err == "eraflow: it cannot be reached (ERAFLOW_API_URL is set)\n"
    main(["recipes", "--surplus"])
    assert "ERAFLOW_API_URL" not in capsys.readouterr().err


def test_a_folder_that_no_tournament_can_be_kept_in_is_refused_by_its_own_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["tournament", "--home", str(tmp_path / "file" / "t")]) == 1
    told = capsys.readouterr().err
    assert (
        told
        == f"eraflow: the folder {tmp_path}/file/t cannot be used: Not a directory; give --home a folder that can\n"
    )


# Recipes


def test_recipes_are_listed_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(recipes.RECIPES)
    assert all(len(line.split()) > 3 for line in lines)


def test_recipes_are_listed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"recipes": sorted(recipes.RECIPES)}


@pytest.mark.parametrize("name", list(recipes.RECIPES))
def test_a_recipe_is_shown_with_every_value_that_it_resolves_to(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", name, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["name"] == name
    assert main(["recipes", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    for section in recipes.SECTIONS:
        assert f"[{section}]" in lines
        for key, value in table[section].items():
            assert any(line.startswith(f"{key} = {json.dumps(value)}") for line in lines), (section, key)


# How it fails


def boom(_: argparse.Namespace) -> int:
    raise RuntimeError(f"a foreign text with {SECRET}")


def test_an_unexpected_error_is_one_line_without_its_foreign_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_recipes", boom)
    assert main(["recipes", "--json"]) == 1
    shown = capsys.readouterr()
    assert shown.err == "eraflow: unexpected RuntimeError; run again with --debug and report it\n"
    assert json.loads(shown.out)["error"]["code"] == "unexpected"


@pytest.mark.parametrize("flag", ["--debug", "--json"])
def test_a_traceback_is_shown_with_debug_only(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_recipes", boom)
    main(["recipes", flag])
    main(["recipes", "--surplus", flag])
    shown = capsys.readouterr()
    told = [line for line in shown.err.splitlines() if "traceback of" in line]
    expected = ["eraflow: traceback of RuntimeError:", "eraflow: traceback of InputError:"]
    assert told == (expected if flag == "--debug" else [])
    assert "in boom" in shown.err or flag != "--debug"
    assert "traceback" not in shown.out


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_recipes", interrupted)
    assert main(["recipes"]) == 130
    assert capsys.readouterr().err == "eraflow: interrupted; run the same command again to go on where it stopped\n"


def test_a_polite_kill_unwinds_what_is_running(monkeypatch: pytest.MonkeyPatch) -> None:
    unwound = []

    def killed(_: argparse.Namespace) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            unwound.append(True)
        return 0

    monkeypatch.setattr(command, "_recipes", killed)
    with pytest.raises(SystemExit, match="143"):
        main(["recipes"])
    assert unwound == [True]


def test_packages_of_the_same_name_from_elsewhere_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    owners = {"tasks": ["eraflow", "other-tasks"], "flows": ["eraflow", "eraflow"], "numpy": ["numpy"]}
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: owners)
    assert main(["recipes", "--json"]) == 1
    shown = capsys.readouterr()
    assert "the package tasks is also installed by other-tasks, which may have overwritten eraflow's" in shown.err
    assert json.loads(shown.out)["error"]["code"] == "foreign-package"


@pytest.mark.parametrize("owners", [{}, {"tasks": ["eraflow"], "flows": ["eraflow"]}])
def test_our_own_packages_are_no_foreigners(owners: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: owners)
    command._refuse_foreign_packages()


def test_a_distribution_that_really_owns_the_name_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "other_flows-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: other-flows\nVersion: 1.0\n")
    (folder / "top_level.txt").write_text("flows\n")
    found = run("recipes", PYTHONPATH=str(tmp_path))
    assert found.returncode == 1
    assert found.stderr.startswith("eraflow: the package flows is also installed by other-flows, which may have")


@pytest.mark.parametrize("arguments", [["recipes"], ["--help"]])
def test_a_reader_that_went_away_changes_nothing(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        found = subprocess.run(
            [sys.executable, "-m", "flows", *arguments],
            cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert (found.returncode, found.stderr) == (0, "")


def test_a_closed_standard_error_does_not_move_complaints_into_the_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["recipes", "best"]) == 2
    assert capsys.readouterr().out == ""


def test_the_command_starts_without_what_only_a_round_needs() -> None:
    code = """
import sys
from flows.command import main
assert main(["weekly", "--model", "a", "--set", "nonsense"]) == 2
print(sorted({name.partition(".")[0] for name in sys.modules} & {"prefect", "pandas", "numerapi", "matplotlib"}))
"""
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout == "[]\n"


def test_the_parser_never_prints_usage_by_itself() -> None:
    with pytest.raises(InputError, match="expected one argument; see eraflow weekly --help"):
        command._parser().parse_args(["weekly", "--set"])
