"""The real server attacked as it is started: by pages in a browser, by names that lead here, and by other accounts.

`test_server` tries every rule of the guard by itself; here Prefect answers, and what was attacked is looked at after.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from flows import caller, prefect_home, server
from flows.server import Guard, trusted
from flows.supervisor import Supervisor
from flows.temporary_server import new_login, temporary_server
from tasks.health import answers
from tests.browser import OPTIONS, browser
from tests.eraflow.raw_server import OK, Server, sending
from tests.flows.running_up import Up
from tests.flows.test_server import application
from tests.real_prefect import (
    ROOT,
    PrefectServer,
    clean_environment,
    free_port,
    processes_of,
    wait_until,
    with_database,
)

pytestmark = pytest.mark.prefect_server
LINUX = pytest.mark.skipif(not caller.can_tell(), reason="this system does not say whose a connection is")
NOBODY = 65534
# As another account: ask, and print the status of each answer. What needs files of ours is imported before.
STRANGER = """
import encodings.idna, http.client, os, sys
account, port, *asked = sys.argv[1:]
os.setgroups([]); os.setgid(int(account)); os.setuid(int(account))
for one in asked:
    method, path = one.split()
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
    headers = {"Content-Type": "application/json", "X-Forwarded-For": "127.0.0.1", "Origin": f"http://127.0.0.1:{port}"}
    connection.request(method, path, b"{}", headers)
    print(connection.getresponse().status)
"""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server without a password, and a deployment that is there to be attacked."""

    process: int
    port: int
    deployment: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def state(self) -> tuple[int, int, Any]:
        """How many flows a page has made, how many runs the deployment has, and what it would do."""
        made = asked(self.url, "flows/count", {"flows": {"name": {"any_": ["by-form", "simple", "asked"]}}})
        runs = asked(self.url, "flow_runs/count", {"deployments": {"id": {"any_": [self.deployment]}}})
        found = requests.get(f"{self.url}/api/deployments/{self.deployment}", timeout=20).json()
        return made, runs, (found["entrypoint"], found["pull_steps"], found["paused"])


def asked(url: str, what: str, body: Mapping[str, Any]) -> Any:
    """What our own program is answered; again while the database is locked by another of the server's own writers."""
    for _ in range(20):
        answer = requests.post(f"{url}/api/{what}", json=body, timeout=90)
        if answer.status_code != 503:
            break
    answer.raise_for_status()
    return answer.json()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, prefect_server: PrefectServer) -> Iterator[Running]:
    home = with_database(tmp_path_factory.mktemp("guarded") / "home", prefect_server)
    port = free_port()
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(port)], cwd=ROOT, stdout=log, stderr=log,
            env=server.environment(clean_environment(), home, port),
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(f"{url}/api") or process.poll() is not None)
        assert process.poll() is None, (home / "server.log").read_text()
        # That this works is half of the tests below: our own programs may do what strangers may not.
        flow = asked(url, "flows/", {"name": "attacked"})["id"]
        deployment = asked(url, "deployments/", {"name": "mine", "flow_id": flow})["id"]
        yield Running(process=process.pid, port=port, deployment=deployment)
    finally:
        process.terminate()
        process.wait(20)


# Pages in the user's browser

ATTACK = """<!doctype html><title>evil</title><iframe name="away"></iframe>
<form id="form" method="post" enctype="text/plain" action="{url}/api/flows/" target="away">
<input name='{{"name": "by-form", "x": "' value='"}}'></form><script>
const told = {{}};
const sent = (name, options) => fetch(
    "{url}/api/flows/", {{method: "POST", body: '{{"name": "' + name + '"}}', ...options}})
    .then(answer => told[name] = answer.status, () => told[name] = "failed");
const reads = fetch("{url}/api/deployments/{deployment}").then(answer => answer.text()).then(
    text => told.read = text, () => told.read = "failed");
const socket = new Promise(done => {{
    const one = new WebSocket("{url}/api/events/out".replace("http", "ws"));
    one.onopen = () => done(told.socket = "open"); one.onerror = () => done(told.socket = "failed"); }});
document.getElementById("form").submit();
window.over = Promise.all([reads, socket,
    sent("simple", {{mode: "no-cors", headers: {{"Content-Type": "text/plain"}}}}),
    sent("asked", {{headers: {{"Content-Type": "application/json"}}}}),
    fetch("{url}/api/deployments/{deployment}/create_flow_run", {{method: "POST", mode: "no-cors", body: "{{}}"}}),
]).then(() => told);
</script>"""


@contextmanager
def page_with(text: str, folder: Path) -> Iterator[int]:
    """A web server of somebody's on this machine; its port."""
    (folder / "evil.html").write_text(text)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever, daemon=True)
        thread.start()
        yield web.server_address[1]
        web.shutdown()


def test_a_page_in_a_real_browser_reads_nothing_and_starts_nothing(running: Running, tmp_path: Path) -> None:
    before = running.state()
    text = ATTACK.format(url=running.url, deployment=running.deployment)
    with page_with(text, tmp_path) as port, browser() as chromium:
        page = chromium.page()
        page.open(f"http://127.0.0.1:{port}/evil.html", until="!!window.over")
        told = page.evaluate("window.over")
    assert told["read"] == told["socket"] == told["asked"] == "failed"
    assert told["simple"] == 0, "it was sent, and the page may not see what came of it"
    assert running.state() == before


def test_a_page_whose_name_was_made_to_lead_here_reads_nothing_and_starts_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: to the browser the page and the server are one origin, as both are called evil.example."""
    kept = [option for option in OPTIONS if not option.startswith("--host-resolver-rules")]
    rules = "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    monkeypatch.setattr("tests.browser.OPTIONS", (*kept, rules))
    before = running.state()
    asks = """Promise.all([
        fetch("/api/deployments/filter", {method: "POST", headers: {"Content-Type": "application/json"}, body: "{}"}),
        fetch("/api/deployments/DEPLOYMENT"),
        fetch("/api/deployments/DEPLOYMENT/create_flow_run", {method: "POST", body: "{}"}),
    ]).then(all => all.map(one => one.status))""".replace("DEPLOYMENT", running.deployment)
    with browser() as chromium:
        page = chromium.page()
        page.open(f"http://evil.example:{running.port}/", until="document.readyState == 'complete'")
        statuses = page.evaluate(asks)
    assert statuses == [403, 403, 403]
    assert running.state() == before


def raw(running: Running, head: str) -> str:
    """The status line that comes back for a request as it stands."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as channel:
        channel.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        return channel.recv(65536).decode("latin-1").splitlines()[0]


@pytest.mark.parametrize(
    "head",
    [
        "GET /api/flows/ HTTP/1.1\nHost: evil.example",
        "GET http://127.0.0.1:{port}/api/health HTTP/1.1\nHost: evil.example:{port}",
        "GET /api/health HTTP/1.0",
        "GET /api/health HTTP/1.1\nHost: 127.0.0.1:{port}\nHost: evil.example",
        "GET /api/health HTTP/1.1\nHost: 127.0.0.1.evil.example:{port}",
        "GET /api/health HTTP/1.1\nHost: 127.0.0.1:{port}@evil.example",
        "OPTIONS /api/flows/ HTTP/1.1\nHost: 127.0.0.1:{port}\nOrigin: http://evil.example\n"
        "Access-Control-Request-Method: POST",
        "GET /api/events/out HTTP/1.1\nHost: 127.0.0.1:{port}\nOrigin: http://evil.example\nConnection: Upgrade\n"
        "Upgrade: websocket\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ],
)
def test_no_way_to_write_a_request_gets_past_the_names(running: Running, head: str) -> None:
    assert re.match(r"HTTP/1\.1 (403|400) ", raw(running, head.replace("{port}", str(running.port))))


@LINUX
def test_the_server_listens_on_this_machines_loopback_alone(running: Running) -> None:
    port, listening = f":{running.port:04X}", "0A"
    found = [
        fields[1]
        for table in (caller.TABLE, caller.MAPPED_TABLE)
        for fields in map(str.split, table.read_text().splitlines())
        if fields[1].endswith(port) and fields[3] == listening
    ]
    assert found == [caller._written(("127.0.0.1", running.port))]


@LINUX
def test_nothing_of_up_listens_but_on_this_machines_loopback(shared_up: Up) -> None:
    """The server, and the serving process for its own flow processes, to each of which Prefect gives a token."""
    held = set()
    for process in processes_of(shared_up.home):
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                held.add(descriptor.readlink().name)
    found = {
        fields[1].partition(":")[0]
        for table in (caller.TABLE, caller.MAPPED_TABLE)
        for fields in map(str.split, table.read_text().splitlines())
        if fields[3] == "0A" and f"socket:[{fields[caller.INODE]}]" in held
    }
    assert found == {caller._written(("127.0.0.1", 0)).partition(":")[0]}


@LINUX
def test_the_files_that_the_server_makes_are_its_owners_alone(running: Running) -> None:
    assert "Umask:\t0077" in Path(f"/proc/{running.process}/status").read_text()


# Other accounts of the machine

CHANGES = (
    "POST /api/deployments/", "PATCH /api/deployments/{id}", "DELETE /api/deployments/{id}",
    "POST /api/deployments/{id}/create_flow_run", "POST /api/deployments/{id}/pause_deployment",
    "POST /api/flows/", "POST /api/flow_runs/", "POST /api/block_documents/filter", "GET /api/block_documents/{id}",
    "GET /api/admin/settings", "POST /api/admin/database/clear", "POST /api/automations/", "POST /api/variables/",
    "POST /api/deployments/get_scheduled_flow_runs",
)  # fmt: skip


@LINUX
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may become another account")
def test_another_account_may_look_and_change_nothing(running: Running) -> None:
    """Whoever replaces a deployment has his commands run by the user who has the keys."""
    before = running.state()
    changes = [one.replace("{id}", running.deployment) for one in CHANGES]
    looks = ["GET /api/health", "POST /api/deployments/filter", "POST /api/ui/flow_runs/history"]
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, str(NOBODY), str(running.port), *changes, *looks],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    statuses = done.stdout.split()
    assert statuses[: len(changes)] == ["403"] * len(changes), done.stderr
    assert statuses[len(changes) :] == ["200"] * len(looks), done.stderr
    assert running.state() == before


@LINUX
def test_what_other_accounts_may_post_is_known_and_only_reads(running: Running) -> None:
    """Prefect's next version may bring another, which stands here before strangers may use it."""
    paths = requests.get(f"{running.url}/api/openapi.json", timeout=20).json()["paths"]
    posts = {path if path.startswith("/api/") else f"/api{path}" for path, ways in paths.items() if "post" in ways}
    assert len(posts) > 60
    open_to_all = {path for path in posts if server.READS.fullmatch(re.sub(r"\{\w+\}", "x", path))}
    kinds = {path.rpartition("/")[2] for path in open_to_all if not path.startswith("/api/ui/")}
    assert kinds == {"filter", "count", "paginate", "history", "lateness", "{countable}"}
    assert not {path for path in open_to_all if "block" in path}
    assert {path for path in open_to_all if path.startswith("/api/ui/")} == {
        "/api/ui/flows/count-deployments", "/api/ui/flows/next-runs", "/api/ui/flow_runs/history",
        "/api/ui/flow_runs/count-task-runs", "/api/ui/schemas/validate", "/api/ui/task_runs/dashboard/counts",
        "/api/ui/task_runs/count",
    }  # fmt: skip


@LINUX
def test_an_end_of_a_connection_is_its_programs_as_long_as_it_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        client.connect(listening.getsockname())
        taken, _ = listening.accept()
        with taken:
            ends = client.getsockname(), listening.getsockname()
            assert caller.account_of(*ends) == os.geteuid()
            assert caller.account_of(ends[0], ("127.0.0.1", 9)) is None
            assert caller.account_of(("::1", 80), ends[1]) is None
            client.close()
            # The kernel lists it as root's from now on.
            assert caller.account_of(*ends) is None


@LINUX
def test_a_request_of_an_account_that_is_not_trusted_passes_only_where_it_reads() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        client.connect(listening.getsockname())
        ends = {"client": client.getsockname(), "server": listening.getsockname()}
        host = [(b"host", b"127.0.0.1:4200")]

        def status(
            accounts: frozenset[int], kind: str = "http", method: str = "POST", path: str = "/api/flows/"
        ) -> Any:
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {"type": kind, "method": method, "path": path, "headers": host, **ends}
            asyncio.run(Guard(application, 4200, trusted=accounts)(scope, None, send))  # type: ignore[arg-type]  # it never receives
            return sent[0].get("status", sent[0]["type"])

        mine, others = frozenset({os.geteuid()}), frozenset({NOBODY})
        assert status(mine) == 200
        assert status(others) == 403
        assert status(others, path="/api/flows/filter") == 200
        assert status(others, path="/api/flows/filter/") == 403
        assert status(others, method="PATCH", path="/api/flows/filter") == 403
        assert status(others, "websocket", path="/api/events/in") == "websocket.close"
        assert status(others, "websocket", path="/api/events/out") == "websocket.accept"


def test_with_a_password_it_alone_decides_and_without_the_account_does() -> None:
    assert trusted({server.AUTH: "user:password"}) is None
    assert trusted({}) == (frozenset({os.geteuid(), 0}) if caller.can_tell() else None)


# The server of one run


def test_the_temporary_server_is_its_runs_alone(
    tmp_path: Path, prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may share its database with an `eraflow up`, which does what stands there."""
    home = with_database(tmp_path / "home", prefect_server)
    monkeypatch.setenv("ERAFLOW_HOME", str(home))
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    login = new_login()
    with temporary_server(login) as url:
        assert answers(url, timeout_s=60)
        (command,) = processes_of(home).values()
        assert login.partition(":")[2] not in command
        user, _, password = login.partition(":")

        def status(auth: tuple[str, str] | None, **headers: str) -> int:
            answer = requests.post(f"{url}/flows/filter", json={}, auth=auth, headers=headers, timeout=20)
            return answer.status_code

        assert status((user, password)) == 200
        assert status(None) == 401
        assert status((user, "guessed")) == 401
        assert status((user, password), Host="evil.example") == 403
        assert status((user, password), Origin="http://evil.example") == 403


# The password


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_no_proxy_of_the_environment_is_between_a_run_and_this_machines_server(name: str, tmp_path: Path) -> None:
    environ = {name: "http://proxy.invalid:3128", "NO_PROXY": "intranet.invalid"}
    prefect_home.prepare(environ, tmp_path)
    assert environ["no_proxy"] == environ["NO_PROXY"] == "intranet.invalid,127.0.0.1,localhost"
    untouched = {"PATH": "/bin"}
    prefect_home.prepare(untouched, tmp_path)
    assert "no_proxy" not in untouched


def test_the_password_goes_to_our_own_server_and_to_nobody_whom_it_or_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Server(sending(OK + b"Content-Length: 1\r\n\r\n0"))
    with elsewhere.running() as other:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, other)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        away = f"HTTP/1.1 307 Elsewhere\r\nLocation: {other}/\r\nContent-Length: 0\r\n\r\n".encode()
        for answer, found in ((sending(OK + b"Content-Length: 1\r\n\r\n3"), 3), (sending(away), None)):
            own = Server(answer)
            with own.running() as url:
                port = int(url.rpartition(":")[2])
                keeper = Supervisor(tmp_path / "my.toml", {server.AUTH: "user:password"}, tmp_path, port, [])
                if found is None:
                    with pytest.raises(OSError, match="307"):
                        keeper._ask("flow_runs/count", {})
                else:
                    assert keeper._ask("flow_runs/count", {}) == found
            assert own.headers()["authorization"].startswith("Basic ")
    assert elsewhere.heads == []
