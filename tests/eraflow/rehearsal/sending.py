"""Predictions as a client sends them, for tests."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from eraflow.rehearsal import LocalTournament


def live_ids(client: Any, folder: Path) -> list[str]:
    """The ids of the open round, as the client downloads them."""
    path = folder / "downloaded" / "live.parquet"
    path.unlink(missing_ok=True)
    client.download_dataset("v5.3/live.parquet", str(path))
    return [str(one) for one in pd.read_parquet(path, columns=["era"]).index]


def predictions(ids: list[str], seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).permutation(len(ids)) + 0.5
    return pd.DataFrame({"id": ids, "prediction": values / len(ids)})


def submit(client: Any, frame: pd.DataFrame, slot: str = "rehearsal_one") -> str:
    """Through the client's own upload; returns the submission's id."""
    return str(client.upload_predictions("predictions.csv", client.get_models()[slot], df=frame))


def post(
    tournament: LocalTournament, query: str, variables: Mapping[str, Any] | None = None, *, keys: bool = True,
    timeout_s: float = 10.0,
) -> dict[str, Any]:  # fmt: skip
    """One GraphQL request without the client, so that whole answers can be looked at."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    headers = {"Authorization": f"Token {tournament.public_id}${tournament.secret_key}"} if keys else {}
    request = urllib.request.Request(tournament.url, body, headers)  # noqa: S310 -- loopback
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
    return found


def message(answer: Mapping[str, Any]) -> str:
    """The text of the first error."""
    return str(answer["errors"][0]["message"])


def file_url(tournament: LocalTournament, name: str) -> str:
    query = "query($f: String!) { dataset(filename: $f) }"
    return str(post(tournament, query, {"f": name}, keys=False)["data"]["dataset"])
