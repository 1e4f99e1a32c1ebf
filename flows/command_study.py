"""`eraflow study`: which of these recipes is better?"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eraflow.errors import EraflowError, InputError
from flows.terminal import complain, show

if TYPE_CHECKING:
    from eraflow.store import Store
    from eraflow.study.config import StudyConfig
    from eraflow.study.plan import Study
    from eraflow.study.run import Found


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the command; what a file says they replace."""
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="the study as TOML (default: every part's default); flags replace its parts",
    )
    parser.add_argument(
        "--data-from",
        type=Path,
        metavar="FOLDER",
        help="train.parquet, validation.parquet, features.json (default: what the last weekly round downloaded)",
    )
    parser.add_argument(
        "--recipes",
        metavar="A,B,...",
        help="what is compared, the baseline first (default simple-mlp,era-pearson,ridge,lightgbm)",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="of each recipe that has chance in it (default 3)")
    parser.add_argument("--target", metavar="NAME", help="in place of each recipe's own (default target_ender_60)")
    parser.add_argument(
        "--feature-set", metavar="NAME", help="in place of each recipe's own (default: each recipe's own)"
    )
    parser.add_argument("--chunk-eras", type=int, metavar="N", help="eras that one fold validates (default 156)")
    parser.add_argument(
        "--folds", type=int, metavar="N", help="folds, counted back from the last era (default: all that there are)"
    )
    parser.add_argument(
        "--purge-eras",
        type=int,
        metavar="N",
        help="eras left out before a fold (default: what the target's horizon asks for)",
    )
    parser.add_argument(
        "--horizon-eras",
        type=int,
        metavar="N",
        help="eras a target reaches over, for intervals (default: 4 or 12, by the target's name)",
    )
    parser.add_argument(
        "--reserved-from", type=int, metavar="ERA", help="no fold touches this era or a later one (default: none)"
    )
    parser.add_argument("--reserve", action="store_true", help="validate the reserved eras and them alone, once")
    parser.add_argument(
        "--payout-of", type=int, metavar="ROUND", help="ask the tournament for the multipliers of this round"
    )
    parser.add_argument(
        "--runner",
        choices=("in turn", "process", "dask"),
        help='how units of work are run: process, dask or, with the quotes, "in turn" (default)',
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="units at once, each with its share of the cores (default 1)"
    )
    parser.add_argument(
        "--references",
        action="store_true",
        help="first bring the meta model and the benchmark models of the data that were downloaded",
    )
    parser.add_argument(
        "--benchmark", metavar="COLUMN", help="of the benchmark models' files, for BMC (default v53_lgbm_ender60)"
    )


def study(options: argparse.Namespace) -> int:
    """Run the study; what is finished of it is never done again."""
    from eraflow.study.run import references_of
    from eraflow.study.scores import MMC

    opened = _planned(options)
    if MMC not in references_of(opened):  # what they refuse is refused before any training
        complain(f"payout and MMC are not told: there is no meta model beside the data{_how_to_bring(options)}")
    found = _run(opened)
    for name, why in found.scores.unfinished.items():
        complain(f"{name} is not in the table: {why}")
    _show(found, options)
    return 1 if found.scores.unfinished else 0


def _planned(options: argparse.Namespace) -> Study:
    from eraflow.config import build, read_toml
    from eraflow.progress import for_this_terminal
    from eraflow.store import Store, default_home
    from eraflow.study.config import StudyConfig
    from eraflow.study.files import files_of
    from eraflow.study.plan import plan

    table = _changed(read_toml(options.file) if options.file else {}, options)
    config = _installed(build(StudyConfig, table), asked="recipes" in table)
    store = Store.open(default_home(os.environ))
    found = files_of(options.data_from.resolve() if options.data_from else None, store)
    if options.references:
        _bring_references(options, store, found.features.parent.name)
    return plan(
        config,
        store=store,
        files=found.data,
        features_file=found.features,
        decoded=found.decoded,
        progress=for_this_terminal(),
    )


def _installed(config: StudyConfig, *, asked: bool) -> StudyConfig:
    """`config`, unless it needs an extra that is not installed; LightGBM is left out where nobody `asked` for it."""
    from eraflow.study.boosting import how_to_install

    if config.runner == "dask" and find_spec("prefect_dask") is None:
        raise InputError(
            f'runner = "dask" needs prefect-dask, however it is not installed; {how_to_install("dask")}, or choose'
            " another runner"
        )
    if "lightgbm" not in config.recipes or find_spec("lightgbm") is not None:
        return config
    if asked:
        raise InputError(
            "the recipe lightgbm needs LightGBM, however it is not installed;"
            f" {how_to_install('lightgbm')}, or leave it out"
        )
    complain(f"lightgbm is left out, because LightGBM is not installed; {how_to_install('lightgbm')}")
    return replace(config, recipes=tuple(name for name in config.recipes if name != "lightgbm"))


def _bring_references(options: argparse.Namespace, store: Store, version: str) -> None:
    from eraflow.files import fetch_references
    from eraflow.progress import for_this_terminal
    from eraflow.tournament import Tournament

    if options.data_from:
        raise InputError(
            f"--references is for data that were downloaded, however --data-from names {options.data_from}; put"
            " meta_model.parquet and the benchmark models' files there"
        )
    tournament = Tournament.from_environment(os.environ)
    fetch_references(tournament, store, tournament.latest_round(), version, for_this_terminal())


def _how_to_bring(options: argparse.Namespace) -> str:
    return "" if options.data_from else "; --references brings it"


def _changed(table: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The file's table with what the flags say: they may mend what the file alone would be refused for."""
    folds = {
        "chunk_eras": options.chunk_eras,
        "number": options.folds,
        "purge_eras": options.purge_eras,
        "reserved_from": options.reserved_from,
    }
    parts: dict[str, Any] = {
        "recipes": [name.strip() for name in options.recipes.split(",") if name.strip()] if options.recipes else None,
        "seeds": options.seeds,
        "target": options.target,
        "feature_set": options.feature_set,
        "benchmark": options.benchmark,
        "runner": options.runner,
        "workers": options.workers,
        "horizon_eras": options.horizon_eras,
        "reserve": options.reserve or None,
        "payout": _payout_of(options.payout_of) if options.payout_of is not None else None,
    }
    if _given(folds):
        # What is no table is left for `build` to refuse.
        before = table.get("folds", {})
        parts["folds"] = {**before, **_given(folds)} if isinstance(before, Mapping) else before
    return {**table, **_given(parts)}


def _given(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in parts.items() if part is not None}


def _payout_of(number: int) -> dict[str, float]:
    """What the tournament says that the round pays."""
    from eraflow.tournament import Tournament

    return asdict(Tournament.from_environment(os.environ).payout(number))


def _run(opened: Study) -> Found:
    """All units as Prefect tasks; what they come to."""
    from flows import prefect_home

    prefect_home.prepare(os.environ, opened.folder.parents[1])
    with prefect_home.chosen_server(os.environ) as url:
        from flows.study_flow import run_units

        try:
            prefect_home.wait_until_ready(url)
        except RuntimeError as error:
            return _without_prefect(opened, error)
        return run_units(opened)


def _without_prefect(opened: Study, error: RuntimeError) -> Found:
    """Units in turn need no server; the other runners are Prefect's own."""
    from eraflow.progress import for_this_terminal
    from eraflow.study.run import references_of, run

    if opened.config.runner != "in turn":
        raise EraflowError(
            f'runner = "{opened.config.runner}" needs a Prefect server, however {error}; try again, or run in turn'
        ) from error
    complain(f"{error}; the study goes on without Prefect and is not on its dashboard")
    return run(opened, references_of(opened), for_this_terminal())


def _show(found: Found, options: argparse.Namespace) -> None:
    """Write the page; then what the study came to, with where the page lies."""
    from eraflow.study.page import write_page
    from eraflow.study.text import json_object, text

    report = str(write_page(found))
    show(json.dumps(json_object(found) | {"report": report}) if options.json else f"{text(found)}\n\nreport: {report}")
