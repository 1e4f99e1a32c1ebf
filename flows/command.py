"""The `eraflow` command: reads flags, calls one function, prints what came of it.

Exit codes: 0 done; 2 the user's input is wrong; 3 the tournament refuses or is closed; 4 credentials; 5 data failed
verification; 1 anything else. Errors are one line on standard error, a traceback only with `--debug`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from eraflow import __version__
from eraflow.errors import EraflowError, InputError
from eraflow.progress import LineHandler
from eraflow.untold import unexpected, way_to
from flows.terminal import complain, elsewhere, show

if TYPE_CHECKING:
    from eraflow.request import Request

EXIT_INTERRUPTED = 130
ALL_SLOTS = "(repeatable; default: all slots of the configuration)"


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        # Shortened flags would change their meaning with each new flag, and `--js` would not be seen as `--json`.
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    debug, as_json = "--debug" in given, "--json" in given
    # Without this a SIGTERM leaves Prefect's temporary server behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    os.umask(0o077)  # what is written is its owner's alone, in a home that was there with another mode too
    try:
        _refuse_foreign_packages()
        options = _parsed(given)
        _show_log(options)
        if options.unattended:
            from flows.command_care import load_environment_file

            load_environment_file(options)
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except EraflowError as error:
        return _failed(error, as_json, debug)
    except KeyboardInterrupt:
        complain("interrupted; run the same command again to go on where it stopped")
        return EXIT_INTERRUPTED
    except Exception as error:
        if debug:
            complain(way_to(error))
            return _failed(unexpected(error), as_json, debug=False)
        told = EraflowError(
            f"unexpected {type(error).__name__}; run again with --debug and report it", code="unexpected"
        )
        return _failed(told, as_json, debug)


def _parsed(given: Sequence[str]) -> argparse.Namespace:
    options, surplus = _parser().parse_known_args(given)
    if surplus:  # argparse itself would name the help of `eraflow`, which has none of the command's flags
        raise InputError(f"unrecognized arguments: {' '.join(surplus)}; see eraflow {options.command} --help")
    return options


def _failed(error: EraflowError, as_json: bool, debug: bool) -> int:
    if debug:
        complain(way_to(error))
    complain(error.message + elsewhere(error.code))
    if as_json:
        show(json.dumps({"rounds": [], "error": {"code": error.code, "message": error.message}}))
    return error.exit_code


def _show_log(options: argparse.Namespace) -> None:
    handler = LineHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("eraflow")
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG if getattr(options, "debug", False) else logging.INFO)
    logger.propagate = False
    logging.raiseExceptions = False  # a closed standard error must not stop a round


def _refuse_foreign_packages() -> None:
    """Other distributions are called `tasks` and `flows` too, and overwrite ours without a word."""
    from importlib.metadata import packages_distributions

    owners = packages_distributions()
    for package in ("tasks", "flows"):
        others = sorted(set(owners.get(package, [])) - {"eraflow"})
        if others:
            raise EraflowError(
                f"the package {package} is also installed by {', '.join(others)}, which may have overwritten eraflow's;"
                " uninstall both and install eraflow again in an environment of its own",
                code="foreign-package",
            )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="eraflow",
        description="Weekly submissions to the Numerai tournament, verified and on time.",
        epilog="Exit codes: 0 done, 2 wrong input, 3 the tournament refuses or is closed, 4 credentials, 5 data failed"
        " verification, 1 anything else; 130 or 143 where a signal stopped it. `eraflow COMMAND --help` lists flags.",
    )
    parser.add_argument("--version", action="version", version=f"eraflow {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_rehearse(commands)
    _add_weekly(commands)
    _add_daily(commands)
    _add_care(commands)
    _add_study(commands)
    _add_tournament(commands)
    _add_recipes(commands)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, *, unattended: bool = False
) -> argparse.ArgumentParser:
    """A command; what runs unattended may take its keys from the environment file."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="end standard output with one JSON object")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and more of the log")
    parser.set_defaults(run=run, unattended=unattended, unfit=None)
    return parser


def _add_rehearse(commands: Any) -> None:
    parser = _command(
        commands, "rehearse", _rehearse, "play a whole weekly round against a local tournament; needs no keys"
    )
    _add_round_flags(parser, recipe="simple-mlp", slots="rehearsal_one")
    parser.add_argument(
        "--data-from", type=_path, metavar="FOLDER", help="use these files (v5.3 layout) instead of a market"
    )
    _add_market_flags(parser)
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="how many weeks to play (default 1)")
    parser.add_argument("--faults", type=int, metavar="SEED", help="break things on the way, reproducibly")


def _add_weekly(commands: Any) -> None:
    parser = _command(commands, "weekly", _weekly, "the whole weekly flow for the open round", unattended=True)
    _add_round_flags(parser)
    parser.add_argument(
        "--data-from", type=_path, metavar="FOLDER", help="use these files (v5.3 layout) instead of a download"
    )
    _add_submit_flags(parser)


def _add_daily(commands: Any) -> None:
    parser = _command(
        commands,
        "daily",
        _daily,
        "live data only, with the newest good model, for a window of one hour",
        unattended=True,
    )
    _add_round_flags(parser)
    _add_submit_flags(parser)


def _add_submit_flags(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--no-submit", action="store_true", help="stop before anything is sent")
    parser.add_argument("--resubmit", action="store_true", help="replace a submission that is already there")
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="MINUTES", help="how long to wait for the round to open (default 0)"
    )


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=_path, metavar="FILE", help="the configuration (default: weekly.toml in ERAFLOW_HOME)"
    )


def _add_care(commands: Any) -> None:
    from flows import command_care as care

    parser = _command(
        commands, "up", care.up, "Prefect server and all deployments, until it is stopped", unattended=True
    )
    _add_config(parser)
    parser.add_argument("--check", action="store_true", help="only judge the configuration and the keys")
    parser.add_argument("--port", type=_port, default=4200, metavar="P", help="of the dashboard (default 4200)")

    parser = _command(commands, "status", care.status, "is this week safe?", unattended=True)
    _add_config(parser)
    parser.add_argument("--watch", action="store_true", help="keep it on the screen")
    parser.add_argument(
        "--check",
        action="store_true",
        help="for a timer of the operating system: where a slot is not verified, raise the alarm, play the round and"
        " exit 1",
    )

    parser = _command(commands, "doctor", care.doctor, "is this machine fit for it?", unattended=True)
    _add_config(parser)
    parser.add_argument("--deep", action="store_true", help="read every stored file again")
    parser.add_argument("--alarm-test", action="store_true", help="raise a test alarm")

    parser = _command(commands, "scores", care.scores, "collect and show what past rounds scored", unattended=True)
    _add_config(parser)
    parser.add_argument("--model", action="append", default=[], metavar="SLOT", help=f"only this slot {ALL_SLOTS}")


def _add_study(commands: Any) -> None:
    from flows import command_study

    parser = _command(commands, "study", command_study.study, "walk-forward comparison of recipes on one data set")
    command_study.add_flags(parser)


def _add_round_flags(parser: argparse.ArgumentParser, *, recipe: str = "", slots: str = "") -> None:
    """The flags of every round; `recipe` and `slots` are the defaults where no configuration says them."""
    of_file = ", in place of the configuration's (default: the configuration's, else era-pearson)"
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"the recipe of every slot played{f' (default {recipe})' if recipe else of_file}; see `eraflow recipes`",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a part of the recipes or the configuration, as training.epochs=6 (repeatable)",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="SLOT",
        help=f"a slot to submit for {f'(repeatable; default {slots})' if slots else ALL_SLOTS}",
    )


def _add_tournament(commands: Any) -> None:
    parser = _command(commands, "tournament", _tournament, "the local tournament alone, for people and tests")
    parser.add_argument(
        "--port", type=_port, default=8008, metavar="P", help="port on 127.0.0.1 (default 8008; 0: any free one)"
    )
    parser.add_argument("--home", type=_path, required=True, metavar="DIR", help="where the tournament keeps its state")
    parser.add_argument(
        "--data-from", type=_path, metavar="FOLDER", help="serve these files instead of a synthetic market"
    )
    parser.add_argument("--every", type=float, metavar="S", help="open a round each S seconds instead of each Saturday")
    parser.add_argument(
        "--window", type=float, metavar="S", help="and leave it open for S seconds (default: three quarters of --every)"
    )
    _add_market_flags(parser)


def _add_market_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rows", type=int, metavar="N", help="rows of the synthetic market's training data (default 50000)"
    )
    parser.add_argument("--features", type=int, metavar="N", help="features of the synthetic market (default 40)")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"must be 0 to 65535, however {text} was given")
    return int(text)


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("must be a path, however an empty text was given")
    return Path(text)


def _add_recipes(commands: Any) -> None:
    parser = _command(commands, "recipes", _recipes, "what a recipe resolves to, every value")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the recipe to show (default: list them all)")


def _weekly(options: argparse.Namespace) -> int:
    return _play(options, train=True, data_from=options.data_from)


def _daily(options: argparse.Namespace) -> int:
    return _play(options, train=False, data_from=None)


def _play(options: argparse.Namespace, *, train: bool, data_from: Path | None) -> int:
    from eraflow.tournament import Tournament

    if options.unfit is not None:
        with suppress(EraflowError, OSError):  # where no configuration can be read there is nobody to tell
            from flows.weekly import refused

            refused(_request(options, train=train, data_from=data_from), options.unfit)
        raise options.unfit
    request = _request(options, train=train, data_from=data_from)
    if request.submit:
        Tournament.from_environment().require_keys()
    from flows.weekly import run_weekly

    return _show_rounds([run_weekly(request)], options)


def _request(options: argparse.Namespace, *, train: bool, data_from: Path | None) -> Request:
    from eraflow.config import parse_assignments
    from eraflow.request import make_request
    from eraflow.store import default_home
    from eraflow.weekly_config import default_config_file

    home = default_home(os.environ)
    return make_request(
        home=home,
        config_file=options.config or default_config_file(home),
        recipe=options.recipe,
        slots=options.model,
        assignments=parse_assignments(options.set),
        submit=not options.no_submit,
        resubmit=options.resubmit,
        train=train,
        wait_s=60.0 * options.wait,
        data_from=data_from.resolve() if data_from else None,
    )


def _rehearse(options: argparse.Namespace) -> int:
    from eraflow.config import parse_assignments
    from flows.rehearse import rehearse

    results = rehearse(
        os.environ,
        recipe=options.recipe,
        slots=options.model,
        assignments=parse_assignments(options.set),
        data_from=options.data_from.resolve() if options.data_from else None,
        rows=options.rows,
        features=options.features,
        rounds=options.rounds,
        fault_seed=options.faults,
    )
    return _show_rounds(results, options)


def _show_rounds(results: Sequence[Any], options: argparse.Namespace) -> int:
    from eraflow.errors import worst_exit_code
    from eraflow.result import json_object, summary_text

    for result in results:
        if result.error:
            complain(result.error["message"] + elsewhere(result.error["code"]))
        for receipt in result.receipts:
            if receipt.error_message and not result.error:
                complain(f"slot {receipt.slot}: {receipt.error_message}{elsewhere(receipt.error_code)}")
    if options.json:
        document: dict[str, Any] = {"rounds": [json_object(result) for result in results]}
        errors = [entry["error"] for entry in document["rounds"] if "error" in entry]
        if errors:
            document["error"] = errors[0]
        show(json.dumps(document))
    else:
        for result in results:
            show(summary_text(result))
    return worst_exit_code(result.exit_code for result in results)


def _tournament(options: argparse.Namespace) -> int:
    from eraflow.store import Store
    from flows.rehearse import serve_tournament

    return serve_tournament(
        Store.open(options.home, "give --home a folder that can").home,
        options.port,
        options.data_from,
        show=show,
        as_json=options.json,
        every_s=options.every,
        window_s=options.window,
        rows=options.rows,
        features=options.features,
    )


def _recipes(options: argparse.Namespace) -> int:
    from eraflow import recipes
    from eraflow.config import to_table
    from eraflow.request import named_recipe

    if options.name is None:
        if options.json:
            show(json.dumps({"recipes": sorted(recipes.RECIPES)}))
        else:
            for name, make in recipes.RECIPES.items():
                show(f"{name:16} {(make.__doc__ or '').splitlines()[0]}")
        return 0
    recipe = named_recipe({}, options.name)
    show(json.dumps(to_table(recipe)) if options.json else recipes.describe(recipe))
    return 0
