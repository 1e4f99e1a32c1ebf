"""Tests of what submissions score in the local tournament, asked by the real client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from eraflow.metrics import contribution, numerai_corr
from eraflow.rehearsal import LocalTournament
from tests.eraflow.rehearsal.conftest import SMALL, TickingFrom, real_client
from tests.eraflow.rehearsal.sending import live_ids, message, post, predictions, submit

DAY_S = 86_400
RESOLVED_S = 95 * DAY_S
Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def ids(tournament: LocalTournament, client: Any, tmp_path: Path) -> list[str]:
    tournament.open_next_round(delay_s=0)
    return live_ids(client, tmp_path)


@pytest.fixture
def ask(client: Any) -> Ask:
    """The scores of the first slot, by the client's own query."""
    model_id = client.get_models()["rehearsal_one"]
    return lambda **filters: list(client.submission_scores(model_id, **filters))


def test_scores_come_day_by_day_from_a_week_after_the_opening(
    tournament: LocalTournament, client: Any, ids: list[str], ask: Ask
) -> None:
    submission_id = submit(client, predictions(ids))
    assert ask() == []
    tournament.move_clock(5 * DAY_S)
    assert ask() == []
    tournament.move_clock(2 * DAY_S)
    assert [(row["displayName"], row["day"]) for row in ask()] == [("corr60", 1), ("mmc60", 1), ("bmc60", 1)]
    tournament.move_clock(9 * DAY_S)
    rows = ask(display_name="corr60")
    assert [row["day"] for row in rows] == [6, 5, 4, 3, 2, 1]
    [newest, *_] = rows
    assert (newest["roundNumber"], newest["submissionId"], newest["version"]) == (1401, submission_id, "v1")
    assert newest["date"] <= tournament.now_utc() < newest["resolveDate"] == newest["roundResolveTime"]
    assert not newest["resolved"]
    assert 0 < newest["percentile"] < 1


def test_final_scores_are_the_true_ones_on_the_hidden_targets(
    tournament: LocalTournament, client: Any, ids: list[str], ask: Ask
) -> None:
    frame = predictions(ids).sample(frac=1, random_state=0)
    submit(client, frame)
    tournament.move_clock(RESOLVED_S)
    final = {row["displayName"]: row["value"] for row in ask(resolved=True)}
    live = tournament.market.live(1, 1401)
    prediction = frame.set_index("id").prediction.loc[live.id_N]
    target, era = live.targets["target_ender_60"], np.full(len(ids), 1)
    assert final["corr60"] == pytest.approx(numerai_corr(prediction, target, era).iloc[0])
    meta = tournament.market.meta_model(live)
    assert final["mmc60"] == pytest.approx(contribution(prediction, meta, target, era).iloc[0])


def test_better_predictions_score_better_and_earlier_days_lead_to_the_final_one(
    tournament: LocalTournament, client: Any, ids: list[str], ask: Ask
) -> None:
    live = tournament.market.live(1, 1401)
    best = pd.Series(live.expected["target"], index=live.id_N).rank(pct=True) * 0.9
    submit(client, pd.DataFrame({"id": best.index, "prediction": best.to_numpy()}))
    submit(client, pd.DataFrame({"id": best.index, "prediction": 1 - best.to_numpy()}), "rehearsal_two")
    tournament.move_clock(RESOLVED_S)
    rows = ask(display_name="corr60")
    worst = client.submission_scores(client.get_models()["rehearsal_two"], display_name="corr60", day=60)[0]
    final = rows[0]["value"]
    assert (len(rows), [row["day"] for row in rows if row["resolved"]]) == (60, [60])
    assert final > 0.05 > -0.05 > worst["value"] == pytest.approx(-final)
    assert rows[0]["percentile"] > 0.6 > worst["percentile"]
    assert abs(rows[1]["value"] - final) < 0.02
    assert len({row["value"] for row in rows}) == 60


def test_filters_of_the_query_are_honoured(
    tournament: LocalTournament, client: Any, ids: list[str], ask: Ask, tmp_path: Path
) -> None:
    submit(client, predictions(ids))
    tournament.open_next_round(delay_s=0)
    submit(client, predictions(live_ids(client, tmp_path)))
    tournament.move_clock(14 * DAY_S)
    newest = {number: max(row["day"] for row in ask() if row["roundNumber"] == number) for number in (1401, 1402)}
    assert newest[1401] == newest[1402] + 5
    for filters, found in (
        ({"day": 2}, {(1401, 2), (1402, 2)}),
        ({"resolved": True}, set()),
        ({"version": "v2"}, set()),
        ({"display_name": "fnc"}, set()),
        ({"day": newest[1401]}, {(1401, newest[1401])}),
        ({"display_name": "mmc60", "distinct_on_round": True}, set(newest.items())),
    ):
        assert {(row["roundNumber"], row["day"]) for row in ask(**filters)} == found, filters
    assert len(ask(display_name="mmc60", distinct_on_round=True)) == 2
    tournament.open_next_round()
    ahead = tournament._core.latest().number - 1402
    assert {row["roundNumber"] for row in ask(last_n_rounds=ahead)} == set()
    assert {row["roundNumber"] for row in ask(last_n_rounds=ahead + 1)} == {1402}


def test_only_what_counts_is_scored(tournament: LocalTournament, client: Any, ids: list[str], ask: Ask) -> None:
    submit(client, predictions(ids, 1))
    second = submit(client, predictions(ids, 2))
    submit(client, predictions(ids[1:]))
    tournament.close_round()
    submit(client, predictions(ids, 3))
    late = submit(client, predictions(ids, 4), "rehearsal_two")
    tournament.move_clock(10 * DAY_S)
    assert {row["submissionId"] for row in ask() if row["roundNumber"] == 1401} == {second}
    other = client.submission_scores(client.get_models()["rehearsal_two"])
    assert {row["submissionId"] for row in other if row["roundNumber"] == 1401} == {late}


def test_scores_are_the_same_after_a_restart_and_gone_with_another_market(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = TickingFrom()
    found: list[list[dict[str, Any]]] = []
    for market in (SMALL, SMALL, type(SMALL)(features=9, train_eras=20, validation_eras=20, rows_per_era=22)):
        with LocalTournament(home, market=market, system=clock) as tournament:
            client = real_client(tournament, monkeypatch)
            if not found:
                tournament.open_next_round()
                submit(client, predictions(live_ids(client, tmp_path)))
                tournament.move_clock(30 * DAY_S)
            found.append(client.submission_scores(client.get_models()["rehearsal_one"]))
    assert found[0] == found[1] != []
    assert found[2] == []


def test_without_a_market_nothing_is_scored(local: LocalTournament, monkeypatch: pytest.MonkeyPatch) -> None:
    client = real_client(local, monkeypatch)
    ids = pd.read_parquet(local._core.publisher.path("v5.3/live.parquet", local._core.latest()), columns=["era"]).index
    submit(client, predictions(list(ids)))
    local.move_clock(RESOLVED_S)
    assert client.submission_scores(client.get_models()["rehearsal_one"]) == []


def test_scores_of_nobody_and_of_other_tournaments(tournament: LocalTournament, client: Any) -> None:
    query = "query($m: String!, $t: Int) { submissionScores(modelId: $m tournament: $t) { value } }"
    assert message(post(tournament, query, {"m": "nobody"}, keys=False)) == "Model not found"
    model_id = client.get_models()["rehearsal_one"]
    assert post(tournament, query, {"m": model_id, "t": 11}, keys=False)["data"]["submissionScores"] == []


def test_asking_again_computes_nothing_again(
    tournament: LocalTournament, client: Any, ids: list[str], ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(client, predictions(ids))
    tournament.move_clock(30 * DAY_S)
    first = ask()
    monkeypatch.delattr("eraflow.metrics.numerai_corr")
    assert ask() == first
