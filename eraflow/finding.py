"""What the doctor examines, and what it finds. Decides nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from eraflow.errors import EraflowError
from eraflow.rounds import Round
from eraflow.tournament import API_URL, Tournament
from eraflow.weekly_config import Configuration, default_config_file, read_configuration

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of what the doctor says."""

    name: str
    state: State
    found: str
    do: str = ""
    """What to do now; empty where nothing has to be done."""
    exit_code: int = 0
    """Of the command, for a failure."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is examined."""

    home: Path
    config_file: Path | None
    environ: Mapping[str, str] = field(repr=False)
    """Has keys."""
    deep: bool = False
    """Read every stored file again."""
    alarm_test: bool = False
    """Raise a test alarm."""

    @cached_property
    def path(self) -> Path | None:
        return self.config_file or default_config_file(self.home)

    @cached_property
    def configuration(self) -> Configuration:
        """All defaults where the file is wrong or missing, which is a finding of its own."""
        try:
            return read_configuration(self.path)
        except EraflowError:
            return Configuration()

    @cached_property
    def tournament(self) -> Tournament:
        """With the account's keys. Raises `CredentialsError` for half a pair."""
        return Tournament.from_environment(self.environ)

    @cached_property
    def public(self) -> Tournament:
        """The same without keys: whether it answers does not depend on them."""
        return Tournament(self.environ.get("ERAFLOW_API_URL") or API_URL)

    @cached_property
    def glance(self) -> tuple[Round | None, float] | EraflowError:
        """The open round and how long the answer took [s], or why there was none."""
        started = time.monotonic()
        try:
            return self.public.glance(), time.monotonic() - started
        except EraflowError as error:
            return error

    @property
    def reached(self) -> bool:
        """The tournament answers."""
        return not isinstance(self.glance, EraflowError)


def ok(name: str, found: str) -> Finding:
    return Finding(name=name, state="ok", found=found)


def warn(name: str, found: str, do: str) -> Finding:
    return Finding(name=name, state="warn", found=found, do=do)


def fail(name: str, found: str, do: str, exit_code: int = 1) -> Finding:
    return Finding(name=name, state="fail", found=found, do=do, exit_code=exit_code)
