"""The twelve defects of numerapi 3.1.1 that eraflow guards against.

Each test has two halves: the real client, pointed at the local tournament, shows the defect; our door, in the same
situation, does not have it. When a new release of the client mends one, its first half fails and tells us so.
"""

from __future__ import annotations

import datetime as dt
import http.server
import ipaddress
import json
import logging
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from eraflow import transport
from eraflow.checks import check_bytes
from eraflow.client import Keys
from eraflow.errors import ClosedError, CredentialsError, RefusedError, TransientError, UnknownOutcomeError
from eraflow.files import fetch_files
from eraflow.predictions import canonical_csv
from eraflow.rehearsal.faults import Fault
from eraflow.rehearsal.server import LocalTournament
from eraflow.store import Store, sha256_of
from eraflow.tournament import Tournament
from eraflow.transport import NotSentError
from tests.conftest import ROOT
from tests.eraflow.conftest import nap
from tests.eraflow.talking import LIVE, allowed, asked

# The client leaves its connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def upstream(local: LocalTournament, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The real client with the local tournament's address and keys; it does not wait between its tries."""
    import numerapi
    from numerapi import base_api, utils

    monkeypatch.setattr(base_api, "API_TOURNAMENT_URL", local.url)
    monkeypatch.setattr(utils, "time", SimpleNamespace(sleep=nap))
    client: Any = numerapi.NumerAPI  # its constructor has no types
    return client(local.public_id, local.secret_key, verbosity="critical", show_progress_bars=False)


def rewritten(path: Path, to: Path, flip: int = 0xFF) -> Path:
    """Other bytes of the same length."""
    to.write_bytes(bytes(byte ^ flip for byte in path.read_bytes()))
    return to


def predictions(folder: Path, market_folder: Path) -> Path:
    path = folder / "predictions.csv"
    path.write_bytes((market_folder / "live_example_preds.csv").read_bytes())
    return path


def test_1_a_part_of_an_old_rounds_file_is_never_continued(
    upstream: Any, local: LocalTournament, door: Tournament, tmp_path: Path, market_folder: Path
) -> None:
    new = (market_folder / "live.parquet").read_bytes()
    old = rewritten(market_folder / "live.parquet", tmp_path / "old").read_bytes()
    theirs = tmp_path / "theirs.parquet"
    Path(f"{theirs}.temp").write_bytes(old[:1000])
    upstream.download_dataset(LIVE, str(theirs))
    assert theirs.read_bytes() == old[:1000] + new[1000:]

    store = Store.open(tmp_path / "home")
    for name in ("live.parquet.temp", "live.parquet", ".partial-live.parquet"):
        (store.round_folder(1401) / name).write_bytes(old[:1000])
    ours = fetch_files(door, store, door.current_round(), "v5.3").live
    assert ours.path.read_bytes() == new


def test_2_a_file_of_the_same_size_with_other_content_is_fetched(
    upstream: Any, local: LocalTournament, door: Tournament, tmp_path: Path, market_folder: Path
) -> None:
    theirs = rewritten(market_folder / "live.parquet", tmp_path / "theirs.parquet")
    before = theirs.read_bytes()
    upstream.download_dataset(LIVE, str(theirs))
    assert theirs.read_bytes() == before

    store = Store.open(tmp_path / "home")
    opened = door.current_round()
    fetch_files(door, store, opened, "v5.3")
    # The same file with one byte of its writer's name changed: whole, as long as before, and new.
    data = (market_folder / "validation.parquet").read_bytes()
    assert data.count(b"parquet-cpp-arrow") == 1
    changed = tmp_path / "changed.parquet"
    changed.write_bytes(data.replace(b"parquet-cpp-arrow", b"parquet-cpp-Arrow"))
    local.set_file("v5.3/validation.parquet", changed)
    ours = fetch_files(door, store, opened, "v5.3").validation
    assert ours.changed
    assert sha256_of(ours.path) == sha256_of(changed)


def test_3_a_server_that_ignores_ranges_does_not_append_its_whole_file(
    upstream: Any, local: LocalTournament, door: Tournament, tmp_path: Path, market_folder: Path
) -> None:
    whole = (market_folder / "live.parquet").read_bytes()
    local.faults.add(Fault(where="get:live.parquet", what="ignore-range", times=None))
    theirs = tmp_path / "theirs.parquet"
    Path(f"{theirs}.temp").write_bytes(whole[:1000])
    upstream.download_dataset(LIVE, str(theirs))
    assert theirs.read_bytes() == whole[:1000] + whole

    ours = tmp_path / "ours.parquet"
    local.faults.add(Fault(where="get:live.parquet", what="truncate", n=1000))
    door.download(LIVE, ours)
    assert ours.read_bytes() == whole


def test_4_the_page_of_an_expired_address_never_becomes_part_of_a_file(
    upstream: Any, local: LocalTournament, door: Tournament, tmp_path: Path, market_folder: Path
) -> None:
    whole, page = (market_folder / "live.parquet").read_bytes(), "<Error>Request has expired</Error>"
    local.faults.add(Fault(where="get:live.parquet", what="status", code=403, body=page, after=1))
    theirs = tmp_path / "theirs.parquet"
    Path(f"{theirs}.temp").write_bytes(whole[:1000])
    upstream.download_dataset(LIVE, str(theirs))
    assert theirs.read_bytes() == whole[:1000] + page.encode()

    local.faults.clear()
    local.faults.add(Fault(where="get:live.parquet", what="status", code=403, body=page))
    before = asked(local, "dataset")
    ours = tmp_path / "ours.parquet"
    door.download(LIVE, ours)
    assert ours.read_bytes() == whole
    assert asked(local, "dataset") - before == 2  # a fresh address for the second try


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_5_every_connection_verifies_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from numerapi import utils

    trusted, impostor = _certificate(tmp_path / "trusted"), _certificate(tmp_path / "impostor")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(trusted))
    with _https([trusted, impostor]) as address:
        theirs = tmp_path / "theirs"
        Path(f"{theirs}.temp").write_bytes(b"the first ")
        utils.download_file(address, str(theirs), show_progress_bars=False)
        assert theirs.read_bytes() == b"the first half"  # the second half came from the impostor

    with _https([trusted, impostor]) as address:
        with transport.get(address, "the file") as body:
            assert b"".join(body.chunks()) == b"the first half"
        with pytest.raises(NotSentError, match="certificate was not accepted"), transport.get(address, "the file"):
            pass


@pytest.mark.parametrize("code", [403, 500])
def test_6_an_upload_that_was_refused_never_ends_in_a_submission(
    code: int, upstream: Any, local: LocalTournament, door: Tournament, tmp_path: Path, market_folder: Path
) -> None:
    model_id = door.slots()["rehearsal_one"].model_id
    local.faults.add(Fault(where="put", what="status", code=code, times=None))
    assert upstream.upload_predictions(str(predictions(tmp_path, market_folder)), model_id=model_id)
    (theirs,) = local.submissions()
    assert (theirs.valid, theirs.sha256) == (False, None)

    with pytest.raises(RefusedError, match="nothing was submitted"):
        door.upload("ours.csv", b"id,prediction\n", model_id, allowed)
    assert len(local.submissions()) == 1


@pytest.mark.parametrize("kind", ["upload_diagnostics", "model_upload"])
def test_6_the_clients_other_uploads_are_not_checked_either(
    kind: str, upstream: Any, local: LocalTournament, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = {"filename": "file", "url": f"{local.url}/uploads/file?expires=0&signature=none"}
    answers = {
        "diagnosticsUploadAuth": granted,
        "computePickleUploadAuth": granted,
        "createDiagnostics": {"id": "an id"},
        "createComputePickleUpload": {"id": "an id"},
    }
    monkeypatch.setattr(upstream, "raw_query", lambda *_, **__: {"data": answers})
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert getattr(upstream, kind)(str(path), model_id="a model") == "an id"
    assert [method for method, _, _ in local.requests] == ["PUT"]  # which the local tournament answered with 403
    # Ours sends neither kind.
    assert not [name for name in dir(Tournament) if "diagnostic" in name or "pickle" in name]


def test_7_predictions_are_never_sent_without_their_ids(
    upstream: Any, local: LocalTournament, door: Tournament, market_folder: Path
) -> None:
    table = pd.read_csv(market_folder / "live_example_preds.csv", index_col="id")
    model_id = door.slots()["rehearsal_one"].model_id
    assert upstream.upload_predictions(df=table, model_id=model_id)
    (theirs,) = local.submissions()
    assert local.submitted_bytes(theirs).startswith(b"prediction\n")
    assert not theirs.valid

    ids = [str(one) for one in table.index]
    ours = canonical_csv(ids, table["prediction"].to_numpy(np.float64))
    assert all(check.passed for check in check_bytes(ours, ids))
    assert not check_bytes(local.submitted_bytes(theirs), ids)[0].passed


@pytest.mark.parametrize(
    ("fault", "theirs", "ours"),
    [
        (Fault(where="any query", what="status", code=404, times=None), KeyError, RefusedError),
        (Fault(where="any query", what="bad-json", times=None), KeyError, TransientError),
        (Fault(where="any query", what="reset-before", times=None), KeyError, TransientError),
        (Fault(where="query:rounds", what="empty-rounds", times=None), IndexError, ClosedError),
    ],
    ids=["404", "bad JSON", "reset", "no rounds"],
)
def test_8_a_failure_is_told_as_what_it_is(
    fault: Fault,
    theirs: type[Exception],
    ours: type[Exception],
    upstream: Any,
    local: LocalTournament,
    door: Tournament,
) -> None:
    local.faults.add(fault)
    with pytest.raises(theirs):
        upstream.get_current_round()
    with pytest.raises(ours):
        door.current_round()


def test_8_between_rounds_the_door_says_that_none_is_open(
    upstream: Any, local: LocalTournament, door: Tournament
) -> None:
    local.close_round()
    local.move_clock(7200)
    with pytest.raises(ValueError, match="not open for submissions"):
        upstream.get_current_round()
    with pytest.raises(ClosedError, match="not open for submissions"):
        door.current_round()


def test_9_refused_keys_are_not_a_closed_round(upstream: Any, local: LocalTournament, door: Tournament) -> None:
    said = json.dumps({"errors": [{"message": "Your session is invalid or has expired."}]})
    local.faults.add(Fault(where="query:rounds", what="status", code=200, body=said, times=None))
    assert upstream.check_round_open() is False
    with pytest.raises(CredentialsError, match="does not accept the keys"):
        door.current_round()


def test_10_no_query_waits_for_ever(
    upstream: Any, local: LocalTournament, door: Tournament, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.faults.add(Fault(where="any query", what="hang", times=None))

    def ask() -> None:
        with suppress(Exception):
            upstream.get_current_round()

    theirs = threading.Thread(target=ask, daemon=True)
    theirs.start()
    monkeypatch.setattr(transport, "READ_TIMEOUT_S", 0.2)
    with pytest.raises(TransientError, match="did not answer within"):
        door.current_round()
    theirs.join(0.5)
    assert theirs.is_alive()
    local.stop()  # cuts what hangs
    theirs.join(5)


def test_10_the_client_asks_without_a_time_out(upstream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from numerapi import utils

    given: list[object] = []

    def post(*_: Any, timeout: object, **__: Any) -> Any:
        given.append(timeout)
        return SimpleNamespace(status_code=200, raise_for_status=dict, json=lambda: {"data": {"rounds": [None]}})

    monkeypatch.setattr(vars(utils)["requests"], "post", post)
    upstream.get_current_round()
    assert given == [None]


def test_11_a_submission_is_created_by_one_request_alone(
    upstream: Any, local: LocalTournament, door: Tournament, tmp_path: Path, market_folder: Path
) -> None:
    model_id = door.slots()["rehearsal_one"].model_id
    local.faults.add(Fault(where="query:createSubmission", what="status", code=502, times=2))
    upstream.upload_predictions(str(predictions(tmp_path, market_folder)), model_id=model_id)
    assert asked(local, "createSubmission") == 3

    local.faults.add(Fault(where="query:createSubmission", what="status", code=502, times=2))
    stored_as = door.upload("ours.csv", predictions(tmp_path, market_folder).read_bytes(), model_id, allowed)
    with pytest.raises(UnknownOutcomeError):
        door.create(stored_as, model_id, allowed)
    assert asked(local, "createSubmission") == 4


_SAY = "import logging, os; print(len(logging.getLogger().handlers), os.environ.get('NUMERAI_PUBLIC_ID'))"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import numerapi; numerapi.NumerAPI()", "1 FROM_DOTENV"),
        (
            "from eraflow.tournament import Tournament; t = Tournament.from_environment(); t._queries.client()",
            "0 None",
        ),
    ],
    ids=["client", "eraflow"],
)
def test_12_the_door_leaves_the_root_logger_and_env_files_alone(program: str, said: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("NUMERAI_PUBLIC_ID=FROM_DOTENV\nNUMERAI_SECRET_KEY=FROM_DOTENV\n")
    environment = {name: text for name, text in os.environ.items() if not name.startswith("NUMERAI")}
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; {_SAY}"],
        cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert done.stdout.strip() == said


def test_12_our_client_is_the_real_one_without_its_constructor(local: LocalTournament) -> None:
    import numerapi

    before = list(logging.getLogger().handlers)
    client = Tournament(local.url, Keys("A", "B"))._queries.client()
    assert isinstance(client, numerapi.NumerAPI)
    assert not hasattr(client, "token")
    assert logging.getLogger().handlers == before


# An HTTPS server whose certificate changes under its clients


def _certificate(folder: Path) -> Path:
    """Key and self-signed certificate of 127.0.0.1 in one PEM file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, folder.name)])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder.with_suffix(".pem")
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@contextmanager
def _https(certificates: list[Path]) -> Iterator[str]:
    """A server whose first connection shows the first certificate, its second the second."""
    whole = b"the first half"

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(whole) - start))
            self.end_headers()
            with suppress(OSError):  # the client may hang up before the body
                self.wfile.write(whole[start:])

        def log_message(self, format: str, *arguments: Any) -> None:
            """Quiet."""

    contexts = iter(_context(path) for path in certificates)

    class Server(http.server.HTTPServer):
        def get_request(self) -> tuple[Any, Any]:
            connection, client = super().get_request()
            return next(contexts).wrap_socket(connection, server_side=True), client

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A handshake that fails is the point."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{server.server_address[1]}/file"
        server.shutdown()
        thread.join()


def _context(path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
