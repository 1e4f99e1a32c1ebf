"""Record what fastai 2.8.12 does into fastai_2_8_12.json, which the tests compare with.

Not a test and not run with them. Run it once, in an environment of its own:

    python -m venv fastai-venv
    fastai-venv/bin/pip install torch==2.13.0 fastai==2.8.12 torchvision==0.28.0 pandas scipy
    fastai-venv/bin/python tests/eraflow/golden/record_fastai.py

It runs one whole `fit_one_cycle(3, wd=0.1)` of `tabular_learner(layers=[3, 3])` on a few fixed rows, with the
initial weights, the batches, and after each step the weights and the values that the schedule had set. fastai
shuffles differently in each run, so a new file differs in its batches and in what follows from them.

fastai is no dependency of the project, so it is imported where it is used and this file can be read without it.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np

ROWS, FEATURES, BATCH, EPOCHS = 26, 4, 8, 3


def main() -> None:
    import fastai  # type: ignore[import-not-found]  # see above
    import pandas as pd
    import torch
    from fastai.losses import MSELossFlat  # type: ignore[import-not-found]
    from fastai.tabular.all import TabularPandas, tabular_learner  # type: ignore[import-not-found]

    rng = np.random.default_rng(0)
    codes = rng.integers(0, 5, (ROWS, FEATURES)).astype(np.int8)
    target = rng.choice([0, 0.25, 0.5, 0.75, 1], ROWS).astype(np.float32)
    names = [f"feature_{i}" for i in range(FEATURES)]
    frame = pd.DataFrame(codes / np.float32(4), columns=names).assign(target=target)
    split = (list(range(ROWS)), list(range(ROWS)))
    data = TabularPandas(frame, cat_names=None, cont_names=names, y_names=["target"], splits=split)
    torch.manual_seed(0)
    loaders = data.dataloaders(bs=BATCH)
    learner = tabular_learner(loaders, layers=[3, 3], loss_func=MSELossFlat())
    large = tabular_learner(loaders, layers=[200, 200], loss_func=MSELossFlat())
    recorder = _recorder()
    start = _state(learner)
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(EPOCHS, wd=0.1, cbs=recorder)
    told = {
        "versions": {"fastai": fastai.__version__, "torch": torch.__version__, "numpy": np.__version__},
        "architecture": str(learner.model),
        "architecture_200": str(large.model),
        "drop_last": bool(loaders.train.drop_last),
        "shuffle": bool(loaders.train.shuffle),
        "without_decay": _without_decay(learner),
        "start": start,
        "steps": recorder.steps,
        "schedule": _schedule(),
        "defaults": _defaults(),
    }
    path = Path(__file__).with_name("fastai_2_8_12.json")
    path.write_text(json.dumps(told, indent=1) + "\n")


def _recorder() -> Any:
    """A callback that keeps each training batch, the values set for it and the weights after it."""
    from fastai.callback.core import Callback  # type: ignore[import-not-found]

    class Recorder(Callback):  # type: ignore[misc]
        order = 100

        def __init__(self) -> None:
            self.steps: list[dict[str, Any]] = []

        def after_batch(self) -> None:
            if not self.training:
                return
            hyper = self.opt.hypers[-1]
            self.steps.append(
                {
                    "features": self.xb[-1].tolist(),
                    "target": self.yb[0].ravel().tolist(),
                    "loss": float(self.loss),
                    **{name: float(hyper[name]) for name in ("lr", "mom", "sqr_mom", "eps", "wd")},
                    "weights": _state(self.learn),
                }
            )

    return Recorder()


def _state(learner: Any) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in learner.model.state_dict().items()}


def _without_decay(learner: Any) -> list[str]:
    return [n for n, p in learner.model.named_parameters() if learner.opt.state[p].get("do_wd", True) is False]


def _schedule() -> list[dict[str, float]]:
    """The schedule at positions of a run, with `fit_one_cycle`'s defaults."""
    from fastai.callback.schedule import combined_cos  # type: ignore[import-not-found]

    peak = 1e-3
    rate, momentum = combined_cos(0.25, peak / 25.0, peak, peak / 1e5), combined_cos(0.25, 0.95, 0.85, 0.95)
    return [{"position": i / 16, "lr": float(rate(i / 16)), "mom": float(momentum(i / 16))} for i in range(17)]


def _defaults() -> dict[str, dict[str, str]]:
    from fastai.learner import Learner  # type: ignore[import-not-found]
    from fastai.optimizer import Adam  # type: ignore[import-not-found]

    functions = {"fit_one_cycle": Learner.fit_one_cycle, "Adam": Adam, "Learner": Learner.__init__}
    return {
        name: {
            key: repr(value.default)
            for key, value in inspect.signature(function).parameters.items()
            if isinstance(value.default, (int, float, tuple, bool))
        }
        for name, function in functions.items()
    }


if __name__ == "__main__":
    main()
