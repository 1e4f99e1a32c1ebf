"""What the hold-out's exams cost a training of `era-pearson` where steps rule: on a sample of eras, and on all.

    python -m benchmarks.training_exam [--rounds 5] [--cpu-time] [--features 780] [--full]

The rows are in v5.3's proportions at a twentieth of the size: 100 steps (--full: 350) of 4 eras, a hold-out of 600
eras, an exam after every 50 steps. Printed: the whole training's time as a multiple of the same training without a
hold-out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

from benchmarks.training_rounds import add_options, claim_ratio, interleaved, machine_text, made_up, trainer
from eraflow import exam
from eraflow.recipes import get

HOLDOUT_ERAS, TRAIN_ERAS = 600, 140


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--features", type=int, default=780)
    parser.add_argument("--full", action="store_true", help="350 steps, five times the rows an era")
    given = parser.parse_args()
    era = 1250 if given.full else 250
    print(machine_text(given))
    recipe = get("era-pearson")
    training = replace(recipe.training, device="cpu", steps=350 if given.full else 100)
    train, holdout = made_up(TRAIN_ERAS * era, given.features, era), made_up(HOLDOUT_ERAS * era, given.features, era)
    plain = trainer(train, recipe.model, training, [0])
    examined = trainer(train, recipe.model, training, [0], holdout)
    sides = {"none": plain, "sample": examined, "all": on_all_eras(examined)}
    found = interleaved(sides, given)
    for name in ("all", "sample"):
        claim_ratio(
            f"era-pearson at F = {given.features}, training with exams on {name} eras against none",
            found[name],
            found["none"],
        )


def on_all_eras(run: Callable[[], None]) -> Callable[[], None]:
    """`run` with every era of the hold-out in every exam, as it was before."""

    def whole() -> None:
        share, exam.SHARE = exam.SHARE, 1e9
        try:
            run()
        finally:
            exam.SHARE = share

    return whole


if __name__ == "__main__":
    main()
