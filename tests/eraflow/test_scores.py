"""Scores are asked for, kept once, followed until they are final, and shown with whatever is missing."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eraflow import scores as module
from eraflow.client import Keys
from eraflow.entries import ScoreEntry, data_versions, read_score
from eraflow.errors import CredentialsError, InputError, TransientError
from eraflow.ledger import Ledger, Score
from eraflow.pictures import Card
from eraflow.rehearsal import Fault, LocalTournament, MarketConfig
from eraflow.scores import NO_SCORES, collect, json_object, newest, scores_png, sentence, table_markdown, table_text
from eraflow.scores_picture import LINES, panel_names
from eraflow.store import Store
from eraflow.tournament import Tournament
from tests.eraflow.conftest import nap
from tests.eraflow.made_up import png_size
from tests.eraflow.rehearsal.conftest import TickingFrom
from tests.eraflow.talking import allowed, asked

DAY_S = 86_400
MARKET = MarketConfig(features=8, train_eras=20, validation_eras=20, rows_per_era=20)
SLOTS = ("rehearsal_one", "rehearsal_two")


class Account:
    """A machine of the account that submits by the door and collects into its own home."""

    def __init__(self, local: LocalTournament, home: Path) -> None:
        self.local, self.home = local, home
        self.door = Tournament(local.url, Keys(local.public_id, local.secret_key), sleep=nap)

    def play(self, *slots: str) -> int:
        """Submit something in a new round for each slot."""
        number = self.local.open_next_round(delay_s=0)
        ids = self.local.market.live(self.local._core.latest().week, number).id_N
        values = (np.random.default_rng(number).permutation(len(ids)) + 0.5) / len(ids)
        data = "\n".join(["id,prediction", *(f"{one},{value}" for one, value in zip(ids, values, strict=True)), ""])
        for slot in slots:
            model_id = self.door.slots()[slot].model_id
            self.door.create(self.door.upload("a.csv", data.encode(), model_id, allowed), model_id, allowed)
        return number

    def collect(self, *slots: str) -> list[Score]:
        return collect(self.home, slots or SLOTS)

    @property
    def ledger(self) -> Ledger:
        return Ledger(Store.open(self.home).ledger_path, self.local.url)


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """Two slots of a market, with the environment pointed at it."""
    with LocalTournament(tmp_path / "tournament", market=MARKET, system=TickingFrom()) as local:
        monkeypatch.setenv("ERAFLOW_API_URL", local.url)
        monkeypatch.setenv("NUMERAI_PUBLIC_ID", local.public_id)
        monkeypatch.setenv("NUMERAI_SECRET_KEY", local.secret_key)
        monkeypatch.setattr("eraflow.tournament.RETRY_WAITS_S", (0.01, 0.01))
        yield Account(local, tmp_path / "home")


def score(round: int = 1401, name: str = "corr60", value: float | None = 0.02, **more: Any) -> Score:
    return Score(**{"slot": "main", "round": round, "name": name, "value": value, "day": 3, **more})


# The door


def test_the_door_tells_scores_of_each_day(account: Account) -> None:
    number = account.play("rehearsal_one")
    model_id = account.door.slots()["rehearsal_one"].model_id
    assert account.door.scores(model_id) == []
    account.local.move_clock(9.5 * DAY_S)
    found = account.door.scores(model_id)
    assert {(one.round, one.name, one.version) for one in found} == {
        (number, name, "v1") for name in ("corr60", "mmc60", "bmc60")
    }
    assert {one.day: one.date for one in found} == {1: "2026-12-04", 2: "2026-12-07"}
    assert all(one.value is not None and one.percentile is not None and not one.resolved for one in found)
    assert {one.name for one in account.door.scores(model_id, 30, "mmc60")} == {"mmc60"}
    assert account.door.scores(model_id, last_rounds=0) == []


def test_the_door_tells_what_the_key_may_do(account: Account) -> None:
    assert "stake" not in account.door.scopes()
    account.local.set_scopes(["upload_submission", "stake"])
    assert account.door.scopes() == ("upload_submission", "stake")
    with pytest.raises(CredentialsError, match="does not accept the keys"):
        Tournament(account.local.url, Keys("WRONG", "KEYS"), sleep=nap).scopes()


def test_the_door_tells_data_versions_with_the_newest_last(account: Account) -> None:
    assert account.door.data_versions() == ("v5.3",)
    for version in ("v5.10", "v4.1"):
        account.local.add_data_version(version)
    assert account.door.data_versions() == ("v4.1", "v5.3", "v5.10")


def test_names_that_are_no_version_are_left_out() -> None:
    assert data_versions(["v5/a", "signals/v6/a", "latest/a", "v6", "v5.x/a", "v\N{ARABIC-INDIC DIGIT SIX}/a"]) == (
        "v5",
    )


def test_scores_without_value_day_or_date_are_read() -> None:
    bare = {"roundNumber": "1401", "displayName": "corr60"}
    empty = ScoreEntry(
        round=1401, name="corr60", version="", day=0, date=None, value=None, percentile=None, resolved=False
    )
    assert read_score(bare) == read_score({**bare, "value": math.nan, "percentile": None, "day": None}) == empty
    moment = datetime(2026, 12, 4, 16, tzinfo=UTC)
    assert read_score({**bare, "value": "0.5", "date": moment}).date == "2026-12-04"


def test_scores_of_another_shape_are_a_passing_fault(account: Account) -> None:
    body = json.dumps({"data": {"submissionScores": [{"displayName": "corr60"}]}})
    account.local.faults.add(Fault(where="query:submissionScores", what="status", code=200, body=body, times=None))
    with pytest.raises(TransientError, match="not of the documented shape"):
        account.door.scores("a model")


# Collecting


def test_scores_are_collected_once_however_often_they_are_asked_for(account: Account) -> None:
    first = account.play(*SLOTS)
    second = account.play("rehearsal_one")
    account.local.move_clock(10 * DAY_S)
    found = account.collect()
    assert {(one.slot, one.round) for one in found} == {
        ("rehearsal_one", first), ("rehearsal_one", second), ("rehearsal_two", first),
    }  # fmt: skip
    assert account.collect() == found == account.ledger.scores()
    account.local.move_clock(DAY_S)
    assert len(account.collect()) > len(found)
    assert {one.slot for one in account.collect("rehearsal_two")} == {"rehearsal_two"}


def test_rounds_that_are_no_longer_among_the_last_are_followed_until_they_are_final(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAST_ROUNDS", 1)
    number = account.play("rehearsal_one")
    account.local.move_clock(6.5 * DAY_S)
    assert {one.round for one in account.collect("rehearsal_one")} == {number}
    for _ in range(3):
        account.local.open_next_round()
    account.local.move_clock(80 * DAY_S)
    final = [one for one in newest(account.collect("rehearsal_one")) if one.round == number]
    assert [(one.name, one.day, one.resolved) for one in final] == [
        ("corr60", 60, True), ("mmc60", 60, True), ("bmc60", 60, True),
    ]  # fmt: skip
    before = asked(account.local, "submissionScores")
    account.collect("rehearsal_one")
    assert asked(account.local, "submissionScores") == before + 1


def test_a_slot_that_the_account_lacks_is_named_after_the_others_were_collected(account: Account) -> None:
    account.play("rehearsal_one")
    account.local.move_clock(10 * DAY_S)
    with pytest.raises(InputError, match=r"however typo is none; it has rehearsal_one, rehearsal_two"):
        account.collect("typo", "rehearsal_one")
    assert {one.slot for one in account.ledger.scores()} == {"rehearsal_one"}


def test_no_slots_ask_nobody(account: Account) -> None:
    assert collect(account.home, ()) == []
    assert account.local.requests == []


def test_two_that_collect_at_once_keep_each_score_once(account: Account) -> None:
    account.play(*SLOTS)
    account.local.move_clock(20 * DAY_S)
    threads = [threading.Thread(target=account.collect) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert account.ledger.scores() == account.collect()


# Showing


def test_the_newest_value_of_each_round_is_shown_newest_round_first() -> None:
    given = [
        score(1401, day=2, value=0.5), score(1401, day=60, value=0.1, resolved=True), score(1402, day=1),
        score(1401, "mmc60", day=3, value=0.3), score(1401, "mmc60", day=4, value=None),
        score(1401, "fnc", value=math.nan, percentile=math.nan),
    ]  # fmt: skip
    assert [(one.round, one.name, one.value) for one in newest(given)] == [
        (1402, "corr60", 0.02), (1401, "corr60", 0.1), (1401, "mmc60", 0.3), (1401, "fnc", None),
    ]  # fmt: skip


def test_the_table_tells_value_state_and_percentile() -> None:
    given = [
        score(1401, value=-0.0122, day=60, resolved=True, percentile=0.254), score(1402, day=12, percentile=0.5),
        score(1402, "mmc60", None), score(1402, "a\x1b[2J", 0.1, day=0), score(slot="second", name="bmc60"),
    ]  # fmt: skip
    shown = """\
main: 2 rounds
  mean corr60 +0.0039 over 2 rounds, 1 of them final
  mean a?[2J +0.1000 over 1 round, 0 of them final
   round  score      value   state  percentile
    1402  corr60   +0.0200  day 12        50 %
          mmc60          -   day 3           -
          a?[2J    +0.1000  so far           -
    1401  corr60   -0.0122   final        25 %

second: 1 round
  mean bmc60 +0.0200 over 1 round, 0 of them final
   round  score     value   state  percentile
    1401  bmc60   +0.0200   day 3           -"""
    assert table_text(given) == shown
    assert sentence(given).startswith("main: mean corr60 +0.0039 over 2 rounds, 1 of them final; second: mean bmc60")
    assert "| main | 1401 | corr60 | -0.0122 | final | 25 % |" in table_markdown(given)


def test_a_long_history_is_cut_and_says_so() -> None:
    text = table_text([score(1400 + i) for i in range(30)], rounds=5)
    assert text.count("corr60") == 6
    assert "and 25 earlier rounds" in text
    assert "1425" in text
    assert "1424" not in text


def test_without_scores_that_is_said() -> None:
    assert table_text([]) == table_markdown([]) == sentence([]) == NO_SCORES
    assert json_object([]) == {"scores": []}
    assert sentence([score(value=None)]) == "main: no score has a value yet"


def test_json_holds_the_newest_values_and_no_nan() -> None:
    text = json.dumps(json_object([score(day=1), score(day=2, value=0.1, percentile=math.inf)]), allow_nan=False)
    [found] = json.loads(text)["scores"]
    assert (found["round"], found["day"], found["value"], found["percentile"]) == (1401, 2, 0.1, None)


# The chart


def many(slots: int, rounds: int, names: tuple[str, ...] = ("corr60", "mmc60", "bmc60")) -> list[Score]:
    draw = np.random.default_rng(0)
    return [
        score(1400 + i, name, float(draw.normal(0.01, 0.02)), slot=f"slot_{s}", resolved=i < rounds - 13)
        for s in range(slots) for i in range(rounds) for name in names
    ]  # fmt: skip


@pytest.mark.parametrize(
    "given",
    [
        [], [score()], [score(value=None)], [score(value=math.nan)], many(1, 2, ("x",)), many(2, 40),
        many(9, 250), [score(name="$odd^_", slot="\N{CJK UNIFIED IDEOGRAPH-6F22}" * 40)],
    ],
    ids=["none", "one", "no value", "NaN", "one name", "usual", "many", "odd"],
)  # fmt: skip
def test_every_history_has_a_small_chart(given: list[Score]) -> None:
    data = scores_png(given)
    assert png_size(data)[0] == 1200
    assert len(data) < 150_000
    assert data == scores_png(given)


def test_the_chart_says_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    write = Card.text

    def noted(card: Card, x: float, y: float, text: str, **how: Any) -> None:
        texts.append(text)
        write(card, x, y, text, **how)

    monkeypatch.setattr(Card, "text", noted)
    scores_png(many(len(LINES) + 2, 3))
    assert "without 2 more slots; hollow: not final yet" in texts
    assert "corr60 by round: 3 rounds" in texts
    texts.clear()
    scores_png([])
    assert NO_SCORES in texts


def test_of_each_family_the_longest_horizon_is_drawn() -> None:
    names = ("corr20", "mmc20", "corr60", "fncV4", "mmc60", "a_new_one")
    assert panel_names([score(name=name) for name in names]) == ["corr60", "mmc60"]
    assert panel_names([score(name="a_new_one")]) == ["a_new_one"]
