"""What several tests share. Nothing here starts Prefect."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def shared_real() -> Path:
    """The folder of real material beside the checkout; skips where there is none, and fails on CI."""
    folder = ROOT.parent / "shared" / "real"
    if not folder.is_dir():
        reason = f"the real material is not at {folder}"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}, and on CI nothing may be skipped")
        pytest.skip(reason)
    return folder
