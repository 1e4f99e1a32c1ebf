"""Whether the folder that a command keeps everything in can be used: said in one line, before anything is asked.

`eraflow.store` opens the home and says of each file what is wrong with it; here is only the folder itself.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from eraflow.errors import StorageError

OF_THE_ENVIRONMENT = "set ERAFLOW_HOME to one that can"


def usable(home: Path, instead: str = OF_THE_ENVIRONMENT) -> Path:
    """`home`, made for its owner alone if it is not there.

    Raises `StorageError` if it cannot be made or written to; `instead` says what to do then.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the folder {home} cannot be used: {error.strerror}; {instead}") from error
    if why := against(home):
        raise StorageError(f"{why}; {instead}")
    return home


def against(home: Path) -> str | None:
    """Why nothing can be kept in `home`, in words; None if it can, or if it is not there yet. Makes nothing."""
    if not os.path.lexists(home):
        return None
    if not os.path.isdir(home):  # Path.is_dir raises where a folder above may not be looked into
        return f"the folder {home} cannot be used: {os.strerror(errno.ENOTDIR)}"
    effective = os.access in os.supports_effective_ids
    if not os.access(home, os.W_OK | os.X_OK, effective_ids=effective):
        return f"the folder {home} cannot be used: {os.strerror(errno.EACCES)}"
    return None
