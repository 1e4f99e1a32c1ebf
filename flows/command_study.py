"""`eraflow study`: which of these recipes is better?"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eraflow.errors import InputError
from flows.terminal import complain, show

if TYPE_CHECKING:
    from eraflow.study.config import PayoutConfig, StudyConfig
    from eraflow.study.plan import Study
    from eraflow.study.run import Found


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the command; what a file says they replace."""
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="the study as TOML; flags replace its parts")
    parser.add_argument(
        "--data-from",
        type=Path,
        metavar="FOLDER",
        help="train.parquet, validation.parquet, features.json (default: what the last weekly round downloaded)",
    )
    parser.add_argument("--recipes", metavar="A,B,...", help="what is compared, the baseline first")
    parser.add_argument("--seeds", type=int, metavar="N", help="of each recipe")
    parser.add_argument("--target", metavar="NAME", help="in place of each recipe's own")
    parser.add_argument("--feature-set", metavar="NAME", help="in place of each recipe's own")
    parser.add_argument("--chunk-eras", type=int, metavar="N", help="eras that one fold validates")
    parser.add_argument("--folds", type=int, metavar="N", help="folds, counted back from the last era")
    parser.add_argument("--purge-eras", type=int, metavar="N", help="in place of what the target's horizon asks for")
    parser.add_argument("--horizon-eras", type=int, metavar="N", help="eras a target reaches over, for intervals")
    parser.add_argument("--reserved-from", type=int, metavar="ERA", help="no fold touches this era or a later one")
    parser.add_argument("--reserve", action="store_true", help="validate the reserved eras and them alone, once")
    parser.add_argument(
        "--payout-of", type=int, metavar="ROUND", help="ask the tournament for the multipliers of this round"
    )
    parser.add_argument("--runner", choices=("in turn", "process", "dask"), help="how units of work are run")
    parser.add_argument("--workers", type=int, metavar="N", help="units at once, each with its share of the cores")
    parser.add_argument("--benchmark", metavar="COLUMN", help="of the benchmark models' files, for BMC")


def study(options: argparse.Namespace) -> int:
    """Run the study; what is finished of it is never done again."""
    from eraflow.study.run import found_of, references_of

    opened = _planned(options)
    references = references_of(opened)
    errors = _run(opened)
    found = found_of(opened, references, errors)
    for name, why in found.scores.unfinished.items():
        complain(f"{name} is not in the table: {why}")
    _show(found, options)
    return 1 if found.scores.unfinished else 0


def _planned(options: argparse.Namespace) -> Study:
    from eraflow.progress import for_this_terminal
    from eraflow.store import Store, default_home
    from eraflow.study.config import StudyConfig, read_study
    from eraflow.study.files import files_of
    from eraflow.study.plan import plan

    config = _changed(read_study(options.file) if options.file else StudyConfig(), options)
    if config.runner == "dask" and find_spec("prefect_dask") is None:
        raise InputError(
            'runner = "dask" needs prefect-dask, however it is not installed; pip install'
            " 'eraflow[dask]', or choose another runner"
        )
    store = Store.open(default_home(os.environ))
    found = files_of(options.data_from.resolve() if options.data_from else None, store)
    return plan(
        config,
        store=store,
        files=found.data,
        features_file=found.features,
        decoded=found.decoded,
        progress=for_this_terminal(),
    )


def _changed(config: StudyConfig, options: argparse.Namespace) -> StudyConfig:
    """The configuration with what the flags say."""
    folds = {
        "chunk_eras": options.chunk_eras,
        "number": options.folds,
        "purge_eras": options.purge_eras,
        "reserved_from": options.reserved_from,
    }
    parts: dict[str, Any] = {
        "recipes": tuple(name for name in options.recipes.split(",") if name) if options.recipes else None,
        "seeds": options.seeds,
        "target": options.target,
        "feature_set": options.feature_set,
        "benchmark": options.benchmark,
        "runner": options.runner,
        "workers": options.workers,
        "folds": replace_given(config.folds, folds),
        "horizon_eras": options.horizon_eras,
        "reserve": options.reserve or None,
        "payout": _payout_of(options.payout_of) if options.payout_of is not None else None,
    }
    changed: StudyConfig = replace_given(config, parts)
    return changed


def _payout_of(number: int) -> PayoutConfig:
    """What the tournament says that the round pays."""
    from eraflow.study.config import PayoutConfig
    from eraflow.tournament import Tournament

    return PayoutConfig(**asdict(Tournament.from_environment(os.environ).payout(number)))


def replace_given(value: Any, parts: dict[str, Any]) -> Any:
    """`value` with those of `parts` that are not None. Raises `InputError` for what it refuses."""
    try:
        return replace(value, **{name: part for name, part in parts.items() if part is not None})
    except ValueError as error:
        raise InputError(str(error)) from error


def _run(opened: Study) -> dict[str, str]:
    """All units as Prefect tasks; what failed."""
    from flows import prefect_home

    prefect_home.prepare(os.environ, opened.folder.parents[1])
    with prefect_home.chosen_server(os.environ) as url:
        from flows.study_flow import run_units

        prefect_home.wait_until_ready(url)
        return run_units(opened)


def _show(found: Found, options: argparse.Namespace) -> None:
    """Write the page; then what the study came to, with where the page lies."""
    from eraflow.study.page import write_page
    from eraflow.study.text import json_object, text

    report = str(write_page(found))
    show(json.dumps(json_object(found) | {"report": report}) if options.json else f"{text(found)}\n\nreport: {report}")
