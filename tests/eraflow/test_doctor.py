"""Is this machine fit: each thing that can be wrong is found, and said with what to do."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from eraflow import doctor, doctor_account, doctor_machine
from eraflow.client import Keys
from eraflow.dataset import decode, read_features_json
from eraflow.files import fetch_files
from eraflow.finding import Case, Finding
from eraflow.ledger import Ledger, Score
from eraflow.rehearsal import LocalTournament
from eraflow.rounds import system_now_utc
from eraflow.store import Store
from eraflow.tournament import Tournament
from tests.eraflow.raw_server import OK, Server, closed_port, sending

CONFIG = '[slots]\nrehearsal_one = "simple-mlp"\n'
TAKEN = sending(OK + b"Content-Length: 0\r\n\r\n")


@pytest.fixture
def case(local: LocalTournament, tmp_path: Path) -> Case:
    """A home with a configuration and keys, at a tournament that answers."""
    home = Store.open(tmp_path / "home").home
    (home / "weekly.toml").write_text(CONFIG)
    environ = {
        "ERAFLOW_API_URL": local.url,
        "NUMERAI_PUBLIC_ID": local.public_id,
        "NUMERAI_SECRET_KEY": local.secret_key,
    }
    return Case(home=home, config_file=None, environ=environ)


def changed(case: Case, *, config: str | None = None, deep: bool = False, **environ: str) -> Case:
    """The same with another configuration or environment, looked at afresh."""
    if config is not None:
        (case.home / "weekly.toml").write_text(config)
    return Case(home=case.home, config_file=None, environ={**case.environ, **environ}, deep=deep)


def only(check: doctor.Check, case: Case) -> Finding:
    (finding,) = check(case)
    return finding


def test_a_machine_that_is_fit_has_no_failure(local: LocalTournament, case: Case) -> None:
    local.move_clock((system_now_utc() - local.now_utc()).total_seconds())
    findings = list(doctor.examine(case))
    assert [finding for finding in findings if finding.state == "fail"] == []
    assert {finding.name for finding in findings} == set(doctor.CHECKS)
    assert {finding.name for finding in findings if finding.state == "warn"} == {"alarms", "Prefect"}
    assert all(finding.do for finding in findings if finding.state == "warn")
    assert doctor.exit_code(findings) == 0
    told = json.dumps(doctor.json_object(findings)) + "\n".join(map(doctor.line, findings))
    assert local.secret_key not in told
    assert local.public_id not in told


def test_foreign_packages_of_our_names_are_found(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {"tasks": ["eraflow", "robocorp-tasks"], "flows": ["eraflow"]}
    monkeypatch.setattr(doctor_machine, "packages_distributions", lambda: owners)
    finding = only(doctor_machine.packages, case)
    assert (finding.state, finding.found) == ("fail", "the package tasks is also installed by robocorp-tasks")


@pytest.mark.parametrize(
    ("config", "state", "text"),
    [
        ("[slots\n", "fail", "cannot be read as TOML"),
        ('[slots]\nrehearsal_one = "simple"\n', "fail", "simple-mlp"),
        ('data_versoin = "v5.3"\n', "fail", "did you mean data_version?"),
        ("[schedule]\nweekly = ['5 12 * *']\n", "fail", "five-field crons"),
        ("[slots]\n", "warn", "names no slots"),
    ],
)
def test_a_wrong_configuration_is_found(case: Case, config: str, state: str, text: str) -> None:
    finding = only(doctor_account.configuration, changed(case, config=config))
    assert (finding.state, finding.exit_code) == (state, 2 if state == "fail" else 0)
    assert text in finding.found
    assert finding.found.count(str(case.home / "weekly.toml")) == 1, "it is named once"
    assert finding.do


def test_a_configuration_that_is_not_there_is_a_warning(case: Case) -> None:
    (case.home / "weekly.toml").unlink()
    finding = only(doctor_account.configuration, case)
    assert (finding.state, "copy deployments/weekly.toml" in finding.do) == ("warn", True)


def test_missing_keys_are_found_and_where_they_belong_is_said(case: Case) -> None:
    finding = only(doctor_account.keys, changed(case, NUMERAI_PUBLIC_ID="", NUMERAI_SECRET_KEY=""))
    assert (finding.state, finding.exit_code) == ("fail", 4)
    assert finding.found == "NUMERAI_PUBLIC_ID and NUMERAI_SECRET_KEY must be set, however they are not"
    assert str(case.home / "eraflow.env") in finding.do
    assert only(doctor_account.keys, changed(case, NUMERAI_SECRET_KEY="")).found.startswith(
        "NUMERAI_SECRET_KEY must be"
    )


def test_where_the_keys_come_from_is_said(case: Case) -> None:
    assert "from the environment" in only(doctor_account.keys, case).found
    path = case.home / "eraflow.env"
    path.write_text("".join(f"{name}={case.environ[name]}\n" for name in doctor_account.KEYS))
    path.chmod(0o600)
    assert only(doctor_account.keys, case).found == f"from {path} (mode 600)"


def test_an_environment_file_that_others_can_read_is_found(case: Case) -> None:
    path = case.home / "eraflow.env"
    path.write_text("A=b\n")
    path.chmod(0o644)
    findings = list(doctor_account.keys(case))
    assert [finding.state for finding in findings] == ["fail", "ok"]
    assert "chmod 600" in findings[0].found


def test_a_tournament_that_is_down_is_found_once_and_asked_no_more(case: Case) -> None:
    down = changed(case, ERAFLOW_API_URL=f"http://127.0.0.1:{closed_port()}")
    finding = only(doctor_account.tournament, down)
    assert (finding.state, finding.exit_code) == ("fail", 1)
    assert "ERAFLOW_API_URL" in finding.do
    for check in (doctor_account.clock, doctor_account.scopes, doctor_account.slots, doctor_account.data_version):
        assert only(check, down).found.startswith("not asked")


def test_an_address_that_may_not_be_used_is_found(case: Case) -> None:
    finding = only(doctor_account.tournament, changed(case, ERAFLOW_API_URL="http://example.org"))
    assert (finding.state, finding.exit_code) == ("fail", 2)


@pytest.mark.parametrize(("skew_s", "state"), [(0, "ok"), (90, "warn"), (-90, "warn"), (3600, "fail")])
def test_a_clock_that_is_wrong_is_found(local: LocalTournament, case: Case, skew_s: float, state: str) -> None:
    local.move_clock((system_now_utc() - local.now_utc()).total_seconds() + skew_s)
    finding = only(doctor_account.clock, case)
    assert finding.state == state
    assert ("set-ntp" in finding.do) == (state != "ok")


def test_keys_that_are_refused_are_found(case: Case) -> None:
    wrong = changed(case, NUMERAI_SECRET_KEY="wrong")
    for check in (doctor_account.scopes, doctor_account.slots):
        finding = only(check, wrong)
        assert (finding.state, finding.exit_code) == ("fail", 4)
        assert "wrong" not in finding.found


@pytest.mark.parametrize(
    ("scopes", "told"),
    [
        (["upload_submission", "read_user_info", "download_submission"], [("ok", "upload_submission")]),
        (["read_user_info", "download_submission"], [("fail", "must have upload_submission")]),
        (["upload_submission", "download_submission"], [("fail", "read_submission_info or read_user_info")]),
        (["upload_submission", "read_user_info"], [("ok", "upload"), ("warn", "without download_submission")]),
        (
            ["upload_submission", "read_user_info", "download_submission", "stake", "withdraw"],
            [("ok", "upload"), ("warn", "may do more than a round needs: stake, withdraw")],
        ),
    ],
)
def test_what_the_key_may_do_is_judged(
    local: LocalTournament, case: Case, scopes: list[str], told: list[tuple[str, str]]
) -> None:
    local.set_scopes(scopes)
    findings = list(doctor_account.scopes(case))
    assert [finding.state for finding in findings] == [state for state, _ in told]
    for finding, (state, text) in zip(findings, told, strict=True):
        assert text in finding.found
        assert finding.exit_code == (4 if state == "fail" else 0)


def test_a_slot_that_cannot_be_submitted_for_is_found(local: LocalTournament, case: Case) -> None:
    local.add_slot("hosted_one", hosted=True)
    slots = 'rehearsal_eno = "simple-mlp"\nhosted_one = "simple-mlp"\n'
    unknown, hosted = doctor_account.slots(changed(case, config=f"[slots]\n{slots}"))
    assert (unknown.state, unknown.exit_code) == (hosted.state, hosted.exit_code) == ("fail", 2)
    assert "did you mean rehearsal_" in unknown.found
    assert hosted.found == "hosted_one has a hosted model that submits for it"


def test_data_versions_are_compared(local: LocalTournament, case: Case) -> None:
    assert only(doctor_account.data_version, case).found == "v5.3 is the newest"
    local.add_data_version("v5.4")
    newer = only(doctor_account.data_version, case)
    assert (newer.state, newer.found) == ("warn", "v5.3 is configured, and the tournament has v5.4")
    missing = only(doctor_account.data_version, changed(case, config='data_version = "v9.9"\n'))
    assert (missing.state, missing.exit_code) == ("fail", 2)


def test_an_alarm_that_cannot_be_sent_is_found(case: Case) -> None:
    assert only(doctor_account.alarm, case).state == "warn"
    wrong = only(doctor_account.alarm, changed(case, config='[alarm]\nurls = ["nothing://"]\n'))
    assert (wrong.state, wrong.exit_code) == ("fail", 2)
    assert "alarm.urls[0]" in wrong.found
    unset = only(doctor_account.alarm, changed(case, config='[alarm]\nurls = ["$NOT_SET_HERE"]\n'))
    assert "NOT_SET_HERE" in unset.found


def test_addresses_that_others_can_read_are_found(case: Case) -> None:
    config, path = '[alarm]\nurls = ["json://127.0.0.1:9/hidden"]\n', case.home / "weekly.toml"
    path.chmod(0o644)
    assert only(doctor_account.alarm, changed(case, config=config)).state == "ok", "the home is its owner's alone"
    case.home.chmod(0o755)
    open_to_all, _ = doctor_account.alarm(changed(case, config=config))
    assert (open_to_all.state, "hidden" in str(open_to_all)) == ("warn", False)
    assert f"chmod 600 {path}" in open_to_all.do
    assert only(doctor_account.alarm, changed(case, config='[alarm]\nurls = ["$A"]\n', A="json://host")).state == "ok"
    path.chmod(0o600)
    assert only(doctor_account.alarm, changed(case, config=config)).state == "ok"


def test_a_test_alarm_is_sent_only_when_it_is_asked_for(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server(TAKEN)
    with server.running() as url:
        told = changed(case, config='[alarm]\nurls = ["$BELL"]\n', BELL=url.replace("http:", "json:"))
        assert only(doctor_account.alarm, told).state == "ok"
        assert server.bodies == []
        told = Case(home=told.home, config_file=None, environ=told.environ, alarm_test=True)
        _, test = doctor_account.alarm(told)
        assert (test.state, json.loads(server.bodies[0])["title"]) == ("ok", "eraflow: this is a test")
    _, test = doctor_account.alarm(told)
    assert (test.state, test.found) == ("fail", "all 1 addresses must take it, however 0 did")


def test_a_torch_that_cannot_be_imported_is_found(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    assert " uses " in only(doctor_machine.device, case).found
    monkeypatch.setitem(sys.modules, "torch", None)
    finding = only(doctor_machine.device, case)
    assert (finding.state, "install eraflow again" in finding.do) == ("fail", True)


def test_memory_that_is_too_small_for_the_feature_set_is_a_warning(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """v5.3, medium: 2.7 and 4.1 million rows of 780 int8 features are 5.0 GiB."""
    monkeypatch.setattr(doctor_machine, "memory_bytes", lambda: 6 << 30)
    finding = only(doctor_machine.memory, case)
    assert (finding.state, "5.0 GiB of int8, this machine has 6.0 GiB" in finding.found) == ("warn", True)
    monkeypatch.setattr(doctor_machine, "memory_bytes", lambda: 8 << 30)
    assert only(doctor_machine.memory, case).state == "ok"


def test_a_disk_without_room_is_found(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(case.home)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10 << 30))
    finding = only(doctor_machine.disk, case)
    assert (finding.state, "10.0 GiB free" in finding.found) == ("fail", True)
    assert 15 << 30 < doctor_machine.needed_bytes(case) < 30 << 30


def test_a_damaged_ledger_is_found(case: Case) -> None:
    assert only(doctor_machine.ledger, case).state == "ok"
    path = Store(case.home).ledger_path
    ledger = Ledger(path, case.environ["ERAFLOW_API_URL"])
    ledger.note_scores(Score(round=number, slot="x" * 200, name="corr60", value=0.1) for number in range(300))
    assert only(doctor_machine.ledger, case).state == "ok"
    data = bytearray(path.read_bytes())
    data[8192:40000] = bytes(31808)
    path.write_bytes(data)
    finding = next(finding for finding in doctor.examine(case) if finding.name == "ledger")
    assert finding.state == "fail"
    assert "move it away" in finding.found + finding.do


@pytest.fixture
def stored(local: LocalTournament, case: Case) -> Path:
    """The round's files, fetched and the training file decoded; where that lies."""
    store = Store(case.home)
    tournament = Tournament(local.url, Keys(local.public_id, local.secret_key))
    files = fetch_files(tournament, store, tournament.current_round(), "v5.3")
    features = read_features_json(files.features.path).columns("all")
    return decode(files.train.path, into=files.decoded, sha256=files.train.sha256, features=features).folder


def test_whole_files_are_found_whole(case: Case, stored: Path) -> None:
    findings = list(doctor_machine.stored_files(changed(case, deep=True)))
    assert [finding.state for finding in findings] == ["ok"] * 3
    assert findings[2].found == "1 decoded file compared with its file, value by value"


def test_a_file_that_is_cut_disagrees_with_its_manifest(case: Case, stored: Path) -> None:
    path = case.home / "data" / "v5.3" / "train.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    finding = only(doctor_machine.stored_files, case)
    assert (finding.state, str(path) in finding.found) == ("warn", True)


def test_a_flipped_bit_in_a_file_is_found_by_a_deep_look(case: Case, stored: Path) -> None:
    path = case.home / "data" / "v5.3" / "validation.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert only(doctor_machine.stored_files, case).state == "ok"
    damaged = [f for f in doctor_machine.stored_files(changed(case, deep=True)) if f.state == "fail"]
    assert [(f.exit_code, str(path) in f.do) for f in damaged] == [(5, True)]


def test_a_changed_value_in_a_decoded_matrix_is_found_by_a_deep_look(
    case: Case, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where only samples of a large file are checked on opening, and the value is in none of them.
    monkeypatch.setattr("eraflow.stored._samples_crc32", lambda path: None)
    header = json.loads((stored / "header.json").read_bytes())
    del header["crc32"]
    for told in header["files"].values():
        told["samples_crc32"] = None
        del told["sum64"]
    (stored / "header.json").write_text(json.dumps(header))
    codes_NF = np.load(stored / "codes.npy", mmap_mode="r+")
    codes_NF[3, 2] = 1 if codes_NF[3, 2] != 1 else 2
    del codes_NF
    damaged = [f for f in doctor_machine.stored_files(changed(case, deep=True)) if f.state == "fail"]
    assert [(f.exit_code, str(stored) in f.do) for f in damaged] == [(5, True)]


@pytest.mark.parametrize(
    ("status", "body", "state", "text"),
    [
        ("200 OK", version("prefect"), "ok", "answers, version"),
        ("200 OK", "3.0.0", "warn", "is of version 3.0.0"),
        ("401 No", "", "warn", "asks for a password"),
        ("500 No", "", "warn", "answered 500"),
    ],
)
def test_a_prefect_server_is_asked_for_its_version(case: Case, status: str, body: str, state: str, text: str) -> None:
    answer = f'HTTP/1.1 {status}\r\nContent-Length: {len(body) + 2}\r\n\r\n"{body}"'
    server = Server(sending(answer.encode()))
    with server.running() as url:
        asked = changed(case, PREFECT_API_URL=f"{url}/api", PREFECT_API_AUTH_STRING="user:pass")
        finding = only(doctor_machine.prefect_server, asked)
    assert (finding.state, text in finding.found) == (state, True)
    assert server.headers()["authorization"] == "Basic dXNlcjpwYXNz"
    assert "pass" not in finding.found.replace("password", "")


def test_a_prefect_server_that_is_down_is_a_warning(case: Case) -> None:
    assert only(doctor_machine.prefect_server, case).do == "`eraflow up` starts one"
    url = f"http://127.0.0.1:{closed_port()}/api"
    finding = only(doctor_machine.prefect_server, changed(case, PREFECT_API_URL=url))
    assert (finding.state, "cannot be reached" in finding.found) == ("warn", True)


def test_a_check_that_raises_or_hangs_is_a_finding(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Case) -> Iterator[Finding]:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(doctor, "CHECKS", {"broken": broken})
    (finding,) = doctor.examine(case)
    assert (finding.state, finding.found) == ("fail", "unexpected ZeroDivisionError: by zero")
    assert doctor.exit_code([finding]) == 1


def test_what_is_examined_shows_no_key(case: Case) -> None:
    assert case.environ["NUMERAI_SECRET_KEY"] not in repr(case)


def test_the_exit_code_is_that_of_the_worst_failure() -> None:
    def failed(code: int) -> Finding:
        return Finding(name="a", state="fail", found="b", exit_code=code)

    warned = Finding(name="a", state="warn", found="b", exit_code=4)
    assert doctor.exit_code([warned]) == 0
    assert doctor.exit_code([failed(1), failed(3)]) == 3
    assert doctor.exit_code([failed(1), failed(4), failed(5)]) == 4
    assert doctor.exit_code([failed(2), failed(4)]) == 2
