"""The Prefect flows around a round: `watch`, the second line of the dead man's switch, and `scores`.

The first line is outside Prefect: `eraflow status --check`, started by a timer of the operating system.
"""

from __future__ import annotations

import os

from prefect import State, flow
from prefect.states import Completed, Failed

from eraflow.request import Request
from eraflow.scores import collect, scores_png, sentence, table_markdown
from eraflow.tell import alarm_config
from eraflow.watch import watch as watch_round
from tasks import artifacts


@flow(name="watch", flow_run_name="watch", persist_result=False)
def watch(request: Request) -> State[None]:
    """Is every slot of the open round verified? If not: the alarm, and the round by direct calls."""
    watched = watch_round(request, alarm_config(request), os.environ)
    ended = Completed if watched.exit_code == 0 else Failed
    return ended(message=watched.sentence)


@flow(name="scores", flow_run_name="scores", persist_result=False)
def scores(request: Request) -> State[None]:
    """What past rounds scored, day by day and slot by slot, into the ledger and the dashboard."""
    found = collect(request.home, request.config.slots)
    artifacts.scores(sentence(found), table_markdown(found), scores_png(found) if found else None)
    return Completed(message=sentence(found))
