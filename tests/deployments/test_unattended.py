"""What runs eraflow where nobody sits: systemd units, crontab and container file.

The units are judged by systemd's own tool, the crontab's lines are read by a real shell, and the moments of both are
laid against every delay with which a round was seen to open. Nothing is installed, started or built here.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import product
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

import pytest

from eraflow.rehearsal.timetable import FIRST_NUMBER, ScheduledRound, Timetable, observed_delays_s
from eraflow.weekly_config import ScheduleConfig, next_times
from flows import supervisor
from flows.command import _parser
from tests.conftest import ROOT

FOLDER = ROOT / "deployments"
UNITS = ("eraflow.service", "eraflow-watch.service", "eraflow-watch.timer")
PROGRAM = "/opt/eraflow/.venv/bin/eraflow"
SATURDAY_UTC = datetime(2026, 11, 21, tzinfo=UTC)
WEEK = timedelta(days=7)
EACH_CRON = timedelta(minutes=5)
# Each minute from the stroke of noon, as announced, to the longest delay that was seen.
DELAYS_S = (*range(0, max(observed_delays_s()), 60), max(observed_delays_s()))


def text_of(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


# The units


def directives(name: str) -> dict[str, list[str]]:
    """Key -> its values, of all sections of a unit: no key of ours is in two."""
    found: dict[str, list[str]] = {}
    for line in text_of(name).splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


@pytest.fixture
def systemd_analyze() -> str:
    """systemd's own judge; skips where there is none, and fails on CI."""
    found = shutil.which("systemd-analyze")
    if found is None:
        reason = "systemd-analyze is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}, and on CI nothing may be skipped")
        pytest.skip(reason)
    return found


def run(*command: str, **environment: str) -> str:
    """Standard output of a command that must succeed and complain of nothing."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong_with_a_unit(name: str, systemd_analyze: str, tmp_path: Path) -> None:
    for unit in UNITS:  # a timer is judged together with its service
        (tmp_path / unit).write_text(text_of(unit).replace(PROGRAM, sys.executable))
    run(systemd_analyze, "verify", "--man=no", str(tmp_path / name))


def test_what_is_started_are_commands_of_ours() -> None:
    container = dict(instructions())
    started = [
        *(directives(name)["ExecStart"][0] for name in UNITS[:2]),
        *re.findall(rf"{PROGRAM}[^>]*", text_of("crontab")),
        shlex.join(json.loads(container["ENTRYPOINT"]) + json.loads(container["CMD"])),
    ]
    said = [shlex.split(command)[1:] for command in started]
    for arguments in said:
        _parser().parse_args(arguments)
    assert said == [["up"], ["status", "--check"], ["up"], *2 * [["status", "--check"]], ["up"]]


def test_a_stop_by_systemd_leaves_up_the_time_that_it_takes() -> None:
    found = directives("eraflow.service")
    needs_s = supervisor.RUNS_GRACE_S + supervisor.SETTLING_S + supervisor.SERVING_GRACE_S + supervisor.SERVER_GRACE_S
    assert float(found["TimeoutStopSec"][0]) >= needs_s + 5
    assert found["KillMode"] == ["mixed"], "a child that is told first would be started again by its parent"


def test_up_is_started_again_however_and_however_often_it_ended() -> None:
    found = directives("eraflow.service")
    assert (found["Restart"], found["StartLimitIntervalSec"]) == (["always"], ["0"])
    assert found["OOMPolicy"] == ["continue"], "a training that is killed for its memory would take all else with it"


def test_both_services_see_and_may_do_the_same() -> None:
    own = {"Type", "ExecStart", "Description", "TimeoutStartSec", "OOMScoreAdjust", "MemoryMax", "OOMPolicy"}
    own |= {"Restart", "RestartSec", "StartLimitIntervalSec", "WantedBy"}
    up, watch = ({key: value for key, value in directives(name).items() if key not in own} for name in UNITS[:2])
    assert up == watch
    assert up["User"] == ["eraflow"]
    assert up["ProtectSystem"] == ["strict"]


@pytest.mark.parametrize("name", UNITS[:2])
def test_what_a_service_writes_is_for_its_user_alone(name: str) -> None:
    found = directives(name)
    assert (found["UMask"], found["StateDirectoryMode"]) == (["0077"], ["0700"])


def test_no_file_holds_a_key_or_a_place_on_the_network() -> None:
    for name in (*UNITS, "crontab", "Containerfile"):
        assert re.findall(r"(?:NUMERAI_\w+|https?:)\S*", text_of(name)) == []


# When the dead man's switch looks


@cache
def of_timer() -> frozenset[datetime]:
    """The moments of one week, as systemd itself reads them on a machine in Nepal, where it is 5:45 h later."""
    command = ["systemd-analyze", "calendar", "--iterations=40", f"--base-time={SATURDAY_UTC:%Y-%m-%d %H:%M:%S} UTC"]
    told = run(*command, *directives("eraflow-watch.timer")["OnCalendar"], TZ="Asia/Kathmandu", LC_ALL="C")
    moments = re.findall(r"\(in UTC\): \w{3} (\S+ \S+) UTC", told)
    found = {datetime.strptime(moment, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) for moment in moments}
    return frozenset(moment for moment in found if moment < SATURDAY_UTC + WEEK)


@cache
def of_crontab() -> frozenset[datetime]:
    """The moments of one week at which a shell that reads the lines starts the check."""
    moments = [SATURDAY_UTC + i * EACH_CRON for i in range(WEEK // EACH_CRON)]
    words = "".join(f"{moment:%a-%H:%M} {moment.isoformat()}\n" for moment in moments)
    found = []
    for line in checks_of_crontab():
        cases = re.fullmatch(r"case \$\([^)]*\) in (\S+)\) .*;; esac", line)
        assert cases is not None, line
        loop = f'while read -r word moment; do case $word in {cases[1]}) echo "$moment";; esac; done'
        done = subprocess.run(["sh", "-c", loop], input=words, capture_output=True, text=True, check=True, timeout=60)
        found += done.stdout.split()
    assert len(set(found)) == len(found), "two lines would start it at the same moment"
    return frozenset(map(datetime.fromisoformat, found))


def checks_of_crontab() -> list[str]:
    """The commands of the lines that check, as cron hands them to the shell: a percent sign has to be escaped."""
    lines = [line for line in text_of("crontab").splitlines() if line and not line.startswith("#")]
    fields = [line.split(maxsplit=5) for line in lines]
    assert {tuple(of_line[:5]) for of_line in fields} == {("*/5", "*", "*", "*", "*")}
    assert all(not re.search(r"(?<!\\)%", of_line[5]) for of_line in fields), "cron would end the command there"
    return [of_line[5].replace(r"\%", "%") for of_line in fields if "--check" in of_line[5]]


BOTH = pytest.mark.parametrize("moments", [pytest.param(of_timer, id="timer"), pytest.param(of_crontab, id="crontab")])
Moments = Callable[[], frozenset[datetime]]


def of_every_delay() -> list[ScheduledRound]:
    """The five rounds of the week, with each delay."""
    numbers, noon_utc = range(FIRST_NUMBER, FIRST_NUMBER + 5), SATURDAY_UTC + timedelta(hours=12)
    return [
        Timetable(noon_utc, weekly_only=False, seed=0, delay_s_of={number: delay_s}).round(number)
        for number, delay_s in product(numbers, DELAYS_S)
    ]


@BOTH
def test_each_window_is_looked_at_twice_however_late_it_opens(moments: Moments, systemd_analyze: str) -> None:
    some = timedelta(minutes=10)  # for whoever should submit, and for whoever does it instead
    for opened in of_every_delay():
        looks = [at for at in moments() if opened.opens_at_utc + some <= at <= opened.closes_at_utc - some]
        assert len(looks) >= 2, opened


@BOTH
def test_each_window_is_looked_at_in_its_last_half_hour_with_a_quarter_left(
    moments: Moments, systemd_analyze: str
) -> None:
    for opened in of_every_delay():
        left_s = [(opened.closes_at_utc - at).total_seconds() for at in moments()]
        assert [one for one in left_s if 900 <= one <= 1800], opened


def test_timer_and_crontab_look_at_the_same_moments(systemd_analyze: str) -> None:
    assert of_timer() == of_crontab()
    assert len(of_timer()) == 11 + 4 * 7


def test_no_look_coincides_with_one_of_prefects_own(systemd_analyze: str) -> None:
    schedule = ScheduleConfig()
    own = next_times(schedule.watch, schedule.time_zone, SATURDAY_UTC, 40)
    assert min(abs(look - other) for look, other in product(of_timer(), own)) >= timedelta(minutes=3)


def test_the_timer_makes_up_for_a_moment_when_the_machine_was_off_and_is_never_late_on_purpose() -> None:
    found = directives("eraflow-watch.timer")
    assert (found["Persistent"], found["AccuracySec"], found["RandomizedDelaySec"]) == (["true"], ["1s"], ["0"])


def test_no_time_zone_moves_a_look_of_the_crontab() -> None:
    offsets = {SATURDAY_UTC.astimezone(ZoneInfo(name)).utcoffset() for name in available_timezones()}
    assert {offset % EACH_CRON for offset in offsets if offset is not None} == {timedelta(0)}


@pytest.mark.parametrize("escaped", [False, True], ids=["unescaped by cron", "as it stands"])
def test_the_shell_learns_the_moment_in_utc_whatever_the_zone_of_the_machine(escaped: bool) -> None:
    (asked,) = set(re.findall(r"\$\([^)]*\)", text_of("crontab")))
    before = datetime.now(UTC)
    told = run("sh", "-c", f"echo {asked if escaped else asked.replace(chr(92), '')}", TZ="Asia/Kathmandu")
    assert told.strip() in {f"{moment:%a-%H:%M}" for moment in (before, datetime.now(UTC))}


# The container


def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments, in order, with continued lines joined."""
    lines = [line for line in text_of("Containerfile").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def test_the_container_file_has_known_instructions_and_a_base_with_a_version() -> None:
    known = {"FROM", "ARG", "RUN", "COPY", "WORKDIR", "ENV", "USER", "VOLUME", "HEALTHCHECK", "STOPSIGNAL"}
    names = [name for name, _ in instructions()]
    assert set(names) <= known | {"ENTRYPOINT", "CMD"}
    assert names[0] == "FROM"
    assert names.count("FROM") == names.count("ENTRYPOINT") == names.count("CMD") == names.count("HEALTHCHECK") == 1
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", dict(instructions())["FROM"])


def test_the_container_runs_as_nobody_in_particular() -> None:
    names = [name for name, _ in instructions()]
    (user,) = [arguments for name, arguments in instructions() if name == "USER"]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert f"--uid {user.partition(':')[0]} " in text_of("Containerfile")
    assert "RUN" not in names[names.index("USER") :]


def test_what_the_container_copies_exists_and_is_all_that_the_build_sees() -> None:
    copied = {source for name, rest in instructions() if name == "COPY" for source in rest.split()[:-1]}
    assert all((ROOT / source).exists() for source in copied)
    everything, *kept = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("#", "")
    ]
    assert everything == "*"
    assert {line.removeprefix("!") for line in kept if line.startswith("!")} == copied
    assert {"eraflow", "tasks", "flows", "deployments", "pyproject.toml", "README.md", "LICENSE"} <= copied


class _Server(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_the_containers_health_is_that_of_the_server(tmp_path: Path) -> None:
    (check,) = [arguments for name, arguments in instructions() if name == "HEALTHCHECK"]
    _, flag, code = json.loads(check[check.index("[") :])
    assert "/var/lib/eraflow/up.json" in code
    state = tmp_path / "up.json"
    command = [sys.executable, flag, code.replace("/var/lib/eraflow/up.json", str(state))]

    def healthy() -> bool:
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0

    assert not healthy(), "nothing has been started"
    with http.server.HTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        state.write_text(json.dumps({"api_url": f"http://127.0.0.1:{server.server_port}/api"}))
        assert healthy()
        _Server.status = 503
        assert not healthy()
        server.shutdown()


def test_each_file_is_explained() -> None:
    ours = {path.name for path in FOLDER.iterdir() if path.is_file()} - {"__init__.py", "README.md"}
    assert {name for name in ours if f"`{name}`" not in text_of("README.md")} == set()
