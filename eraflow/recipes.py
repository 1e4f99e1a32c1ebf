"""A recipe is a name for a whole configuration; each is a function that returns one.

`get` finds one by name, `resolve` fits it to the features and targets that the files have, `describe` prints every
value it comes to. Nothing else in eraflow knows a recipe's name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from eraflow.config import nearest, to_table
from eraflow.errors import InputError
from eraflow.models import ModelConfig
from eraflow.training import TrainingConfig

SECTIONS = ("data", "model", "training", "prediction")
"""The tables of a recipe, in order."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is learned from what."""

    feature_set: str = "medium"
    """A set of `features.json`; "all" is every feature."""
    target: str = "target"
    """Column of the target."""
    era_stride: int = 1
    """Train on every n-th weekly era, counted back from the newest."""
    extra_targets: tuple[str, ...] = ()
    """Other targets that the network learns beside `target`, each with an output of its own; they predict nothing."""
    residual_of: str = ""
    """Column of the benchmark models' files: learn only what of the target its predictions leave over, by era."""

    def __post_init__(self) -> None:
        if self.era_stride < 1:
            raise ValueError(f"era_stride must be 1 or more, however it is {self.era_stride}")
        if self.target in self.extra_targets or len(set(self.extra_targets)) < len(self.extra_targets):
            raise ValueError(
                f"extra_targets must be others than the target {self.target} and each named once, however they are"
                f" {', '.join(self.extra_targets)}"
            )

    @property
    def targets(self) -> tuple[str, ...]:
        """All that are learned, the one that is predicted first."""
        return (self.target, *self.extra_targets)


@dataclass(frozen=True, kw_only=True)
class PredictionConfig:
    """How predictions are made from what was trained."""

    members: int = 1
    """Networks trained with seeds that count up; the mean of their ranks is the prediction."""
    neutralize: float = 0.0
    """Proportion of its least-squares fit on the features that the prediction loses, by era."""

    def __post_init__(self) -> None:
        if not 0 <= self.neutralize <= 1:
            raise ValueError(f"neutralize must be from 0 to 1, however it is {self.neutralize}")
        if self.members < 1:
            raise ValueError(f"members must be 1 or more, however it is {self.members}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole configuration, from data to prediction."""

    name: str
    data: DataConfig
    model: ModelConfig
    training: TrainingConfig
    prediction: PredictionConfig = field(default_factory=PredictionConfig)


def simple_mlp() -> Recipe:
    """The write-up's PyTorch model: 256 ReLU units, MSE, Adam, batches in order; no dropout, norm, decay or refit."""
    return Recipe(
        name="simple-mlp",
        data=DataConfig(),
        model=ModelConfig(hidden=(256,), activation="relu", input="unit"),
        training=TrainingConfig(
            loss="mse", optimizer="adam", learning_rate=1e-3, epochs=6, batch_size=2048, refit=False
        ),
    )


def fastai_tabular() -> Recipe:
    """The write-up's original: `tabular_learner(layers=[200, 200])`, `fit_one_cycle(3, wd=0.1)`, in plain PyTorch."""
    return Recipe(
        name="fastai-tabular",
        data=DataConfig(),
        model=ModelConfig(hidden=(200, 200), activation="relu", batch_norm=True, input_norm=True, input="unit"),
        training=TrainingConfig(
            loss="mse",
            optimizer="fastai_adam",
            learning_rate=1e-3,
            weight_decay=0.1,
            betas=(0.95, 0.99),
            eps=1e-5,
            schedule="one_cycle",
            epochs=3,
            batch_size=2048,
            shuffle=True,
            drop_last=True,
            refit=False,
        ),
    )


def era_pearson() -> Recipe:
    """For real rounds: 1024-512-256, minus the mean per-era Pearson, whole eras a step, ranks of three seeds."""
    return Recipe(
        name="era-pearson",
        # What is paid on: since round 1343 three parts CORR60 and fifteen MMC60. Named, because `target` has changed.
        data=DataConfig(target="target_ender_60", era_stride=4),
        model=ModelConfig(hidden=(1024, 512, 256), activation="silu", dropout=0.2, input="centred"),
        training=TrainingConfig(
            loss="era_pearson",
            optimizer="adamw",
            learning_rate=2e-3,
            weight_decay=1e-5,
            schedule="warmup_cosine",
            warmup_share=0.05,
            steps=350,
            eras_per_step=4,
            shuffle=True,
            drop_last=True,  # so that each step has its four eras
            refit=True,
        ),
        prediction=PredictionConfig(members=3),
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = {
    "simple-mlp": simple_mlp,
    "fastai-tabular": fastai_tabular,
    "era-pearson": era_pearson,
}


def get(name: str) -> Recipe:
    """The recipe called `name`. Raises `InputError` with the known names."""
    if name not in RECIPES:
        raise InputError(
            f"a recipe must be one of {', '.join(RECIPES)}, however {name!r} was given{nearest(name, RECIPES)}"
        )
    return RECIPES[name]()


def resolve(
    recipe: Recipe, feature_sets: Collection[str], targets: Collection[str], *, asked: Collection[str] = ()
) -> tuple[Recipe, tuple[str, ...]]:
    """`recipe` for files with these feature sets and target columns, and what had to be replaced, in words.

    A missing feature set becomes "all", a missing target "target", and a missing extra target is left out. Raises
    `InputError` if there is no "all" or "target" either, or if what is missing was `asked` for by its dotted path: a
    user who names a column does not mean another.
    """
    data, notes = recipe.data, list[str]()
    for path, name, known in (
        ("data.feature_set", data.feature_set, feature_sets),
        ("data.target", data.target, targets),
        *(("data.extra_targets", name, targets) for name in data.extra_targets),
    ):
        if path in asked and name not in known:
            raise InputError(
                f"{path} must be one of {', '.join(sorted(known))}, however {name!r} was given{nearest(name, known)}"
            )
    if data.feature_set not in feature_sets:
        if "all" not in feature_sets:
            known = ", ".join(sorted(feature_sets))
            raise InputError(
                f"features.json must have the feature set {data.feature_set} or all, however it has {known}"
            )
        notes.append(f"feature set {data.feature_set} is not in features.json; all features are used")
        data = replace(data, feature_set="all")
    if data.target not in targets:
        if "target" not in targets:
            raise InputError(f"the data must have the column {data.target} or target, however they have neither")
        notes.append(f"target {data.target} is not in the data; the column target is used")
        # One that was to be learned beside it and now is the target is no longer learned twice.
        data = replace(
            data, target="target", extra_targets=tuple(name for name in data.extra_targets if name != "target")
        )
    missing = [name for name in data.extra_targets if name not in targets]
    notes += [f"extra target {name} is not in the data; it is left out" for name in missing]
    data = replace(data, extra_targets=tuple(name for name in data.extra_targets if name in targets))
    return replace(recipe, data=data), tuple(notes)


def fingerprint(recipe: Recipe) -> str:
    """A hash of every value of the recipe, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(to_table(recipe), sort_keys=True).encode()).hexdigest()


def describe(recipe: Recipe, n_features: int = 780) -> str:
    """Every value of the recipe, one a line with its source where fastai set it, and the network for `n_features`."""
    from eraflow.models import parameter_count
    from eraflow.training import initial

    network = initial(recipe.model, n_features, recipe.training.seed, len(recipe.data.targets))
    sources = _FASTAI_SOURCES if recipe.name == "fastai-tabular" else {}
    lines = [
        f"{recipe.name}: {(RECIPES[recipe.name].__doc__ or '').strip()}" if recipe.name in RECIPES else recipe.name
    ]
    for section, table in to_table(recipe).items():
        if section not in SECTIONS:
            continue
        lines += ["", f"[{section}]"]
        for key, value in table.items():
            source = sources.get(f"{section}.{key}")
            shown = json.dumps(value)
            lines.append(
                f"{key} = {shown}" + (f"{'':{max(2, 34 - len(key) - len(shown))}}# {source}" if source else "")
            )
    lines += ["", f"Layers for {n_features} features, {parameter_count(network):,} parameters:"]
    lines += [f"  {line.strip()}" for line in _layers(recipe, network)]
    training = recipe.training
    length = f"{training.epochs} epochs" if training.epochs else f"{training.steps} steps"
    batch = f"{training.batch_size} rows" if training.batch_size else f"{training.eras_per_step} whole eras"
    blocks = f" in blocks of {training.shuffle_block_rows} rows" if training.shuffle_block_rows else ""
    lines += [
        f"Loss {training.loss}, optimiser {training.optimizer} (betas {training.betas[0]:g}, {training.betas[1]:g};"
        f" eps {training.eps:g}; decay {training.weight_decay:g}),",
        f"learning rate {training.learning_rate:g}, schedule {training.schedule}; {length}, {batch} a step,"
        f" {'shuffled' + blocks if training.shuffle else 'in order'}"
        f"{', the last partial batch dropped' if training.drop_last else ''}.",
    ]
    return "\n".join(lines)


def _layers(recipe: Recipe, network: object) -> list[str]:
    text = str(network).splitlines()[1:-1]
    scale = {"unit": "features from 0 to 1", "centred": "features from -2 to 2"}[recipe.model.input]
    return [scale, *(line for line in text if line.strip() not in (")", "(layers): Sequential("))]


# Where fastai 2.8.12 sets each value that `tabular_learner` and `fit_one_cycle(3, wd=0.1)` leave unsaid.
_FASTAI_SOURCES = {
    "model.hidden": "the write-up: layers=[200, 200]",
    "model.activation": "tabular/model.py TabularModel(act_cls=nn.ReLU)",
    "model.dropout": "tabular/model.py TabularModel(ps=None): none in any layer",
    "model.batch_norm": "tabular/model.py TabularModel(use_bn=True, lin_first=True); shift starts at 1e-3",
    "model.input_norm": "tabular/model.py TabularModel(bn_cont=True); shift starts at 0",
    "training.loss": "the write-up: MSELossFlat()",
    "training.optimizer": "learner.py Learner(opt_func=Adam, wd_bn_bias=False); optimizer.py Adam(decouple_wd=True)",
    "training.learning_rate": "learner.py Learner(lr=defaults.lr), 1e-3",
    "training.weight_decay": "the write-up: wd=0.1",
    "training.betas": "learner.py Learner(moms=(0.95, 0.85, 0.95)); optimizer.py Adam(sqr_mom=0.99)",
    "training.eps": "optimizer.py Adam(eps=1e-5)",
    "training.schedule": "the write-up: fit_one_cycle",
    "training.cycle_rise_share": "callback/schedule.py fit_one_cycle(pct_start=0.25)",
    "training.cycle_div": "callback/schedule.py fit_one_cycle(div=25.0)",
    "training.cycle_div_final": "callback/schedule.py fit_one_cycle(div_final=1e5)",
    "training.cycle_momenta": "learner.py Learner(moms=(0.95, 0.85, 0.95))",
    "training.epochs": "the write-up: 3 epochs",
    "training.batch_size": "the write-up: bs=2048",
    "training.shuffle": "data/core.py FilteredBase.dataloaders(shuffle=True)",
    "training.drop_last": "data/core.py FilteredBase.dataloaders(drop_last=None): as shuffle",
}
