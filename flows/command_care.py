"""What the command does around a round: up, status, doctor, scores."""

from __future__ import annotations

import argparse


def up(options: argparse.Namespace) -> int:
    """Run server and deployments until stopped."""
    raise NotImplementedError


def status(options: argparse.Namespace) -> int:
    """Tell whether this week is safe."""
    raise NotImplementedError


def doctor(options: argparse.Namespace) -> int:
    """Tell whether this machine is fit."""
    raise NotImplementedError


def scores(options: argparse.Namespace) -> int:
    """Collect and show what past rounds scored."""
    raise NotImplementedError
