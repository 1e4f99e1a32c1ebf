"""The write-up's original model: fastai's tabular learner with layers of 200 and 200, one-cycle, weight decay 0.1."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

EPOCHS, WEIGHT_DECAY, BATCH_SIZE = 3, 0.1, 2048


def learner(frame: pd.DataFrame, features: list[str], targets: list[str], train: list[int], valid: list[int]) -> Any:
    """A learner over `frame`; `train` and `valid` are row numbers. It is trained by `fit_one_cycle(EPOCHS, wd=...)`."""
    _let_torchvision_be_imported()
    from fastai.tabular.all import MSELossFlat, SpearmanCorrCoef, TabularPandas, tabular_learner

    data = TabularPandas(frame, cat_names=None, cont_names=features, y_names=targets, splits=(train, valid))
    loaders = data.dataloaders(bs=BATCH_SIZE)
    return tabular_learner(loaders, layers=[200, 200], loss_func=MSELossFlat(), metrics=[SpearmanCorrCoef()])


def _let_torchvision_be_imported() -> None:
    """fastai imports torchvision, whose own operators are missing beside a CPU build of torch; tables need none."""
    global _library
    if _library is not None:
        return
    try:
        import torchvision  # noqa: F401 - only whether it can be imported
    except RuntimeError:
        _library = torch.library.Library("torchvision", "DEF")
        _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_library: torch.library.Library | None = None
