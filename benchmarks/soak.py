"""A year of weeks in which everything goes wrong: is each round submitted exactly once, as meant, and verified?

    python -m benchmarks.soak [--weeks 52] [--branches 5] [--seed 0] [--home FOLDER] [...]
    python -m benchmarks.soak --home FOLDER --replay WEEK.BRANCH

A campaign against the local tournament with the real client. Each week one more round opens, and is played in several
branches that begin alike: in each, runs are killed at random moments and before random writes, and meet whatever else
`tests.behaviour.troubles` knows; then the round is played in peace and looked at from the tournament's side and from
the user's (`tests.behaviour.soak`). The week goes on from its last branch. With a --home it can be stopped at any time
and goes on where it was; what went wrong there is played again alone with --replay. Ends with 1 if anything was sent
twice, lost, wrong or not verified, a traceback was shown, or a secret was written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eraflow.rehearsal import LocalTournament
from tests.behaviour.crash_points import points_of
from tests.behaviour.harmed import play_harmed
from tests.behaviour.soak import MARKET, Begun, Outcome, play_branch, request_of
from tests.behaviour.soak_prefect import HARMS, made_database, play_branch_with_prefect
from tests.behaviour.troubles import KILLS, TROUBLES, Trouble
from tests.behaviour.week import Week
from tests.eraflow.certificate import write_certificate
from tests.eraflow.raw_server import JSON, Server, sending

JOURNAL = "journal.jsonl"
BEGIN, END = "<!-- what `benchmarks.soak` writes begins -->", "<!-- and ends -->"
ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weeks", type=int, default=12)
    parser.add_argument("--branches", type=int, default=5, help="so many a week")
    parser.add_argument("--prefect-every", type=int, default=3, metavar="N", help="one of each N-th week, by Prefect")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, help="where the campaign is kept, to be stopped and continued")
    parser.add_argument("--replay", metavar="WEEK.BRANCH", help="play one branch of a campaign that is kept, alone")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table and its explanation there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eraflow-soak-") as temporary, _untrusted(Path(temporary)) as untrusted:
        home = (given.home or Path(temporary) / "campaign").resolve()
        campaign = Campaign(home, given.seed, given.branches, given.prefect_every, untrusted)
        if given.replay:
            return campaign.replay(*given.replay.split("."))
        for week in range(1, given.weeks + 1):
            campaign.play(week)
        entries = campaign.entries()
    text = told(entries)
    print(text)
    if given.write:
        command = f"python -m benchmarks.soak {' '.join(sys.argv[1:])}"
        given.write.write_text(written(given.write.read_text(encoding="utf-8"), text, command), encoding="utf-8")
    return 1 if any(one["wrong"] for one in entries) else 0


class Campaign:
    """What was played so far, and what comes next. `home` holds a folder a week and the journal."""

    def __init__(self, home: Path, seed: int, branches: int, prefect_every: int, untrusted: str) -> None:
        self._home, self._seed, self._branches, self._untrusted = home, seed, branches, untrusted
        self._prefect_every, self._database, self._duration_s = prefect_every, home / "prefect.db", 0.0
        home.mkdir(parents=True, exist_ok=True)

    def entries(self) -> list[dict[str, Any]]:
        """All branches that were played, in order."""
        journal = self._home / JOURNAL
        lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return list({one["branch"]: one for one in found if one["seed"] == self._seed}.values())

    def play(self, week: int) -> None:
        """The branches of a week that were not played yet."""
        done = {one["branch"] for one in self.entries()}
        coming = [(number, self._name(week, number)) for number in range(1, self._branches + 1)]
        if all(name in done for _, name in coming) and self._folder(week + 1).exists():
            return
        begun = self._begin(week)
        for number, name in coming:
            if name in done and number < self._branches:
                continue
            self._play(name, week, number, begun)

    def replay(self, week: str, number: str) -> int:
        """One branch again, alone; what it leaves stays in the campaign's home."""
        folder = self._home / f"replayed-{week}.{number}"
        shutil.rmtree(folder, ignore_errors=True)
        outcome = self._outcome(int(week), int(number), self._begin(int(week)), folder)
        print(json.dumps(outcome.as_table(), indent=1))
        return 1 if outcome.wrong else 0

    def _play(self, name: str, week: int, number: int, begun: Begun) -> None:
        folder = self._home / "playing"
        shutil.rmtree(folder, ignore_errors=True)
        outcome = self._outcome(week, number, begun, folder)
        with (self._home / JOURNAL).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps({"seed": self._seed, "week": week} | outcome.as_table()) + "\n")
        print(_line(name, outcome.as_table()), flush=True)
        if number == self._branches:
            self._go_on(week, folder if outcome.saved else None)
        if outcome.wrong:
            shutil.copytree(folder, self._home / f"wrong-{week}.{number}", dirs_exist_ok=True)

    def _outcome(self, week: int, number: int, begun: Begun, folder: Path) -> Outcome:
        name = self._name(week, number)
        if number > 1 or week % self._prefect_every:
            return play_branch(name, begun, folder, self._troubles(week, number))
        if not self._duration_s:
            with tempfile.TemporaryDirectory(prefix="eraflow-soak-") as temporary:
                self._duration_s = made_database(begun, Path(temporary), self._database)
        return play_branch_with_prefect(name, begun, folder, self._database, self._duration_s)

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

    def _go_on(self, week: int, end: Path | None) -> None:
        """The next week begins where the last branch ended, or as the last one did if that was lost."""
        with _whole(self._folder(week + 1)) as partial:
            shutil.rmtree(partial)
            shutil.copytree(end or self._folder(week), partial)
            shutil.rmtree(partial / "logs", ignore_errors=True)
            with LocalTournament(partial / "tournament", market=MARKET) as local:
                local.open_next_round(delay_s=0)

    def _troubles(self, week: int, number: int) -> Sequence[Trouble]:
        """Each trouble has its turn before any has its second one."""
        turn, place = divmod((week - 1) * self._branches + number - 1, len(TROUBLES))
        order = random.Random(f"{self._seed} {turn}").sample(TROUBLES, len(TROUBLES))  # noqa: S311 -- must repeat
        return [order[place]]

    def _folder(self, week: int) -> Path:
        return self._home / f"week-{week}-of-{self._seed}"

    def _name(self, week: int, number: int) -> str:
        return f"{self._seed}.{week}.{number}"


def _unharmed(folder: Path, temporary: Path, untrusted: str) -> Begun:
    shutil.copytree(folder, temporary / "world")
    with LocalTournament(temporary / "world" / "tournament", market=MARKET) as local:
        week = Week(local, temporary / "world" / "home")
        whole = play_harmed(week.environment, request_of(week), temporary / "logs")
        if whole.exit_code:
            raise SystemExit(f"a round without trouble ended with {whole.exit_code}: {whole.told}")
        sha256 = local.submissions()[-1].sha256
    shutil.rmtree(temporary / "world")
    shutil.copytree(folder, temporary / "world")
    with LocalTournament(temporary / "world" / "tournament", market=MARKET) as local:
        week = Week(local, temporary / "world" / "home")
        began_s = time.monotonic()
        points = points_of(week.environment, request_of(week), temporary / "told")
        seconds = time.monotonic() - began_s
    return Begun(folder=folder, duration_s=seconds, points=len(points.names), sha256=str(sha256), untrusted=untrusted)


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
    steps = ", ".join(f"{' + '.join(one['troubles'])} ({one['exit_code']})" for one in outcome["steps"])
    ended = "saved" if outcome["saved"] else "lost" if outcome["could_be_saved"] else "could not be saved"
    told = f"{name}: {steps}: {ended}, {outcome['seconds']:g} s"
    return "\n".join([told, *(f"  WRONG: {one}" for one in outcome["wrong"])])


def told(entries: Sequence[Mapping[str, Any]]) -> str:
    """The table of troubles and outcomes, and the sums."""
    doors = {trouble.name: trouble.door for trouble in (*KILLS, *TROUBLES)} | {"two runs at once": "disk"}
    doors |= dict.fromkeys(HARMS, "Prefect")
    lines = ["| door | trouble | runs | they ended with | rounds saved | wrong |", "|---|---|---|---|---|---|"]
    for name, door in sorted(doors.items(), key=lambda one: list(doors.values()).index(one[1])):
        met = [(entry, step) for entry in entries for step in entry["steps"] if name in step["troubles"]]
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
    """All of it in a sentence."""
    could = [entry for entry in entries if entry["could_be_saved"]]
    weeks = len({entry["week"] for entry in entries})
    runs = sum(len(entry["steps"]) + int(entry["tries"]) for entry in entries)
    return (
        f"{weeks} weeks, {len(entries)} rounds, {runs} runs, {sum(int(entry['kills']) for entry in entries)} kills:"
        f" {sum(bool(entry['saved']) for entry in could)} of {len(could)} rounds that could be saved were saved;"
        f" {sum(len(entry['wrong']) for entry in entries)} things wrong."
    )


def written(page: str, table: str, command: str) -> str:
    """The page with the new table between its marks."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)  # noqa: S607
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    where = f"`{command}`, commit {commit.stdout.strip()}, {machine}, {datetime.now(UTC):%Y-%m-%d}."
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table}\n\n{where}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    sys.exit(main())
