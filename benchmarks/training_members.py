"""Several members trained in one pass against as many runs of one.

    python -m benchmarks.training_members [--rounds 5] [--cpu-time] [--features 780] [--full]

K = 4 members of `simple-mlp` (aim: 0.8 of four runs) and the 3 members of `era-pearson`. Below each the share of the
machine's own matrix products: those a member cannot share with others, so K members cost at least that share of K
runs. Steps as large as those of `era-pearson` are all products; there `eraflow` trains one member after the other on
a CPU (`training.LARGE_STEP`), and this script shows why.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

from benchmarks.training_rounds import add_options, claim_ratio, interleaved, machine_text, made_up, products, trainer
from eraflow.recipes import Recipe, get

BATCH, ERAS_A_STEP, ERA = 2048, 4, 1250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--features", type=int, default=780)
    parser.add_argument("--full", action="store_true", help="ten times the rows")
    given = parser.parse_args()
    factor = 10 if given.full else 1
    print(machine_text(given))
    simple, pearson = get("simple-mlp"), get("era-pearson")
    simple = replace(simple, training=replace(simple.training, epochs=2, device="cpu"))
    pearson = replace(pearson, training=replace(pearson.training, steps=10 * factor, device="cpu"))
    measure(simple, 4, 30 * BATCH * factor, 60 * factor, BATCH, given, aim=0.8)
    measure(pearson, 3, 40 * ERA, 10 * factor, ERAS_A_STEP * ERA, given)


def measure(
    recipe: Recipe, count: int, rows: int, steps: int, batch: int, given: argparse.Namespace, aim: float | None = None
) -> None:
    train, seeds, features = made_up(rows, given.features, ERA), list(range(count)), given.features
    alone = [trainer(train, recipe.model, recipe.training, [seed]) for seed in seeds]
    sides: dict[str, Callable[[], None]] = {
        "together": trainer(train, recipe.model, recipe.training, seeds),
        "one by one": lambda: [run() for run in alone] and None,
        "products": products(recipe.model, features, batch, steps * count),
    }
    found = interleaved(sides, given)
    what = f"{count} members of {recipe.name} at F = {features}"
    claim_ratio(
        f"{what}, cost together against {count} runs", found["together"], found["one by one"], unit="", at_most=aim
    )
    for name in ("together", "one by one"):
        claim_ratio(f"{what}, share of the matrix products, {name}", found["products"], found[name], unit="")


if __name__ == "__main__":
    main()
