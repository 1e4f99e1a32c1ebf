"""The weekly round played against a local tournament on loopback: the newcomer's first minute.

Lives in `ERAFLOW_HOME/rehearsal`, never touches the real tournament or the real keys, and plays a new round at each
call.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from eraflow.errors import InputError
from eraflow.files import adopt_files
from eraflow.rehearsal import LocalTournament, MarketConfig, random_faults
from eraflow.request import Request, make_request
from eraflow.result import RoundResult
from eraflow.store import Store, default_home

DEFAULT_SLOTS = ("rehearsal_one",)
# Trains in seconds on any machine; real rounds default to a stronger one.
DEFAULT_RECIPE = "simple-mlp"


def rehearse(
    environ: MutableMapping[str, str],
    *,
    recipe: str | None = None,
    slots: Sequence[str] = (),
    assignments: Mapping[str, str] | None = None,
    data_from: Path | None = None,
    rows: int | None = None,
    features: int | None = None,
    rounds: int = 1,
    fault_seed: int | None = None,
) -> list[RoundResult]:
    """Play `rounds` weeks, each a new round, through the real client and the real flow; one result a round."""
    if rounds < 1:
        raise InputError(f"--rounds must be at least 1, however {rounds} was given")
    home = Store.open(default_home(environ)).home / "rehearsal"
    request = make_request(
        home=home, recipe=recipe or DEFAULT_RECIPE, slots=slots or DEFAULT_SLOTS, assignments=assignments
    )
    from flows.weekly import run_weekly

    results = []
    with local_tournament(home, request, data_from, rows, features) as tournament, pointed_at(environ, tournament):
        for week in range(rounds):
            tournament.open_next_round()
            if fault_seed is not None:
                tournament.faults.clear()
                tournament.faults.add(*random_faults(fault_seed + week))
            results.append(_compared(run_weekly(request), tournament))
    return results


def _compared(result: RoundResult, tournament: LocalTournament) -> RoundResult:
    """The result with what nobody can beat in the synthetic market beside each model's score."""
    models = (replace(m, best_reachable_spearman=tournament.best_reachable(m.target)) for m in result.models)
    return replace(result, models=tuple(models))


def local_tournament(
    home: Path, request: Request, data_from: Path | None, rows: int | None, features: int | None
) -> LocalTournament:
    """The tournament of this rehearsal home, with the market or the folder that was asked for."""
    if data_from is not None:
        adopt_files(data_from, Store.open(home), None)  # refuses what is no folder in v5.3 layout, before any start
    market = MarketConfig.sized(rows=rows, features=features)
    return LocalTournament(
        home / "tournament", market=market, data_from=data_from, slots=tuple(request.config.slots), weekly_only=True
    )


@contextmanager
def pointed_at(environ: MutableMapping[str, str], tournament: LocalTournament) -> Iterator[None]:
    """The environment with the local tournament's address and keys in place of the real ones.

    Without a Prefect server either: there the rehearsed week would take the place of the real one.
    """
    names = ("ERAFLOW_API_URL", "NUMERAI_PUBLIC_ID", "NUMERAI_SECRET_KEY", "PREFECT_API_URL")
    before = {name: environ.pop(name) for name in names if name in environ}
    environ.update(zip(names, (tournament.url, tournament.public_id, tournament.secret_key), strict=False))
    try:
        yield
    finally:
        for name in names:
            environ.pop(name, None)
        environ.update(before)


def serve_tournament(
    home: Path, port: int, data_from: Path | None, *, show: Callable[[str], None], as_json: bool,
    every_s: float | None = None, window_s: float | None = None, delay_scale: float = 0.0, rows: int | None = None,
    features: int | None = None,
) -> int:  # fmt: skip
    """Run the local tournament until it is stopped; tells its address and where its keys are.

    With `every_s` another round opens each so many seconds, on time for `window_s`; `rows` and `features` size its
    market. Raises `InputError` for a pace or a size that cannot be.
    """
    import json

    market = MarketConfig.sized(rows=rows, features=features)
    with LocalTournament(
        home, port=port, data_from=data_from, market=market, every_s=every_s, window_s=window_s, delay_scale=delay_scale
    ) as tournament:
        if tournament.open_round() is None:
            tournament.open_next_round()
        facts = {"url": tournament.url, "home": str(home), "environment_file": str(tournament.environment_file)}
        if as_json:
            show(json.dumps(facts))
        else:
            show(
                f"local tournament at {tournament.url}\n  set -a; . {tournament.environment_file}; set +a\n"
                "  stop with Ctrl-C"
            )
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return os.EX_OK
    return os.EX_OK
