"""How often does a whole study call equal recipes different, and how often does it find a difference that is there?

    python -m benchmarks.false_alarms [--full]

Makes 40 small markets (240 with --full), each from a seed of its own, and in each runs two studies as `eraflow study`
does, from the files to the verdict, one half of them with a 20-day target, the other with one of 60 days. Three
networks that differ by one hidden unit are equal in truth; every verdict on them is a false alarm. One of them trained
on every 16th era is worse by construction; to call it better is the wrong direction. Told with each rate: the 95 %
interval of a count (Clopper and Pearson), since the studies are few. Aim: at most 7 % false alarms.

`coverage` simulates scores; here they come from trained networks, so that what it assumes of seeds, folds and eras is
put to the test as well. Not measured: how a recipe does on markets as large as the real one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.claims import claim
from eraflow.config import build
from eraflow.rehearsal.market_files import write_file
from eraflow.rehearsal.study_market import StudyMarket
from eraflow.rehearsal.study_rules import StudyConfig as MarketConfig
from eraflow.store import Store
from eraflow.study.config import StudyConfig
from eraflow.study.files import StudyFiles, files_of
from eraflow.study.plan import plan
from eraflow.study.run import references_of, run
from eraflow.study.verdict import Verdict
from eraflow.uncertainty import Difference

SMALL = {"features": 80, "train_eras": 24, "validation_eras": 110, "rows_per_era": 100, "strength": 0.3}
"""The meta model is there from era 49 on, and the three folds of 24 eras begin with era 50 (60 days) or 58 (20)."""
FILES = ("features.json", "train.parquet", "validation.parquet", "meta_model.parquet")
TRAINING = {"epochs": 2, "learning_rate": 1e-2, "batch_size": 256, "shuffle": True}
STUDY: dict[str, Any] = {
    "seeds": 3,
    "feature_set": "all",
    "benchmark": "",
    "folds": {"number": 3, "chunk_eras": 24},
    # So small a market is many times easier: by this its payouts are of a real one's size and the clip never binds.
    "payout": {"factor": 0.1},
}
TARGETS = ("target_ender_20", "target_ender_60")


@dataclass(frozen=True, kw_only=True)
class Played:
    """What the two studies of one market said."""

    target: str
    equal: Verdict
    ordered: Verdict

    def alarms(self, metric: str) -> list[Difference]:
        """The comparisons of equal recipes that came out as different."""
        return [one for one in self.equal.comparisons[metric].values() if one.verdict in ("better", "worse")]

    @property
    def starved(self) -> Difference:
        """The recipe that is worse in truth, less the other."""
        return self.ordered.comparisons[self.ordered.metric]["starved"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="240 markets instead of 40")
    given = parser.parse_args()
    torch.set_num_threads(1)  # networks this small only lose by more
    began = time.process_time()
    played = [play(seed, TARGETS[seed % 2]) for seed in range(240 if given.full else 40)]
    for target in TARGETS:
        told(f"{target}, ", [one for one in played if one.target == target], aimed=False)
    told("", played, aimed=True)
    print(f"{time.process_time() - began:.0f} s of CPU time")


def play(seed: int, target: str) -> Played:
    """Both studies in the market of that seed; what both compare with is trained once."""
    # Other sizes in other markets: seeds count from 0 in each study, and with one size the luck of the same three
    # initial networks would be in all of them.
    units = 17 + 3 * (seed // len(TARGETS) % 40)
    equal = {f"units-{n}": network(n) for n in (units, units - 1, units + 1)}
    one = network(units)
    ordered = {f"units-{units}": one, "starved": one | {"data": {"era_stride": 16}}}
    market = StudyMarket(MarketConfig(**SMALL, seed=seed))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        data.mkdir()
        for name in FILES:
            write_file(market, name, data / name, week=0, number=1)
        store = Store.open(Path(folder, "home"))
        files = files_of(data, store)
        verdicts = [verdict_on(recipes, target, store, files) for recipes in (equal, ordered)]
    return Played(target=target, equal=verdicts[0], ordered=verdicts[1])


def network(units: int) -> dict[str, Any]:
    """The variant of the plain network that has so many units."""
    return {"recipe": "simple-mlp", "model": {"hidden": [units]}, "training": TRAINING}


def verdict_on(recipes: dict[str, Any], target: str, store: Store, files: StudyFiles) -> Verdict:
    """Of a whole study; the first recipe is the one that the others are compared with."""
    asked = STUDY | {"target": target, "recipes": list(recipes), "variants": recipes}
    study = plan(
        build(StudyConfig, asked),
        store=store,
        files=files.data,
        features_file=files.features,
        decoded=files.decoded,
    )
    found = run(study, references_of(study))
    if found.errors or found.verdict is None:
        raise RuntimeError(f"every unit must be done, however {found.errors} failed")
    return found.verdict


def told(which: str, played: Sequence[Played], *, aimed: bool) -> None:
    """False alarms, what the intervals of equal recipes cover, and what is found where a difference is there."""
    metric, compared = played[0].equal.metric, played[0].equal.comparisons
    alarms = [bool(one.alarms(metric)) for one in played]
    others = {name: sum(bool(one.alarms(name)) for one in played) for name, found in compared.items() if found}
    by_metric = ", ".join(f"{count} in {name}" for name, count in others.items() if name != metric)
    rate(f"{which}studies that call equal recipes different", alarms, note=by_metric, at_most=0.07 if aimed else None)
    gains = [gain.interval for one in played for gain in one.equal.comparisons[metric].values()]
    covers = [gain.low <= 0 <= gain.high for gain in gains]
    rate(f"{which}intervals of equal recipes that hold 0", covers, at_least=0.93 if aimed else None)
    verdicts = [one.starved.verdict for one in played]
    gain = sum(one.starved.interval.mean for one in played) / len(played)
    below = sum(one.starved.interval.mean < 0 for one in played)
    note = f"{metric} lower by {-gain:.3f} on average, lower at all in {below}"
    rate(f"{which}studies that find what is worse", [verdict == "worse" for verdict in verdicts], note=note)
    wrong = [verdict == "better" for verdict in verdicts]
    rate(f"{which}studies that call it better", wrong, at_most=0.025 if aimed else None)


def rate(name: str, happened: Iterable[bool], *, note: str = "", **aim: float | None) -> None:
    """A share, with the interval of a count."""
    from scipy.stats import binomtest

    each = list(happened)
    found = binomtest(sum(each), len(each)).proportion_ci()
    counted = f"{sum(each)} of {len(each)}, 95 % interval {found.low:.3f} to {found.high:.3f}"
    claim(name, sum(each) / len(each), note="; ".join(part for part in (counted, note) if part), **aim)


if __name__ == "__main__":
    main()
