"""A local tournament over HTTP, with a synthetic market behind it and faults on request. Begin with `server`."""

from eraflow.rehearsal.control import RemoteControl
from eraflow.rehearsal.faults import Fault, Faults, random_faults
from eraflow.rehearsal.market import Market, MarketConfig
from eraflow.rehearsal.server import LocalTournament
from eraflow.rehearsal.state import Submission

__all__ = [
    "Fault",
    "Faults",
    "LocalTournament",
    "Market",
    "MarketConfig",
    "RemoteControl",
    "Submission",
    "random_faults",
]
