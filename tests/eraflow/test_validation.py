"""The report on the hold-out: all of its eras, or a sample of whole ones where there is no time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eraflow import metrics
from eraflow.errors import TrainingError
from eraflow.exam import FEWEST_ERAS, sample
from eraflow.inference import INFERENCE_ROWS, predict
from eraflow.models import Mlp
from eraflow.predictions import ensemble
from eraflow.progress import silent
from eraflow.rows import Rows
from eraflow.training import initial
from eraflow.validation import Validated, validate
from tests.eraflow.fitting import SMALL, Enough, market

LARGE = market(eras=60, rows=60).labelled().by_era()


def nets(count: int) -> list[Mlp]:
    return [initial(SMALL, LARGE.n_features, seed) for seed in range(count)]


def judged(holdout: Rows = LARGE, *, members: int = 2, asked: int = 10**6) -> Validated:
    """With time until `enough` was asked so often."""
    before = initial(SMALL, LARGE.n_features, 99)
    return validate(nets(members), before, holdout, enough=Enough(asked), progress=silent, stage="validate it")


@pytest.mark.parametrize("members", [1, 3])
def test_the_mean_rank_is_scored_on_every_era_where_there_is_time(members: int) -> None:
    assert len(LARGE) > INFERENCE_ROWS
    found = judged(members=members)
    mean = ensemble(list(predict(nets(members), LARGE)), LARGE.era_M)
    told = [score.spearman for score in found.validation.per_era]
    np.testing.assert_allclose(np.array(told, float), metrics.era_spearman(mean, LARGE.target_M, LARGE.era_M))
    assert (found.sampled, found.validation.eras) == (False, 60)


def test_without_time_the_sample_of_whole_eras_is_scored_as_it_is_with_time() -> None:
    whole, found = judged(), judged(asked=0)
    assert (found.sampled, found.validation.eras) == (True, FEWEST_ERAS)
    scores = {score.era: score for score in whole.validation.per_era}
    assert all(score == scores[score.era] for score in found.validation.per_era)
    assert found.validation.per_era[-1].era == 60


def test_the_untrained_network_is_judged_on_the_sample_alone() -> None:
    chosen = sample(LARGE, 0)
    expected = metrics.era_spearman(
        predict([initial(SMALL, LARGE.n_features, 99)], chosen)[0], chosen.target_M, chosen.era_M
    )
    for found in (judged(), judged(asked=0)):
        assert found.untrained_eras == FEWEST_ERAS
        assert found.untrained_spearman == pytest.approx(expected.mean())


def test_a_holdout_that_is_its_own_sample_is_never_called_sampled() -> None:
    holdout = market(eras=FEWEST_ERAS, rows=80).labelled().by_era()
    assert len(holdout) > INFERENCE_ROWS
    found = judged(holdout, asked=0)
    assert (found.sampled, found.validation.eras) == (False, FEWEST_ERAS)


def test_time_that_is_over_with_the_last_block_costs_nothing() -> None:
    blocks = -(-len(LARGE) // INFERENCE_ROWS)
    assert not judged(asked=blocks - 1).sampled
    assert judged(asked=blocks - 2).sampled


def test_one_era_and_one_row_are_reported() -> None:
    era = LARGE.take(np.flatnonzero(LARGE.era_M == 7))
    assert judged(era).validation.eras == 1
    row = judged(LARGE.take(np.arange(1))).validation
    assert (row.eras, row.undefined, row.spearman_mean) == (0, 1, None)


def test_a_prediction_that_is_not_finite_is_refused() -> None:
    broken = initial(SMALL, LARGE.n_features, 0)
    next(broken.parameters()).data.fill_(math.inf)
    with pytest.raises(TrainingError, match="all predictions of validate it must be finite, however"):
        validate([broken], broken, LARGE, enough=Enough(9), progress=silent, stage="validate it")
