"""What a forked child has to make anew: its parent's threads aren't there, and their locks stay."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["Renewable", "renew_in_children"]


class Renewable(Protocol):
    """Something with threads or locks."""

    def renew(self) -> None:
        """Start anew in a forked child; what waits here is the parent's to do."""


_renewables: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_in_children(renewable: Renewable) -> None:
    """Renew an object in every child that is forked while it is there."""
    _renewables.add(renewable)


def _renew() -> None:
    for renewable in list(_renewables):
        renewable.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
