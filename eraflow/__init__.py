"""eraflow: the weekly submission pipeline for the Numerai tournament, without Prefect.

Read in the data's way: `rounds`, `files`, `dataset`, `recipes`, `training`, `predictions`,
`submission`; the two doors to the outside are `tournament` (network) and `store` (disk).
Importing this package does nothing and never imports Prefect.
"""

__version__ = "0.1.0"
