"""Is each guard held by a test? Guards are taken out one at a time, and a test must notice.

    python -m benchmarks.mutations [NAME...] [--list] [--write docs/mutations.md]

`guards.toml` says of each guard where it stands, what becomes of it, and which tests should notice. The checkout's
files are copied once; the tests first pass there as they are, so that a failure later means something. Then each guard
is taken out of the copy, its tests run, and it is put back. It was noticed if a test failed, by what the program does:
an error in a fixture, or a name or an import that the change itself spoils, says nothing. A test that does not end says
something only if it ends as soon as the guard is back. Ends with 1 if a guard survived (then a test is missing, or
something else holds what the guard holds) or if nothing is known of one. What nobody has listed as a guard is not
looked at.
"""

from __future__ import annotations

import argparse
import ast
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GUARDS = ROOT / "benchmarks" / "guards.toml"
PACKAGES = ("eraflow", "tasks", "flows", "deployments", "tests")
# The slowest tests named take seconds, on a busy machine half a minute [s].
LIMIT_S = 180.0
# Without a guard against hanging they hang: believed after this long, if with it they end sooner [s].
HUNG_AFTER_S = 20.0
BASELINE_LIMIT_S = 900.0
PASSED, FAILED = 0, 1  # pytest's exit codes
# What a program raises that the change has made none of, wherever it was caught or logged.
SPOILT = re.compile(r"\b(NameError|UnboundLocalError|SyntaxError|IndentationError|ImportError|ModuleNotFoundError)\b")
HEAD = ("guard", "in", "what it holds", "noticed by")
DOCUMENT = """# Mutations

Tests that pass say little of a guard that no test needs. So each guard in [guards.toml](../benchmarks/guards.toml) is
taken out of a copy of the checkout, one at a time, and a test that passes with it must fail without it,
by what the program does: an error in a fixture or a name that the change spoils counts for nothing, and a test that
does not end within {hung_s:.0f} s only if it passes in that time with the guard in place. {claim}

{table}

## Guards that hold the same

Of these each may go and nothing is lost, because another holds the same. They are no part of the table.

{redundant}

{command}, {guards} guards in {seconds:.0f} s of which {busy_s:.0f} s were computed, on {machine}, {date}.
"""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """One guard: what it holds, the text that goes, and who should notice."""

    name: str
    holds: str
    """In a sentence."""
    file: str
    old: str
    """Its text, which stands there once."""
    new: str
    """What that becomes without it."""
    tests: tuple[str, ...]
    """Files or node ids of pytest."""
    hangs: bool = False
    """Without it a test never ends, which counts as noticed if with it the test ends in the same time."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a guard's tests without it."""

    guard: Guard
    noticed: str
    """The test that failed first, or what else showed it; empty for a guard that survived or was not judged."""
    trouble: str
    """How the first test failed, or why the run says nothing; empty for a guard that survived."""
    seconds: float

    @property
    def verdict(self) -> str:
        if self.noticed:
            return "noticed"
        return "not known" if self.trouble else "survived"


def read_guards(path: Path = GUARDS) -> tuple[dict[str, Guard], dict[str, str]]:
    """The guards by name, and those that need no test of their own, each with what holds the same.

    Raises `ValueError` for an entry of another form.
    """
    told = tomllib.loads(path.read_text(encoding="utf-8"))
    return {name: _guard(name, table) for name, table in told["guards"].items()}, told.get("redundant", {})


def _guard(name: str, table: Mapping[str, Any]) -> Guard:
    keys = {"holds", "file", "old", "new", "tests"}
    if not keys <= set(table) <= {*keys, "hangs"} or not table["tests"]:
        raise ValueError(f"{name} must have the keys {', '.join(sorted(keys))}, however it has {sorted(table)}")
    return Guard(name=name, **{**table, "tests": tuple(table["tests"])})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all guards by default")
    parser.add_argument("--list", action="store_true", help="name the guards")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table and its explanation there")
    given = parser.parse_args()
    guards, redundant = read_guards()
    if given.list:
        print("\n".join(f"{guard.name:28} {guard.holds}" for guard in guards.values()))
        return 0
    if unknown := [name for name in given.names if name not in guards]:
        parser.error(f"a guard must be one of those of --list, however {unknown[0]!r} was given")
    chosen = [guards[name] for name in given.names or guards]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="eraflow-mutations-") as folder:
        copy = Path(folder).resolve() / "copy"
        _copied(copy)
        _require_own_code(copy)
        if told := _baseline(copy, chosen):
            print(f"the tests must pass before anything is taken out, however they do not:\n{told}")
            return 1
        outcomes = [_told(number, len(chosen), tried(copy, guard)) for number, guard in enumerate(chosen, 1)]
    seconds = time.monotonic() - started
    print(f"{_counted(outcomes)}, in {seconds:.0f} s")
    if given.write:
        given.write.write_text(_document(outcomes, redundant, seconds), encoding="utf-8")
    return 0 if all(outcome.noticed for outcome in outcomes) else 1


def _counted(outcomes: Sequence[Outcome]) -> str:
    """How many were noticed, and which were not."""
    noticed = sum(bool(outcome.noticed) for outcome in outcomes)
    others = [f"{outcome.guard.name} ({outcome.verdict})" for outcome in outcomes if not outcome.noticed]
    return f"Of {len(outcomes)} guards {noticed} were noticed" + (f"; not: {', '.join(others)}" if others else "")


def _copied(copy: Path) -> None:
    """All files that git knows or would take, as they are now; files that are written meanwhile change nothing."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT, capture_output=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)


def _environment(copy: Path, *, keep_bytecode: bool) -> dict[str, str]:
    kept = {
        name: text for name, text in os.environ.items() if not name.startswith(("ERAFLOW_", "NUMERAI_", "PREFECT_"))
    }
    # Without it an installation of the checkout itself would be imported, and by the tests' own children too.
    kept["PYTHONPATH"] = str(copy)
    kept["OMP_NUM_THREADS"] = "1"
    # Python takes compiled code of a file whose second and size are the same for the file's own.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept if keep_bytecode else {**kept, "PYTHONDONTWRITEBYTECODE": "1"}


def _require_own_code(copy: Path) -> None:
    """Raises `RuntimeError` unless a child process imports the copy."""
    code = f"import importlib\nfor name in {PACKAGES}: print(importlib.import_module(name).__file__)"
    found = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code],
        cwd=copy.parent, env=_environment(copy, keep_bytecode=True), capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    print(f"what is tested: {found[0]}", flush=True)
    if foreign := [path for path in found if not Path(path).is_relative_to(copy)]:
        raise RuntimeError(f"the copy in {copy} must be what is imported, however {foreign[0]} is")


def _baseline(copy: Path, guards: Sequence[Guard]) -> str:
    """What is wrong before anything is taken out; empty if all tests pass and none is skipped."""
    tests = sorted({test for guard in guards for test in guard.tests})
    print(f"running the {len(tests)} tests and files named, with all guards in place ...", flush=True)
    code, output = _pytest(copy, tests, BASELINE_LIMIT_S, keep_bytecode=True)
    skipped = re.findall(r"^SKIPPED.*", output, re.MULTILINE)
    print(output.strip().splitlines()[-1] if output.strip() else "it did not end", flush=True)
    return output if code != PASSED else "\n".join(skipped)


def tried(copy: Path, guard: Guard) -> Outcome:
    """Take the guard out of the checkout in `copy`, run its tests there, and put it back."""
    started = time.monotonic()
    limit_s = HUNG_AFTER_S if guard.hangs else LIMIT_S
    try:
        with _without(copy, guard):
            code, output = _pytest(copy, guard.tests, limit_s, keep_bytecode=False)
    except ValueError as error:
        noticed, trouble = "", str(error)
    else:
        noticed, trouble = _hung(copy, guard, limit_s) if code is None else _judged(code, output)
    return Outcome(guard=guard, noticed=noticed, trouble=trouble, seconds=time.monotonic() - started)


def _hung(copy: Path, guard: Guard, limit_s: float) -> tuple[str, str]:
    """What a test that did not end in time shows: nothing unless with the guard in place it ends in the same time."""
    hung = f"no end within {limit_s:.0f} s"
    if not guard.hangs:
        return "", f"{hung}, which shows nothing"
    code, _ = _pytest(copy, guard.tests, limit_s, keep_bytecode=False)
    if code != PASSED:
        return "", f"{hung}, however with the guard in place the tests did not pass in that time either"
    return f"{guard.tests[0]}: {hung}", ""


def _judged(code: int, output: str) -> tuple[str, str]:
    """The test that noticed and how, or nobody and why the run shows nothing; two empty texts if all passed."""
    if code == PASSED:
        return "", ""
    failed = re.search(r"^FAILED (.+?)(?: - .*)?$", output, re.MULTILINE)
    if code != FAILED or failed is None:
        # Code that cannot be imported or set up shows nothing of the guard.
        return "", f"pytest ended with {code}, and no test failed: {output[-400:]}"
    if spoilt := SPOILT.search(output):
        return "", f"{failed[1]} met a {spoilt[1]}, which shows nothing"
    how = re.search(r"^E +(.+)$", output, re.MULTILINE)
    return failed[1], how[1] if how else ""


@contextmanager
def _without(copy: Path, guard: Guard) -> Iterator[None]:
    """Inside, the copy lacks the guard. Raises `ValueError` if its text is not there once, or leaves no Python."""
    path = copy / guard.file
    before, modified_s = path.read_text(encoding="utf-8"), path.stat().st_mtime
    if (count := before.count(guard.old)) != 1:
        raise ValueError(f"its text must stand in {guard.file} once, however it does {count} times")
    after = before.replace(guard.old, guard.new)
    try:
        ast.parse(after)
    except SyntaxError as error:
        raise ValueError(f"what is left of {guard.file} must be Python, however: {error}") from error
    try:
        path.write_text(after, encoding="utf-8")
        # Other than that of the whole file, whose compiled code would otherwise be taken for it.
        os.utime(path, (modified_s + 10, modified_s + 10))
        yield
    finally:
        path.write_text(before, encoding="utf-8")
        os.utime(path, (modified_s, modified_s))


def _pytest(copy: Path, tests: Sequence[str], limit_s: float, *, keep_bytecode: bool) -> tuple[int | None, str]:
    """Exit code and output of the tests in a process group of their own; None where they did not end in time."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-rfEs", "--tb=short", *tests]
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(  # noqa: S603
            command, cwd=copy, env=_environment(copy, keep_bytecode=keep_bytecode), stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):  # what the tests started must not outlive them
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        output.seek(0)
        return code, output.read().decode(errors="replace")


def _told(number: int, of: int, outcome: Outcome) -> Outcome:
    what = f"noticed by {outcome.noticed}" if outcome.noticed else outcome.verdict.upper()
    trouble = f" ({' '.join(outcome.trouble.split())[:200]})" if outcome.trouble else ""
    print(f"{number:3}/{of} {outcome.guard.name}: {what}{trouble}, {outcome.seconds:.1f} s", flush=True)
    return outcome


def _document(outcomes: Sequence[Outcome], redundant: Mapping[str, str], seconds: float) -> str:
    rows = [HEAD, tuple("---" for _ in HEAD), *(_row(outcome) for outcome in outcomes)]
    return DOCUMENT.format(
        claim=f"{_counted(outcomes)}.",
        table="\n".join(f"| {' | '.join(cells)} |" for cells in rows),
        redundant="\n".join(f"- {guard}: {held}" for guard, held in redundant.items()),
        command="`.venv/bin/python -m benchmarks.mutations --write docs/mutations.md`",
        guards=len(outcomes),
        seconds=seconds,
        hung_s=HUNG_AFTER_S,
        machine=f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        busy_s=_busy_s(),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
    )


def _busy_s() -> float:
    """Processor time of all tests [s]; on a busy machine much less than what passed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _row(outcome: Outcome) -> tuple[str, ...]:
    guard = outcome.guard
    noticed = outcome.noticed.split("[")[0].replace("::", " ") or f"**nothing** ({outcome.verdict})"
    return f"`{guard.name}`", f"`{guard.file}`", guard.holds, noticed


if __name__ == "__main__":
    sys.exit(main())
