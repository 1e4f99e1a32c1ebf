"""The table of checks that a submission must pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from eraflow.checks import HEADER, Check, check_bytes, check_deadline, check_slot, require
from eraflow.errors import ClosedError, DataError, EraflowError, InputError
from eraflow.predictions import canonical_csv
from eraflow.rounds import Round
from eraflow.tournament import Slot

IDS = ("n1", "n2", "n3", "n4")
GOOD = "id,prediction\nn1,0.1\nn2,0.4\nn3,0.6\nn4,0.9\n"
OPENED = Round(
    number=7,
    opens_at_utc=datetime(2026, 8, 22, 12, tzinfo=UTC),
    closes_at_utc=datetime(2026, 8, 23, 14, tzinfo=UTC),
)


def failed(text: str | bytes, ids: tuple[str, ...] = IDS) -> dict[str, str]:
    """Name of each failed check -> what was found."""
    data = text.encode() if isinstance(text, str) else text
    return {check.name: check.found for check in check_bytes(data, ids) if not check.passed}


def test_a_good_submission_passes_every_check_and_shows_what_was_found() -> None:
    checks = check_bytes(GOOD.encode(), IDS)
    assert [(check.name, check.found, check.passed) for check in checks] == [
        ("headers", "id,prediction", True),
        ("rows", "4", True),
        ("ids", "exactly those", True),
        ("duplicates", "0", True),
        ("missing values", "0", True),
        ("range", "0.100000 to 0.900000", True),
        ("spread", "0.2915", True),
    ]


def test_what_we_write_passes_what_we_check() -> None:
    ids = [f"n{i:05}" for i in range(6500)]
    prediction_N = (np.random.default_rng(0).permutation(6500) + 0.5) / 6500
    data = canonical_csv(ids, prediction_N)
    assert [check.name for check in check_bytes(data, ids) if not check.passed] == []


@pytest.mark.parametrize("header", ["id,probability", "prediction,id", "id, prediction", "ID,prediction", "", "n5,0.5"])
def test_other_columns_are_refused(header: str) -> None:
    assert failed(GOOD.replace(HEADER, header)) == {"headers": header}


def test_line_ends_of_windows_are_refused() -> None:
    assert "headers" in failed(GOOD.replace("\n", "\r\n"))


def test_a_missing_row_is_told_by_rows_and_ids() -> None:
    assert failed(GOOD.replace("n4,0.9\n", "")) == {"rows": "3", "ids": "1 missing, 0 that are not of this round"}


def test_an_id_of_another_round_is_refused() -> None:
    assert failed(GOOD.replace("n4", "old")) == {"ids": "1 missing, 1 that are not of this round"}


def test_an_id_that_comes_twice_is_refused() -> None:
    assert failed(GOOD + "n4,0.2\n") == {"rows": "5", "duplicates": "1"}
    assert set(failed(GOOD.replace("n4", "n3"))) == {"ids", "duplicates"}


@pytest.mark.parametrize("value", ["", "nan", "inf", "-inf", "high", "0.5,0.5", "0x1"])
def test_a_value_that_is_no_number_is_refused(value: str) -> None:
    assert failed(GOOD.replace("0.9", value)) == {"missing values": "1"}


@pytest.mark.parametrize("value", ["0", "1", "0.0", "1.0", "-0.1", "1.5", "1e300"])
def test_a_value_outside_the_open_interval_is_refused(value: str) -> None:
    assert set(failed(GOOD.replace("0.9", value))) == {"range"}


@pytest.mark.parametrize("value", ["0.1", "0.5", "0.3", "0.7000000000000001"])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
def test_predictions_that_are_all_the_same_are_refused(value: str, rows: int) -> None:
    """The deviation of n equal decimals is often 1e-17, not 0."""
    ids = tuple(f"n{i}" for i in range(rows))
    assert failed(HEADER + "\n" + "".join(f"{i},{value}\n" for i in ids), ids) == {"spread": "0.0000"}


def test_a_spread_that_the_tournament_would_call_zero_is_refused() -> None:
    """numerai-tools `validate_values` asks `np.isclose(0, std)`, which is so up to 1e-8."""
    ids = ("n1", "n2")
    assert set(failed("id,prediction\nn1,0.5\nn2,0.500000001\n", ids)) == {"spread"}
    assert failed("id,prediction\nn1,0.5\nn2,0.5000001\n", ids) == {}


@pytest.mark.parametrize("data", [b"", b"\n", b"\xff\xfe\x00", b"<html>gone</html>", HEADER.encode()])
def test_nothing_and_nonsense_are_refused_and_never_an_exception(data: bytes) -> None:
    assert {"rows", "ids"} <= set(failed(data))


def test_an_empty_live_file_can_never_be_satisfied() -> None:
    assert "rows" in failed(HEADER + "\n", ())


@pytest.mark.parametrize(("hosted", "passed"), [(False, True), (None, True), (True, False)])
def test_a_slot_with_a_hosted_model_is_refused(hosted: bool | None, passed: bool) -> None:
    check = check_slot(Slot(name="one", model_id="m1", hosted=hosted))
    assert (check.name, check.passed) == ("slot one", passed)


def test_before_the_deadline_the_time_that_is_left_is_told() -> None:
    check = check_deadline(OPENED, OPENED.closes_at_utc - timedelta(hours=1, minutes=5), "skip")
    assert (check.passed, check.must, check.found) == (True, "before 2026-08-23 14:00 UTC", "1 h 5 min left")


@pytest.mark.parametrize(("late", "passed"), [("skip", False), ("submit", True)])
def test_from_the_deadline_on_only_a_policy_for_late_ones_lets_it_through(late: str, passed: bool) -> None:
    for seconds, told in ((0, "0 s late"), (61, "1 min 1 s late")):
        check = check_deadline(OPENED, OPENED.closes_at_utc + timedelta(seconds=seconds), late)
        assert (check.passed, check.found) == (passed, told)


def line(name: str, passed: bool) -> Check:
    return Check(name=name, must="so", found="otherwise", passed=passed)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["deadline"], ClosedError), (["slot one"], InputError), (["ids"], DataError),
        (["deadline", "ids"], ClosedError), (["ids", "spread"], DataError),
    ],
)  # fmt: skip
def test_the_first_failed_check_says_what_kind_of_error_it_is(names: list[str], kind: type[EraflowError]) -> None:
    with pytest.raises(EraflowError) as caught:
        require([line("headers", True), *(line(name, False) for name in names)], "slot one in round 7")
    assert type(caught.value) is kind
    told = "; ".join(f"{name}: must be so, however found otherwise" for name in names)
    assert caught.value.message == f"nothing was sent for slot one in round 7: {told}"


def test_nothing_is_raised_when_every_check_passes() -> None:
    require([line("ids", True)], "slot one")
    require([], "slot one")
