"""A model against the last one of its recipe: what each was on its own hold-out, and both on the eras they share."""

from __future__ import annotations

from dataclasses import dataclass

from eraflow.errors import StorageError
from eraflow.trained import MODEL, EraScore, Trained, load


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One figure of two models; None where it is undefined, or there is no last model."""

    name: str
    now: float | None
    last: float | None

    @property
    def change(self) -> float | None:
        return None if self.now is None or self.last is None else self.now - self.last


def last_model(made: Trained) -> Trained | None:
    """The newest whole model of the same recipe that was made before `made`, beside it; None for the first one."""
    others = made.folder.parent.glob(f"{made.recipe.name}-*/{MODEL}")
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            found = load(path.parent)
        except StorageError:
            continue  # not whole
        same = found.recipe.name == made.recipe.name and found.model_id != made.model_id
        if same and found.made_at_utc < made.made_at_utc:
            return found
    return None


def compared(made: Trained, last: Trained | None, names: dict[str, str]) -> list[Pair]:
    """The figures `names` (key of the validation -> words) of both; first their scores on the eras that both have.

    A hold-out grows with each week, so that two means are of different eras; the first pair is of the same ones.
    """
    now, before = made.validation.figures(), last.validation.figures() if last else {}
    pairs = [Pair(name=name, now=_number(now.get(key)), last=_number(before.get(key))) for key, name in names.items()]
    pairs.append(
        Pair(
            name="untrained mean era Spearman",
            now=made.untrained_spearman,
            last=last.untrained_spearman if last else None,
        )
    )
    if last is not None:
        ours, theirs = _scored(made.validation.per_era), _scored(last.validation.per_era)
        shared = sorted(ours.keys() & theirs.keys())
        if shared and shared != sorted(ours.keys() | theirs.keys()):
            pair = Pair(
                name=f"mean era Spearman on the {len(shared)} eras of both",
                now=sum(ours[era] for era in shared) / len(shared),
                last=sum(theirs[era] for era in shared) / len(shared),
            )
            pairs.insert(0, pair)
    return pairs


def _scored(eras: tuple[EraScore, ...]) -> dict[int, float]:
    return {era.era: era.spearman for era in eras if era.spearman is not None}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
