"""The benchmarks: all that `make bench` names is there, and a claim says truly whether it holds."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from benchmarks.__main__ import SCRIPTS, table
from benchmarks.claims import COLLECT, Claim, claim

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_says_its_own_command(name: str) -> None:
    told = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8")))
    assert told is not None
    assert f"python -m benchmarks.{name}" in told
    assert "--full" in told


@pytest.mark.parametrize(
    ("value", "aim", "verdict"),
    [
        (2.7, {"at_least": 2.7}, "reached"),
        (2.69, {"at_least": 2.7}, "not reached"),
        (0.8, {"at_most": 0.8}, "reached"),
        (0.81, {"at_most": 0.8}, "not reached"),
        (0.81, {}, ""),
    ],
)
def test_a_claim_is_reached_at_its_aim_and_not_before(value: float, aim: dict[str, float], verdict: str) -> None:
    assert claim("speed", value, **aim).verdict == verdict  # type: ignore[arg-type]


def test_claims_are_collected_with_the_range_over_the_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COLLECT, str(tmp_path / "claims"))
    claim("speed", 3.0, each=[2.9, 3.2], unit="x", at_least=2.7, note="two rounds")
    claim("memory", 1.1, at_most=1.2)
    found = [Claim(**json.loads(line)) for line in (tmp_path / "claims").read_text().splitlines()]
    assert table(found)[2:] == [
        "| speed | ≥ 2.7x | 3x (2.9 to 3.2) | reached | two rounds |",
        "| memory | ≤ 1.2 | 1.1 | reached |  |",
    ]
