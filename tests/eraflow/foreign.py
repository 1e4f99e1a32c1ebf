"""What may come from outside: JSON of every shape, a whole answer of the tournament, and one spoiled in one place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from hypothesis import strategies as st

PUBLIC_ID, SECRET = "PUBLICIDOFTHEACCOUNT", "S3CR3TK3YOFTHEACCOUNT"
SIGNED = "https://storage.example/put?signature=0123456789"
DEEP = "(a deep nest)"
"""Stands for lists in lists; `text_of` puts them in its place, because `json.dumps` cannot write them."""
NUMBER, MODEL_ID, STORED_AS = 1401, "model-1", "eraflow-r1401-abc.csv"

ODD_TEXTS = (
    "", "../../x", "a\x00b", "\ud800", "é\u202e\U0001f600", "NaN", "1e999", "-Infinity", "0x10", "9" * 400, DEEP,
    "2026-08-22T12:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "12:00 XYZ", "Feb 30",
    "v5.3/live.parquet", "v" + "9" * 5000 + "/live.parquet", SECRET, SIGNED, SIGNED.upper(), f"no: {SECRET} {SIGNED}",
    "Your session is invalid", "not open for submissions", "Internal error; try again",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, [], {}, [[]], {"a": 1}, [None], [1], 1, 0, -1, 2**31, 2**63, 10**400, 1e308, float("inf"),
    float("nan"), *ODD_TEXTS,
)  # fmt: skip
TEXTS = st.text(max_size=6) | st.sampled_from(ODD_TEXTS)
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**400, 1e308, -0.0])
KEYS = st.sampled_from(
    ["data", "errors", "message", "detail", "rounds", "number", "openTime", "account", "models", "model", "submissions"]
)
JSONS = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | TEXTS, inner, max_size=3),
    max_leaves=6,
)
DEPTHS = st.sampled_from([1, 200, 850, 900, 930, 950, 2000])


def text_of(value: Any, depth: int = 1) -> bytes:
    """The JSON text of `value`, NaN and lone surrogates included."""
    return json.dumps(value).replace(json.dumps(DEEP), "[" * depth + "]" * depth).encode()


def whole_answer(address: str) -> dict[str, Any]:
    """An answer that holds what every query asks for, with `address` wherever an address is given."""
    round_ = {
        "number": NUMBER, "openTime": "2026-08-22T12:00:00Z", "closeTime": "2026-08-24T14:00:00Z",
        "closeStakingTime": "2026-08-23T14:00:00Z", "scoreTime": "2026-08-27T12:00:00Z", "resolveTime": None,
        "tournament": 8, "payoutFactor": "0.2",
        "roundScoreConfigs": [
            {"name": f"{kind}60", "isPayout": True, "defaultMultiplier": 0.5, "clipThreshold": 0.05,
             "scoringStart": "2026-08-27T12:00:00Z", "scoringEnd": None}
            for kind in ("corr", "mmc")
        ],
    }  # fmt: skip
    submission = {
        "id": "s1", "filename": STORED_AS, "insertedAt": "2026-08-22T13:00:00Z", "selected": True, "errorInfo": None,
        "round": round_,
    }  # fmt: skip
    score = {
        "roundNumber": NUMBER, "displayName": "corr60", "version": "v1", "day": 3, "date": "2026-08-30T00:00:00Z",
        "value": 0.02, "percentile": 0.6, "resolved": False, "roundResolveTime": "2026-11-20T00:00:00Z",
    }  # fmt: skip
    model = {
        "id": MODEL_ID, "name": "one", "tournament": 8, "computePickleUpload": None, "submissions": [submission]
    }  # fmt: skip
    granted = {"filename": STORED_AS, "url": address}
    return {
        "data": {
            "rounds": [round_],
            "account": {"models": [model]},
            "model": model,
            "submissions": [submission],
            "submissionScores": [score],
            "apiTokenInfo": {"publicId": PUBLIC_ID, "scopes": ["upload_submission"]},
            "listDatasets": ["v5.3/live.parquet", "v5.2/live.parquet"],
            "dataset": address,
            "submission_upload_auth": granted,
            "submissionDownloadAuth": granted,
            "create_submission": {"id": "s1"},
        }
    }


@st.composite
def spoiled(draw: st.DrawFn, whole: Any, by: st.SearchStrategy[Any] = JSONS) -> Any:
    """`whole` with one of its values replaced or taken out, or one added."""
    answer = json.loads(json.dumps(whole))  # a copy in which no two places are one object
    holder, key = draw(st.sampled_from(list(_places(answer))))
    what = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
    if what == "replace":
        holder[key] = draw(by)
    elif what == "remove":
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, draw(by))
    else:
        holder[draw(TEXTS)] = draw(by)
    return answer


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(inner):
        yield value, key
        yield from _places(part)


def each_spoiled(whole: Any, field: str) -> Iterator[Any]:
    """`whole` with each place of its `field`, one after another, taken out or replaced by each odd value."""
    for number, _ in enumerate(_places({field: whole["data"][field]})):
        for odd in ODD_VALUES:
            answer = json.loads(json.dumps(whole))
            holder, key = next(islice(_places({field: answer["data"][field]}), number, None))
            holder = answer["data"] if number == 0 else holder
            holder[key] = odd
            yield answer
        del holder[key]
        yield answer
