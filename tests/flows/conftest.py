"""The Prefect server and `eraflow up`, by name."""

from tests.flows.running_up import shared_up
from tests.real_prefect import prefect_server

__all__ = ["prefect_server", "shared_up"]
