"""The list of guards stays true, and the check that takes them out tells a guard that is held from one that is not."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from benchmarks import mutations
from benchmarks.mutations import Guard, Outcome, read_guards, tried

ROOT = Path(__file__).parents[1]
GUARDS, REDUNDANT = read_guards()
EVERY = pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
ROOMS = {"eraflow", "tasks", "flows", "deployments"}


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@EVERY
def test_what_is_taken_out_is_there_once_and_leaves_python(guard: Guard) -> None:
    text = (ROOT / guard.file).read_text(encoding="utf-8")
    assert text.count(guard.old) == 1, f"{guard.file} has {guard.old!r} {text.count(guard.old)} times"
    ast.parse(text.replace(guard.old, guard.new))


@EVERY
def test_a_guard_is_of_ours_and_the_tests_that_should_notice_exist(guard: Guard) -> None:
    assert guard.file.partition("/")[0] in ROOMS
    assert 1 <= len(guard.tests) <= 3
    for test in guard.tests:
        file, _, name = test.partition("::")
        assert names_in(file) if not name else name in names_in(file), f"{test} is not there"


def test_what_a_guard_holds_is_a_sentence_of_its_own() -> None:
    told = [guard.holds for guard in GUARDS.values()]
    assert len(set(told)) == len(told)
    assert all(text[0].isupper() and text.endswith(".") and "|" not in text for text in told)


def test_the_table_that_was_written_is_of_these_guards() -> None:
    table = (ROOT / "docs" / "mutations.md").read_text(encoding="utf-8")
    assert [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")] == list(GUARDS)
    assert "**nothing**" not in table
    assert all(f"- {guard}: {held}" in table for guard, held in REDUNDANT.items())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A program with one guard that its test needs."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "door.py").write_text("def let_in(key):\n    if key != 1:\n        return False\n    return True\n")
    (tmp_path / "test_door.py").write_text("import door\ndef test_a_key():\n    assert not door.let_in(2)\n")
    return tmp_path


def without(copy: Path, old: str, new: str, *, hangs: bool = False) -> Outcome:
    tests = ("test_door.py",)
    return tried(copy, Guard(name="door", holds="", file="door.py", old=old, new=new, tests=tests, hangs=hangs))


def test_a_guard_that_a_test_needs_is_noticed_and_put_back(copy: Path) -> None:
    before = (copy / "door.py").read_text()
    assert without(copy, "key != 1", "False").noticed == "test_door.py::test_a_key"
    assert (copy / "door.py").read_text() == before


def test_a_guard_that_no_test_needs_survives(copy: Path) -> None:
    found = without(copy, "key != 1", "key == 2")
    assert (found.noticed, found.trouble) == ("", "")


@pytest.mark.parametrize("hangs", [True, False])
def test_a_test_that_never_ends_has_noticed_what_guards_against_hanging(
    hangs: bool, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine may take longer than this until the test is at its loop, without which nothing is shown.
    limit_s, reached = 1, copy / "reached"
    found: Outcome | None = None
    while limit_s <= 32 and not (found and reached.exists() and (found.noticed or not hangs)):
        limit_s *= 2
        monkeypatch.setattr(mutations, "LIMIT_S", float(limit_s))
        monkeypatch.setattr(mutations, "HUNG_AFTER_S", float(limit_s))
        found = without(copy, "        return False", "        while True: open('reached', 'w').close()", hangs=hangs)
    assert found
    assert reached.exists()
    assert found.noticed == (f"test_door.py: no end within {limit_s} s" if hangs else "")
    assert found.trouble == ("" if hangs else f"no end within {limit_s} s, which shows nothing")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("key == 3", "False", "it does 0 times"),
        ("key != 1", "key !=", "must be Python"),
        ("def let_in", "import nothing_of_that_name\ndef let_in", "pytest ended with 2"),
    ],
    ids=["not there", "no Python", "cannot be imported"],
)
def test_what_shows_nothing_is_no_notice(old: str, new: str, told: str, copy: Path) -> None:
    found = without(copy, old, new)
    assert found.noticed == ""
    assert told in found.trouble


def test_a_test_that_does_not_end_with_the_guard_either_shows_nothing(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutations, "HUNG_AFTER_S", 1.0)
    (copy / "test_door.py").write_text("def test_a_key():\n    while True: pass\n")
    found = without(copy, "key != 1", "False", hangs=True)
    assert (found.noticed, found.verdict) == ("", "not known")
    assert (
        found.trouble == "no end within 1 s, however with the guard in place the tests did not pass in that time either"
    )


def test_an_error_in_a_fixture_is_no_notice(copy: Path) -> None:
    (copy / "test_door.py").write_text(
        "import door, pytest\n@pytest.fixture\ndef shut(): assert not door.let_in(2)\ndef test_a_key(shut): pass\n"
    )
    found = without(copy, "key != 1", "False")
    assert (found.noticed, found.verdict) == ("", "not known")
    assert "no test failed" in found.trouble


@pytest.mark.parametrize(
    ("new", "error"),
    [("no_such_name", "NameError"), ("__import__('no_such_module')", "ModuleNotFoundError")],
)
@pytest.mark.parametrize("caught", [True, False])
def test_a_program_that_the_change_spoils_is_no_notice(new: str, error: str, caught: bool, copy: Path) -> None:
    if caught:
        (copy / "test_door.py").write_text(
            "import door\ndef test_a_key():\n    try:\n        door.let_in(2)\n    except Exception as error:\n"
            "        raise AssertionError('shut') from error\n"
        )
    found = without(copy, "key != 1", new)
    assert (found.noticed, found.trouble) == ("", f"test_door.py::test_a_key met a {error}, which shows nothing")
