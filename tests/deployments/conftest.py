"""The Prefect server, by name."""

from tests.real_prefect import prefect_server

__all__ = ["prefect_server"]
