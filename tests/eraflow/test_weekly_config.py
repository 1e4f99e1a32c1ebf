"""The configuration file: what it may hold, and by which path what is wrong is refused."""

from __future__ import annotations

import re
import subprocess
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

import pytest

from eraflow.errors import InputError
from eraflow.weekly_config import (
    Configuration,
    default_config_file,
    from_environment,
    next_times,
    read_configuration,
)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "weekly.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[schedule]\ntime_zone = ""\n', r"schedule.time_zone must name a time zone, .* however '' was given"),
        ('[schedule]\ntime_zone = "Mars/Olympus"\n', "schedule.time_zone must name a time zone"),
        ('[schedule]\nweekly = ["61 * * * *"]\n', r"schedule.weekly must hold five-field crons, however '61 \* \* \*"),
        ('[schedule]\ndaily = "58 11 * * 2-5"\n', "schedule.daily must be a list"),
        ("[fallback]\nmax_age_weeks = -1\n", "fallback.max_age_weeks must be 0 or more"),
        ("[fallback]\nmax_age = 1\n", "unknown key fallback.max_age; did you mean max_age_weeks"),
        ("[alarm]\nurls = [1]\n", r"alarm.urls\[0\] must be text"),
        ("[alarm]\nurl = []\n", "unknown key alarm.url; did you mean urls"),
        ("[submission]\nlates = 1\n", "unknown key submission.lates; did you mean late"),
        (
            'data_version = "../v5.3"\n',
            r"data_version must be the name of one folder, as v5.3, however '\.\./v5.3' was",
        ),
        ('data_version = "/v5.3"\n', "data_version must be the name of one folder"),
        ('data_version = ".."\n', "data_version must be the name of one folder"),
        ('data_version = ""\n', "data_version must be the name of one folder"),
    ],
)
def test_what_is_wrong_is_refused_by_its_file_and_its_path(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: {said}"):
        read_configuration(path)


@pytest.mark.parametrize(
    "text",
    [
        '[alarm]\nurls = "mailtos://me:hidden@host"\n',
        '[alarm]\nurls = [["mailtos://me:hidden@host"]]\n',
        '[alarm]\nheartbeat_url = ["https://host/hidden"]\n',
        'alarm = "mailtos://me:hidden@host"\n',
    ],
)
def test_no_address_is_told_where_one_stands_in_the_wrong_place(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"alarm.* must be .*, however it is not; .* may be a secret") as refused:
        read_configuration(written(tmp_path, text))
    assert "hidden" not in "".join(traceback.format_exception(refused.value))


def test_without_a_file_everything_has_its_default(tmp_path: Path) -> None:
    assert read_configuration(None) == Configuration()
    assert default_config_file(tmp_path) is None
    assert default_config_file(written(tmp_path, "").parent) == tmp_path / "weekly.toml"


def test_what_a_run_gets_holds_no_address(tmp_path: Path) -> None:
    path = written(tmp_path, '[slots]\none = "simple-mlp"\n[alarm]\nurls = ["json://token@somewhere"]\n')
    configuration = read_configuration(path)
    assert configuration.alarm.urls == ("json://token@somewhere",)
    assert "token" not in repr(configuration)
    assert not hasattr(configuration.weekly, "alarm")
    assert configuration.weekly.slots == {"one": "simple-mlp"}


def test_a_text_may_be_read_from_the_environment() -> None:
    assert from_environment("$TOLD", "alarm.urls[0]", {"TOLD": "json://somewhere"}) == "json://somewhere"
    assert from_environment("json://somewhere", "alarm.urls[0]", {}) == "json://somewhere"
    with pytest.raises(InputError, match=r"alarm.urls\[0\] reads the environment variable TOLD, however it is not set"):
        from_environment("$TOLD", "alarm.urls[0]", {})


def test_the_next_times_are_those_of_all_crons_in_utc() -> None:
    after = datetime(2026, 11, 27, 18, tzinfo=UTC)
    found = next_times(["5 12 * * 6", "5 2 * * 0"], "UTC", after, 3)
    assert [f"{moment:%a %H:%M}" for moment in found] == ["Sat 12:05", "Sun 02:05", "Sat 12:05"]
    assert next_times(["5 12 * * 6"], "Europe/Berlin", after, 1)[0].hour == 11


def test_reading_it_needs_neither_torch_nor_the_client() -> None:
    code = "import sys, eraflow.weekly_config; print({'torch', 'numerapi', 'pandas', 'prefect'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
