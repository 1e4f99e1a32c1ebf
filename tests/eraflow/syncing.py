"""The order in which bytes are synced and files take their place."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest


def syncs_and_moves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on each "fsync" and "replace" of this process stands in this list, as it is done."""
    done: list[str] = []

    def noted(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*given: object) -> None:
            done.append(name)
            real(*given)

        return call

    monkeypatch.setattr(os, "fsync", noted("fsync", os.fsync))
    monkeypatch.setattr(os, "replace", noted("replace", os.replace))
    return done
