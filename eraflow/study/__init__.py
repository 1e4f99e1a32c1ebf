"""Is this recipe better than that one? Walk-forward studies of recipes on one data set.

Read in the order of the work: `config` (what is asked), `candidates` (what is compared and how one is fitted),
`plan` (data, folds and units of work, refused early), `units` (one unit: fitted, predicted, kept by its content).
"""
