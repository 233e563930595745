"""Where PraisonAI keeps its sessions, for this user and environment."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

__all__ = ["get_sessions_dir"]


def get_sessions_dir() -> Path:
    """Return PraisonAI's directory of sessions; it may be missing.

    ``PRAISONAI_HOME`` counts whenever this is called; what is decided without it stays as it is
    until the process ends, whatever is created meanwhile.
    """
    given = os.environ.get("PRAISONAI_HOME")
    return (Path(given).expanduser() if given else _data_directory()) / "sessions"


@cache
def _data_directory() -> Path:
    home = Path.home()
    for name in (".praisonai", ".praison"):
        if (home / name).exists():
            return home / name
    data = os.environ.get("XDG_DATA_HOME", "")
    # A relative path is to be ignored, says the XDG specification.
    return Path(data) / "praisonai" if Path(data).is_absolute() else home / ".praisonai"
