"""A year of weeks in which everything goes wrong: is each round submitted exactly once, as meant, and verified?

    python -m benchmarks.soak [--weeks 52] [--branches 5] [--at-once 2] [--seed 0] [--home FOLDER] [...]
    python -m benchmarks.soak --home FOLDER --replay WEEK.BRANCH

A campaign against the local tournament with the real client. Each week one more round opens, and is played in several
branches that begin alike: in each, runs are killed at random moments and before random writes, and meet whatever else
`tests.behaviour.troubles` knows; then the round is played in peace and looked at from the tournament's side and from
the user's (`tests.behaviour.soak`). One branch of some weeks is played by the real command, through Prefect. The week
goes on from its last branch, whether its round was saved or could not be. With a --home it can be stopped at any time
and goes on where it was; what went wrong there is played again alone with --replay. Ends with 1 if anything was sent
twice, lost, wrong or not verified, a traceback was shown, or a secret was written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eraflow.rehearsal import LocalTournament
from tests.behaviour.crash_points import points_of
from tests.behaviour.harmed import play_harmed
from tests.behaviour.soak import TRIES, TWO_RUNS, from_nothing, play_branch
from tests.behaviour.soak_branch import LEDGER_HARMED, MARKET, OWN, Begun, Outcome, request_of, sent_by_slot
from tests.behaviour.soak_checks import DAMAGED, said_by
from tests.behaviour.soak_prefect import HARMS, made_database, play_branch_with_prefect
from tests.behaviour.troubles import KILLS, TROUBLES, Trouble
from tests.behaviour.week import Week
from tests.eraflow.certificate import write_certificate
from tests.eraflow.raw_server import JSON, Server, sending

JOURNAL = "journal.jsonl"
BEGIN, END = "<!-- what `benchmarks.soak` writes begins -->", "<!-- and ends -->"
# What a campaign tests: changes here are changes of what its table is of.
TESTED = ("eraflow", "flows", "tasks")
ORDINALS = ("first", "second", "third", "fourth")
ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weeks", type=int, default=12)
    parser.add_argument("--branches", type=int, default=5, help="so many a week")
    parser.add_argument("--prefect-every", type=int, default=3, metavar="N", help="one of each N-th week, by Prefect")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="so many branches are played at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, help="where the campaign is kept, to be stopped and continued")
    parser.add_argument("--replay", metavar="WEEK.BRANCH", help="play one branch of a campaign that is kept, alone")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table and its explanation there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eraflow-soak-") as temporary, _untrusted(Path(temporary)) as untrusted:
        home = (given.home or Path(temporary) / "campaign").resolve()
        plan = {"branches": given.branches, "prefect_every": given.prefect_every}
        kept = provenance(home, given.seed, plan, is_replay=bool(given.replay))
        campaign = Campaign(home, given.seed, kept["branches"], kept["prefect_every"], untrusted, given.at_once)
        if given.replay:
            return campaign.replay(*given.replay.split("."))
        for week in range(1, given.weeks + 1):
            campaign.play(week)
        entries = campaign.entries()
    text = told(entries)
    print(text)
    if given.write:
        command = f".venv/bin/python -m benchmarks.soak {' '.join(sys.argv[1:])}"
        page = written(given.write.read_text(encoding="utf-8"), text, command, given.seed, kept["commit"])
        given.write.write_text(page, encoding="utf-8")
    return 1 if any(one["wrong"] for one in entries) else 0


def provenance(home: Path, seed: int, plan: Mapping[str, int], *, is_replay: bool = False) -> dict[str, Any]:
    """What a campaign of this seed is of, written when it begins: its plan and the commit, with changes or without.

    A replay has the plan of its campaign, and may be of another commit, as one that mends what went wrong. Ends the
    program where a campaign would be gone on with by another plan or commit, since no table could be of both.
    """
    asked: dict[str, Any] = {**plan, **_code()}
    path = home / f"campaign-of-{seed}.json"
    if not path.exists():
        if (home / JOURNAL).exists():
            raise SystemExit(f"{home} does not say of which commit it is; begin a campaign in another --home")
        home.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asked))
    kept: dict[str, Any] = json.loads(path.read_text())
    others = ", ".join(f"{name} {kept[name]} and not {asked[name]}" for name in asked if kept[name] != asked[name])
    if is_replay:
        if kept["commit"] != asked["commit"] or kept["changes"] != asked["changes"]:
            print(f"the campaign was of {kept['commit']}, this is {asked['commit']}, perhaps with other changes")
        return kept
    if others:
        raise SystemExit(f"the campaign in {home} has {others}; go on as it began, or begin another in another --home")
    return kept


def _code() -> dict[str, str]:
    """The commit, "with changes" if what is tested is not as it was committed, and the hash of these changes."""

    def git(*command: str) -> bytes:
        return subprocess.run(["git", *command], cwd=ROOT, capture_output=True).stdout  # noqa: S603, S607

    changes = git("status", "--porcelain", "--", *TESTED) and git("diff", "HEAD", "--", *TESTED) + git(
        "status", "--porcelain", "--", *TESTED
    )
    commit = git("rev-parse", "--short", "HEAD").decode().strip() or "unknown"
    return {
        "commit": f"{commit} with changes" if changes else commit,
        "changes": hashlib.sha256(changes).hexdigest()[:12] if changes else "",
    }


class Campaign:
    """What was played so far, and what comes next. `home` holds a folder a week and the journal."""

    def __init__(
        self, home: Path, seed: int, branches: int, prefect_every: int, untrusted: str, at_once: int = 1
    ) -> None:
        self._home, self._seed, self._branches, self._untrusted = home, seed, branches, untrusted
        self._prefect_every, self._database, self._duration_s = prefect_every, home / "prefect.db", 0.0
        self._at_once, self._writing = at_once, threading.Lock()
        home.mkdir(parents=True, exist_ok=True)

    def entries(self) -> list[dict[str, Any]]:
        """All branches that were played, in order; of one that was played twice what went wrong, if anything did."""
        journal = self._home / JOURNAL
        found = dict[str, dict[str, Any]]()
        for line in journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []:
            with suppress(ValueError):  # a line that was being written when the machine stopped
                one = json.loads(line)
                if one["seed"] == self._seed and not found.get(one["branch"], {}).get("wrong"):
                    found[one["branch"]] = one
        return list(found.values())

    def play(self, week: int) -> None:
        """The branches of a week that were not played yet, some at once."""
        done, is_last = {one["branch"] for one in self.entries()}, not self._folder(week + 1).exists()
        coming = [
            number
            for number in range(1, self._branches + 1)
            if self._name(week, number) not in done or (is_last and number == self._branches)
        ]
        if not coming:
            return
        begun = self._begin(week)
        if self._is_by_prefect(week, coming[0]):
            self._make_database(begun)
        pool = ThreadPoolExecutor(self._at_once)
        try:
            outcomes = list(pool.map(lambda number: self._play(week, number, begun), coming))
        finally:
            pool.shutdown(cancel_futures=True)
        if is_last:
            self._go_on(week, outcomes[-1])
        for number in coming:
            shutil.rmtree(self._playing(week, number))

    def replay(self, week: str, number: str) -> int:
        """One branch again, alone; what it leaves stays in the campaign's home."""
        folder = self._home / f"replayed-{week}.{number}"
        shutil.rmtree(folder, ignore_errors=True)
        begun = self._begin(int(week))
        if self._is_by_prefect(int(week), int(number)):
            self._make_database(begun)
        outcome = self._outcome(int(week), int(number), begun, folder)
        print(json.dumps(outcome.as_table(), indent=1))
        return 1 if outcome.wrong else 0

    def _play(self, week: int, number: int, begun: Begun) -> Outcome:
        folder = self._playing(week, number)
        shutil.rmtree(folder, ignore_errors=True)
        outcome = self._outcome(week, number, begun, folder)
        # A line begins with its break: one that was half written spoils no other.
        line = "\n" + json.dumps({"seed": self._seed, "week": week} | outcome.as_table())
        with self._writing, (self._home / JOURNAL).open("ab", buffering=0) as journal:
            journal.write(line.encode())
        print(_line(outcome.branch, outcome.as_table()), flush=True)
        if outcome.wrong:
            shutil.copytree(folder, self._home / f"wrong-{week}.{number}", dirs_exist_ok=True)
        return outcome

    def _outcome(self, week: int, number: int, begun: Begun, folder: Path) -> Outcome:
        name = self._name(week, number)
        if self._is_by_prefect(week, number):
            return play_branch_with_prefect(name, begun, folder, self._database, self._duration_s)
        return play_branch(name, begun, folder, self._troubles(week, number))

    def _is_by_prefect(self, week: int, number: int) -> bool:
        return number == 1 and week % self._prefect_every == 0

    def _make_database(self, begun: Begun) -> None:
        if not self._duration_s:
            with tempfile.TemporaryDirectory(prefix="eraflow-soak-") as temporary:
                self._duration_s = made_database(begun, Path(temporary), self._database)

    def _begin(self, week: int) -> Begun:
        """Where the branches of a week begin, and what a round without trouble comes to."""
        folder = self._folder(week)
        if not folder.exists():
            if week > 1:
                raise SystemExit(f"week {week - 1} must have been played before week {week}")
            with _whole(folder) as partial, LocalTournament(partial / "tournament", market=MARKET) as local:
                local.open_next_round(delay_s=0)
                (partial / "home").mkdir()
        with tempfile.TemporaryDirectory(prefix="eraflow-soak-") as temporary:
            return _unharmed(folder, Path(temporary), self._untrusted)

    def _go_on(self, week: int, last: Outcome) -> None:
        """The next week begins at the end of the last branch, or where this week began if that one's round was lost."""
        with _whole(self._folder(week + 1)) as partial:
            shutil.rmtree(partial)
            shutil.copytree(self._folder(week) if last.is_lost else self._playing(week, self._branches), partial)
            for folder in ("logs", OWN):
                shutil.rmtree(partial / folder, ignore_errors=True)
            if not last.is_lost:
                (partial / LEDGER_HARMED).unlink(missing_ok=True)
                if last.ledger_is_harmed:
                    (partial / LEDGER_HARMED).touch()
            with LocalTournament(partial / "tournament", market=MARKET) as local:
                local.open_next_round(delay_s=0)

    def _troubles(self, week: int, number: int) -> Sequence[Trouble]:
        """Each trouble has its turn before any has its second one."""
        turn, place = divmod((week - 1) * self._branches + number - 1, len(TROUBLES))
        order = random.Random(f"{self._seed} {turn}").sample(TROUBLES, len(TROUBLES))  # noqa: S311 -- must repeat
        return [order[place]]

    def _playing(self, week: int, number: int) -> Path:
        return self._home / f"playing-{week}.{number}"

    def _folder(self, week: int) -> Path:
        return self._home / f"week-{week}-of-{self._seed}"

    def _name(self, week: int, number: int) -> str:
        return f"{self._seed}.{week}.{number}"


def _unharmed(folder: Path, temporary: Path, untrusted: str) -> Begun:
    """What is right is what an empty home sends; the week's own one must send the same, or its harm has stayed."""
    fresh, sha256 = from_nothing(folder / "tournament", temporary / "fresh")
    wrong, is_harmed = [], (folder / LEDGER_HARMED).exists()
    shutil.copytree(folder, temporary / "world")
    with LocalTournament(temporary / "world" / "tournament", market=MARKET) as local:
        week = Week(local, temporary / "world" / "home")
        whole = play_harmed(week.environment, request_of(week), temporary / "logs")
        number, sent = local._core.latest().number, sent_by_slot(local)
        if whole.exit_code and not (is_harmed and whole.says(DAMAGED)):
            wrong.append(f"a round without trouble in the week's home ended with {whole.exit_code}: {said_by(whole)}")
        if whole.exit_code == 0 and sent != sha256:
            wrong.append("the week's home sends other bytes than an empty one")
    shutil.rmtree(temporary / "world")
    if whole.exit_code:
        whole = fresh
        shutil.rmtree(temporary / "fresh")
        shutil.copytree(folder / "tournament", temporary / "world" / "tournament")
    else:
        shutil.copytree(folder, temporary / "world")
    with LocalTournament(temporary / "world" / "tournament", market=MARKET) as local:
        week = Week(local, temporary / "world" / "home")
        points = points_of(week.environment, request_of(week), temporary / "told")
    return Begun(
        folder=folder, duration_s=whole.seconds, points=len(points.names), sha256=sha256, untrusted=untrusted,
        round=number, wrong=tuple(wrong), ledger_is_harmed=is_harmed,
    )  # fmt: skip


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder that is there with all that is in it, or not at all."""
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    yield partial
    partial.rename(folder)


@contextmanager
def _untrusted(folder: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write_certificate(folder / "certificate.pem"))
    with Server(sending(JSON), tls=context).running() as url:
        yield url


def _line(name: str, outcome: Mapping[str, Any]) -> str:
    steps = ", ".join(f"{' + '.join(one['met']) or 'nothing'} ({one['exit_code']})" for one in outcome["steps"])
    ended = "saved" if outcome["saved"] else "lost" if outcome["could_be_saved"] else "could not be saved"
    told = f"{name}: {steps}: {ended}, {outcome['seconds']:g} s"
    return "\n".join([told, *(f"  WRONG: {one}" for one in outcome["wrong"])])


def told(entries: Sequence[Mapping[str, Any]]) -> str:
    """The table of troubles that runs really met and their outcomes, and the sums."""
    doors = {trouble.name: trouble.door for trouble in (*KILLS, *TROUBLES)} | {TWO_RUNS: "disk"}
    doors |= dict.fromkeys(HARMS, "Prefect")
    lines = ["| door | trouble | runs | they ended with | rounds saved | wrong |", "|---|---|---|---|---|---|"]
    for name, door in sorted(doors.items(), key=lambda one: list(doors.values()).index(one[1])):
        met = [(entry, step) for entry in entries for step in entry["steps"] if name in step["met"]]
        if not met:
            continue
        codes = Counter(_ended(int(step["exit_code"])) for _, step in met)
        branches = {entry["branch"]: entry for entry, _ in met}
        could = [entry for entry in branches.values() if entry["could_be_saved"]]
        saved = f"{sum(bool(entry['saved']) for entry in could)} of {len(could)}"
        wrong = sum(len(entry["wrong"]) for entry in branches.values())
        ended = ", ".join(f"{code} {times}x" for code, times in sorted(codes.items()))
        lines.append(f"| {door} | {name} | {len(met)} | {ended} | {saved} | {wrong} |")
    return "\n".join([*lines, "", summed(entries)])


def _ended(code: int) -> str:
    return "SIGKILL" if code == -9 else f"signal {-code}" if code < 0 else str(code)


def summed(entries: Sequence[Mapping[str, Any]]) -> str:
    """All of it in two sentences."""
    could = [entry for entry in entries if entry["could_be_saved"]]
    weeks = len({entry["week"] for entry in entries})
    runs = sum(len(entry["steps"]) + int(entry["tries"]) for entry in entries)
    by_prefect = [entry for entry in entries if entry["through_prefect"]]
    return (
        f"{weeks} weeks, {len(entries)} rounds, {runs} runs, {_kills(entries)} kills:"
        f" {sum(bool(entry['saved']) for entry in could)} of {len(could)} rounds that could be saved were saved;"
        f" {sum(len(entry['wrong']) for entry in entries)} things wrong."
        f" {len(by_prefect)} of these rounds and {_kills(by_prefect)} of these kills were through Prefect."
        f" {_in_peace(entries)}"
    )


def _in_peace(entries: Sequence[Mapping[str, Any]]) -> str:
    """How many runs in peace it took until one ended with 0; the others have asked for something, as `peace` says."""
    tries = Counter(int(entry["tries"]) for entry in entries if entry["saved"])
    told = ", ".join(f"the {ORDINALS[number - 1]} run in {tries[number]}" for number in range(1, TRIES + 1))
    return f"Played in peace, a round was found saved at {told} of them."


def _kills(entries: Sequence[Mapping[str, Any]]) -> int:
    return sum(int(entry["kills"]) for entry in entries)


def written(page: str, table: str, command: str, seed: int, commit: str) -> str:
    """The page with the new table between its marks; `commit` is what the campaign began with."""
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    where = f"`{command}`, seed {seed}, commit {commit}, {machine}, {datetime.now(UTC):%Y-%m-%d}."
    before, begin, rest = page.partition(BEGIN)
    if not begin or END not in rest:
        raise SystemExit(f"the page must have {BEGIN} and {END}, however it has not")
    return f"{before}{BEGIN}\n{table}\n\n{where}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    sys.exit(main())
