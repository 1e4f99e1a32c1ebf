"""Drive a local tournament that another process serves, through `POST /control`."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from eraflow.errors import InputError
from eraflow.rehearsal.faults import Fault
from eraflow.rehearsal.state import Submission


class RemoteControl:
    """The calls of `LocalTournament` for the one that serves `home`.

    Every call raises `InputError` if the tournament refuses it or is not running.
    """

    def __init__(self, home: Path, timeout_s: float = 300.0) -> None:
        self.home, self._timeout_s = home, timeout_s

    @property
    def environment(self) -> dict[str, str]:
        """Address and keys as environment variables."""
        return _read_environment(self.home / "tournament.env")

    @property
    def url(self) -> str:
        return self.environment["ERAFLOW_API_URL"]

    def now_utc(self) -> datetime:
        return datetime.fromisoformat(self.call("now_utc"))

    def move_clock(self, seconds: float) -> None:
        self.call("move_clock", seconds=seconds)

    def open_round(self) -> int | None:
        found = self.call("open_round")
        return None if found is None else int(found)

    def open_next_round(self, delay_s: float | None = None) -> int:
        return int(self.call("open_next_round", delay_s=delay_s))

    def delay_next_round(self, delay_s: float | None) -> int:
        return int(self.call("delay_next_round", delay_s=delay_s))

    def set_pace(self, every_s: float, window_s: float | None = None, delay_scale: float = 0.0) -> None:
        self.call("set_pace", every_s=every_s, window_s=window_s, delay_scale=delay_scale)

    def close_round(self) -> int:
        return int(self.call("close_round"))

    def move_deadline(self, seconds: float) -> datetime:
        return datetime.fromisoformat(self.call("move_deadline", seconds=seconds))

    def accepted(self, round: int | None = None) -> list[Submission]:
        return [Submission(**table) for table in self.call("accepted", round=round)]

    def requests(self) -> list[tuple[str, str, str]]:
        return [(method, path, root) for method, path, root in self.call("requests")]

    def add_faults(self, *faults: Fault) -> None:
        self.call("add_faults", faults=[fault.as_table() for fault in faults])

    def clear_faults(self) -> None:
        self.call("clear_faults")

    def set_file(self, name: str, path: Path | None) -> None:
        self.call("set_file", name=name, path=None if path is None else str(path))

    def add_slot(self, name: str, hosted: bool = False) -> str:
        return str(self.call("add_slot", name=name, hosted=hosted))

    def remove_slot(self, name: str) -> None:
        self.call("remove_slot", name=name)

    def set_scopes(self, scopes: Sequence[str]) -> None:
        self.call("set_scopes", scopes=list(scopes))

    def add_data_version(self, version: str) -> None:
        self.call("add_data_version", version=version)

    def withdraw_data_version(self, version: str) -> None:
        self.call("withdraw_data_version", version=version)

    def return_data_version(self, version: str) -> None:
        self.call("return_data_version", version=version)

    def call(self, call: str, **arguments: Any) -> Any:
        """One call by its name, with plain values in and out."""
        address = f"{self.url}/control"
        token = json.loads((self.home / "keys.json").read_text(encoding="utf-8"))["control_token"]
        body = json.dumps({"token": token, "call": call, "arguments": arguments}).encode()
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})  # noqa: S310 -- loopback
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310
                return json.load(answer)["result"]
        except urllib.error.HTTPError as error:
            with error:
                text = json.load(error).get("error", error.reason)
            raise InputError(f"the local tournament refuses {call}: {text}") from None
        except OSError as error:
            raise InputError(f"the local tournament of {self.home} must be running, however: {error}") from error


def _read_environment(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path.parent} must be the home of a local tournament, however {path} is missing") from error
    return dict(line.split("=", 1) for line in lines)
