"""Outages in short; the long form of all of them is `benchmarks/outages.py`, their table `docs/outages.md`."""

from __future__ import annotations

import dataclasses
import threading

from tests.behaviour.week import Week, by_slot


def test_a_run_that_waits_for_its_round_outlasts_a_tournament_that_cannot_be_reached(week: Week) -> None:
    week.local.stop()
    back = threading.Timer(2.0, week.local.start)
    back.start()
    result = week.play(dataclasses.replace(week.request(slots=["rehearsal_one"]), wait_s=60.0))
    back.join()
    receipt = by_slot(result)["rehearsal_one"]
    assert (receipt.status, receipt.verified) == ("submitted", "bytes"), receipt.error_message
