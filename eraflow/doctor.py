"""Is this machine fit for a round? Each finding says what was found and, where something is wrong, what to do.

Read `examine` and the table `CHECKS`: a small function each, in `doctor_account` for what the user and the tournament
decide, in `doctor_machine` for what this machine has. A check that raises or hangs is a finding like any other.
Nothing is changed, and no key is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from eraflow import doctor_account as account
from eraflow import doctor_machine as machine
from eraflow.errors import EraflowError, worst_exit_code
from eraflow.finding import Case, Finding, fail
from eraflow.later import Later

Check = Callable[[Case], Iterator[Finding]]

CHECK_LIMIT_S = 90.0
DEEP_LIMIT_S = 12 * 3600.0

CHECKS: Mapping[str, Check] = {
    "packages": machine.packages,
    "configuration": account.configuration,
    "keys": account.keys,
    "tournament": account.tournament,
    "clock": account.clock,
    "scopes": account.scopes,
    "slots": account.slots,
    "data version": account.data_version,
    "alarms": account.alarm,
    "device": machine.device,
    "memory": machine.memory,
    "disk": machine.disk,
    "ledger": machine.ledger,
    "stored files": machine.stored_files,
    "Prefect": machine.prefect_server,
}
"""In the order in which they are told."""


def examine(case: Case) -> Iterator[Finding]:
    """Every finding as it is made. Raises nothing."""
    for name, check in CHECKS.items():
        yield from _findings(name, check, case)


def exit_code(findings: Sequence[Finding]) -> int:
    """0 if nothing failed; warnings are no failures."""
    return worst_exit_code(finding.exit_code or 1 for finding in findings if finding.state == "fail")


def line(finding: Finding) -> str:
    """One finding for people."""
    mark = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}[finding.state]
    do = f"\n{'':22}-> {finding.do}" if finding.do else ""
    return f"{mark}  {finding.name:14}  {finding.found}{do}"


def json_object(findings: Sequence[Finding]) -> dict[str, Any]:
    """With stable keys, and `error` where something failed."""
    told: dict[str, Any] = {"findings": [asdict(finding) for finding in findings]}
    failed = [finding for finding in findings if finding.state == "fail"]
    if failed:
        told["error"] = {"code": "unfit", "message": "; ".join(f"{f.name}: {f.found}" for f in failed)}
    return told


def _findings(name: str, check: Check, case: Case) -> list[Finding]:
    limit_s = DEEP_LIMIT_S if case.deep and name == "stored files" else CHECK_LIMIT_S
    try:
        return Later(lambda: list(check(case)), f"the check of {name}").result(limit_s)
    except EraflowError as error:
        return [fail(name, error.message, "", error.exit_code)]
    except Exception as error:
        text = f"unexpected {type(error).__name__}: {str(error)[:200]}"
        return [fail(name, text, "report it")]
