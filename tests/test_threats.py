"""docs/threats.md stays true: each line names tests that exist, and nothing of what it says is absent is there."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "threats.md"
COLUMNS = ["threat", "who", "what they could gain", "what stops it", "test"]
# What a threat is about stands at its beginning; each of these must have a line.
SUBJECTS = {
    "secrets", "files", "TLS", "redirect", "names", "limits", "code", "dashboard", "SQL", "subprocess", "dependencies",
    "alarm",
}  # fmt: skip
PRODUCT = [
    path for room in ("eraflow", "tasks", "flows", "deployments") for path in sorted((ROOT / room).rglob("*.py"))
]

# The beginning of a statement that is put together, however it is written.
SQL = re.compile(r"""f?["'](?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|PRAGMA) """)


def rows() -> list[list[str]]:
    """The cells of the table's lines, its head first."""
    lines = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [cells[0], *cells[2:]]


LINES = rows()[1:]


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """File, dotted name of what is called, and the call, of the whole program."""
    for path in PRODUCT:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call):
                yield path.relative_to(ROOT).as_posix(), ast.unparse(node.func), node


def given(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(one.value) for one in call.keywords if one.arg == name), None)


def test_the_table_has_its_columns_and_a_line_about_each_subject() -> None:
    assert rows()[0] == COLUMNS
    assert {line[0].partition(":")[0] for line in LINES} == SUBJECTS


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0][:60])
def test_a_line_names_tests_that_exist(line: list[str]) -> None:
    assert len(line) == len(COLUMNS)
    assert all(line)
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", line[-1])
    assert named, "it names no test"
    assert line[-1] == ", ".join(f"`{file}::{name}`" for file, name in named)
    assert [name for file, name in named if name not in names_in(file)] == []


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0][:60])
def test_the_modules_that_a_line_names_exist(line: list[str]) -> None:
    for name in re.findall(r"`((?:eraflow|tasks|flows|deployments)/[\w/.]*)`", line[3]):
        assert (ROOT / name).exists(), name


# What is nowhere in the program


def test_nothing_that_runs_data_as_code_is_called() -> None:
    forbidden = {
        "eval", "exec", "compile", "__import__", "torch.load", "torch.jit.load", "yaml.load", "yaml.unsafe_load",
        "pd.read_pickle", "pandas.read_pickle", "np.core.multiarray", "code.interact",
    }  # fmt: skip
    assert [(file, name) for file, name, _ in calls() if name in forbidden] == []
    assert [(file, name) for file, name, call in calls() if given(call, "allow_pickle") not in {None, "False"}] == []


def test_no_process_is_started_through_a_shell() -> None:
    shells = {
        "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
        "asyncio.create_subprocess_shell",
    }  # fmt: skip
    assert [(file, name) for file, name, _ in calls() if name in shells] == []
    assert [(file, name) for file, name, call in calls() if given(call, "shell") not in {None, "False"}] == []


def test_no_check_of_a_certificate_is_switched_off() -> None:
    assert [found for path in PRODUCT for found in switched_off(tree_of(path))] == []


@pytest.mark.parametrize(
    "statement",
    [
        "requests.get(url, verify=False)", "session.verify = False", "context.check_hostname: bool = False",
        "context.verify_mode = ssl.VerifyMode(0)", "a, context.check_hostname = 1, False",
        "setattr(session, 'verify', False)", "session.request(url, **{'verify': False})", "mode(ssl.CERT_NONE)",
        "mode(CERT_NONE)", "ssl._create_unverified_context()", "SSLContext()", "urllib3.disable_warnings()",
        "from ssl import _create_unverified_context",
    ],
)  # fmt: skip
def test_a_check_of_a_certificate_is_found_however_it_is_switched_off(statement: str) -> None:
    assert switched_off(ast.parse(statement)) != []


def switched_off(tree: ast.Module) -> list[str]:
    """What is called, assigned or named that could: as an argument, an attribute, a text or a name."""
    switches = {"verify", "verify_mode", "check_hostname", "cert_reqs"}
    names = {"CERT_NONE", "_create_unverified_context", "disable_warnings", "SSLContext"}
    found = []
    for node in ast.walk(tree):
        assigned = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in switches
        passed = isinstance(node, ast.keyword) and node.arg in switches
        written = isinstance(node, ast.Constant) and node.value in switches
        named = getattr(node, "attr", getattr(node, "id", getattr(node, "name", None))) in names
        if assigned or passed or written or named:
            found.append(ast.unparse(node))
    return found


def test_no_statement_of_sql_holds_a_value() -> None:
    """A statement is written as it stands; two hold the names of our own columns, or our own number."""
    written = [
        (path.name, ast.unparse(node))
        for path in PRODUCT
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.JoinedStr | ast.BinOp) and SQL.match(ast.unparse(node))
    ]
    assert written == [
        (
            "ledger.py",
            "f\"INSERT OR REPLACE INTO scores (tournament, {', '.join(names)}) VALUES (?{', ?' * len(names)})\"",
        ),
        ("ledger.py", "f'PRAGMA user_version = {SCHEMA_VERSION}'"),
    ]
    assert {file for file, name, _ in calls() if name.rpartition(".")[2] == "execute"} == {"eraflow/ledger.py"}
    assert [name for _, name, call in calls() if name.endswith(".format") and SQL.match(ast.unparse(call))] == []


def test_children_do_not_import_from_the_working_folder(tmp_path: Path) -> None:
    from flows.up import _with_our_modules

    for name in ("flows", "eraflow", "tasks"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger')")
    environment = _with_our_modules({name: text for name, text in os.environ.items() if name != "PYTHONPATH"})
    code = "import eraflow, flows, tasks; print(eraflow.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(ROOT / "eraflow" / "__init__.py")), done.stderr
