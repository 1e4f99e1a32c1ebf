"""What must hold of a branch of the campaign: of each run, of the tournament in the end, and of every byte written.

Read `look_at`, `look_from_outside`, then `secrets_in`. What does not hold goes into `Branch.wrong`, as a sentence, and
the campaign goes on.
"""

from __future__ import annotations

import base64
import signal
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eraflow.rehearsal import LocalTournament, Submission
from tests.behaviour.crash_points import LEDGER
from tests.behaviour.harmed import Run
from tests.behaviour.soak_branch import Branch
from tests.behaviour.week import SLOTS

EXIT_CODES = range(6)
NOTHING: Mapping[str, Any] = {"submissions": [], "round": None}
ALTERED = "the bytes that came back are not those that were sent"
DAMAGED = "if it is damaged, move it away"


def look_at(branch: Branch, run: Run) -> None:
    """What the user sees of a run is true, it ended as a run may, and shows no traceback."""
    branch.ledger_was_harmed |= LEDGER in run.spoiled
    branch.notes |= {
        str(one["sha256"]): one["note"] for one in (run.result or NOTHING)["submissions"] if one.get("note")
    }
    wrong = [*_wrongly_ended(run), *_wrongly_told(branch, run)]
    if "Traceback" in run.told:
        wrong.append(f"a traceback was shown: {last_of(run)}")
    if "unexpected" in codes_of(run):
        wrong.append(f"an error that nobody expected: {_messages(run)}")
    branch.wrong += wrong


def _wrongly_ended(run: Run) -> list[str]:
    if run.hangs:
        return [f"a run hangs: {last_of(run)}"]
    stopped = {128 + signal.SIGTERM} if signal.SIGTERM in run.signals else set[int]()
    if run.exit_code in {*EXIT_CODES, *stopped, *(-one for one in run.signals)}:
        return []
    return [f"a run ended with {run.exit_code}: {last_of(run)}"]


def _wrongly_told(branch: Branch, run: Run) -> list[str]:
    told = run.result or NOTHING
    entries = told["submissions"]
    wrong = [
        f"a receipt is verified of which the tournament has no such submission: round {told['round']}, {entry}"
        for entry in entries
        if entry["verified"] and not any(_is_of(one, told["round"], entry) for one in _standing(branch))
    ]
    verified = sorted(entry["model"] for entry in entries if entry["verified"])
    if run.exit_code == 0:
        late = [one for one in _standing(branch) if one.late]
        wrong += [f"exit code 0 with what is late: {entry}" for entry in entries for one in late
                  if _is_of(one, told["round"], entry)]  # fmt: skip
    if run.exit_code == 0 and (verified != sorted(SLOTS) or len(entries) != len(SLOTS)):
        wrong.append(f"exit code 0 without a verified receipt of each slot: {entries if run.result else 'no result'}")
    return wrong


def _standing(branch: Branch) -> list[Submission]:
    """Those that a receipt may be of: on time, but where the deadline passed while one was being made."""
    made = [one for one in branch.local.accepted() if not one.carried_over]
    return [one for one in made if branch.may_be_late or not one.late]


def _is_of(one: Submission, number: int | None, entry: Mapping[str, Any]) -> bool:
    if (one.round, one.slot) != (number, entry["model"]):
        return False
    # One that this ledger does not know is recognised by its id where its bytes could not be read.
    if entry.get("origin") == "foreign" and entry["sha256"] is None:
        return bool(one.id == entry["submission_id"])
    return bool(one.sha256 == entry["sha256"] and entry["submission_id"] in (None, one.id))


def look_from_outside(branch: Branch, references: Mapping[int, Mapping[str, str]]) -> None:
    """What the tournament holds is once there, was meant, and is what a round without trouble would have sent.

    `references`: round -> slot -> sha256 of that.
    """
    made = dict[tuple[int, str], list[Submission]]()
    for one in branch.made():
        if one.valid and one.sha256 in branch.altered:
            continue  # it can only be replaced, and no receipt of it is verified
        if one.valid:
            made.setdefault((one.round, one.model_id), []).append(one)
        elif not branch.other_ids:
            branch.wrong.append(f"the tournament's validator refused what was sent: {one.error}")
    for (number, _), sent in made.items():
        if len(sent) > 1 + branch.resubmits:
            branch.wrong.append(f"round {number}, slot {sent[0].slot}: {len(sent)} submissions in place of one")
    all_sent = [one for sent in made.values() for one in sent]
    late = sorted((one for one in all_sent if one.late), key=lambda one: one.inserted_at_utc)
    # One that was on its way when the deadline passed came before any other.
    branch.wrong += [f"round {one.round}, slot {one.slot}: what was sent is late" for one in late[branch.may_be_late :]]
    _look_at_bytes(branch, all_sent, references)
    if not branch.ledger_was_harmed:
        _look_at_ledger(branch, all_sent)


def _look_at_bytes(branch: Branch, all_sent: Iterable[Submission], references: Mapping[int, Mapping[str, str]]) -> None:
    others = {
        one.slot
        for one in all_sent
        if one.round in references and one.sha256 != references[one.round].get(one.slot)
        # What a trouble has changed, or another model than a fresh one has predicted, and the receipt says so.
        if one.id not in branch.other_bytes and one.sha256 not in branch.notes
    }
    branch.wrong += [f"slot {slot}: other bytes than those of a round without trouble" for slot in sorted(others)]


def _look_at_ledger(branch: Branch, all_sent: Iterable[Submission]) -> None:
    """An attempt whose answer was lost is resolved by the next run of its round, if its slot is still there."""
    known = _known(branch.folder / "home" / LEDGER)
    latest, slots = branch.local._core.latest().number, {slot.id for slot in branch.local._core.state.slots}
    for one in all_sent:
        settled = branch.in_peace and one.round == latest and one.model_id in slots
        states = ("submitted", "verified") if settled else ("sending", "submitted", "verified")
        if not any((one.round, one.slot, str(one.sha256), state) in known for state in states):
            branch.wrong.append(f"round {one.round}, slot {one.slot}: a submission that the ledger does not know")


def is_saved(branch: Branch) -> bool:
    """Whether each slot of the account has its on-time submission for the latest round."""
    latest = branch.local._core.latest().number
    there = {one.model_id for one in branch.local.accepted(latest) if not one.carried_over and not one.late}
    return {slot.id for slot in branch.local._core.state.slots if slot.name in SLOTS} <= there


def _known(ledger: Path) -> set[tuple[int, str, str, str]]:
    if not ledger.exists():
        return set()
    connection = sqlite3.connect(ledger)
    try:
        rows = connection.execute("SELECT round, slot, sha256, state FROM attempts").fetchall()
    finally:
        connection.close()
    return {(int(number), str(slot), str(sha256), str(state)) for number, slot, sha256, state in rows}


def codes_of(run: Run) -> tuple[str, ...]:
    """Error codes of a run and its slots."""
    return tuple(sorted({str(error["code"]) for error in _errors(run)}))


def _messages(run: Run) -> str:
    return "; ".join(sorted({str(error["message"]) for error in _errors(run)}))


def _errors(run: Run) -> list[Mapping[str, Any]]:
    found = run.result or NOTHING
    return [one["error"] for one in (*found["submissions"], found) if one.get("error")]


def said_by(run: Run) -> str:
    """The messages of its errors, or the last line that it told."""
    return _messages(run) or last_of(run)


def last_of(run: Run) -> str:
    """The last line that it told."""
    return "".join(run.told.strip().splitlines()[-1:]) or "it said nothing"


def secrets_of(local: LocalTournament) -> dict[str, str]:
    """What must stand in no byte that is written, each with its name."""
    return {"the secret key": local.secret_key, "the public id": local.public_id, "a signature": "signature="}


def secrets_in(folder: Path, secrets: Mapping[str, str]) -> list[str]:
    """Which files below `folder`, but the tournament's own, hold one of the `secrets`."""
    files = [one for one in sorted(folder.rglob("*")) if one.relative_to(folder).parts[0] != "tournament"]
    return [
        f"{path.name} holds {name}" for path in files if path.is_file() for name in held(path.read_bytes(), secrets)
    ]


def held(data: bytes, secrets: Mapping[str, str]) -> list[str]:
    """Names of the `secrets` that stand in `data`: as they are, as in an address, their first 24 characters, and
    these in base64.
    """
    forms = {
        name: {text.encode(), quote(text, safe="").encode(), text[:24].encode(), *_in_base64(text[:24].encode())}
        for name, text in secrets.items()
    }
    return [name for name, written in forms.items() if any(form in data for form in written)]


def _in_base64(data: bytes) -> set[bytes]:
    """What is sure to stand in the base64 of whatever holds `data`, wherever in there it begins, in both alphabets."""
    found = set[bytes]()
    for before in range(3):
        # The first and the last characters hold bits of their neighbours.
        skipped, kept = -(-8 * before // 6), 8 * (before + len(data)) // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(bytes(before) + data)[skipped:kept])
    return found
