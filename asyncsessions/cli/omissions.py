"""Collects what a store's lists, searches and exports leave out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from asyncsessions._compat import override

__all__ = ["noting_omissions"]


@contextmanager
def noting_omissions(omissions: dict[str, None], *, is_shown: bool = False) -> Iterator[None]:
    """Note what is left out meanwhile, each text once; see `asyncsessions.omissions`.

    Args:
        omissions: Gets the texts, as keys in their order.
        is_shown: Whether it is also shown as a warning. All other warnings are in any case.
    """
    logger = logging.getLogger("asyncsessions")
    handlers = logger.handlers
    logger.handlers = [_Noting(omissions, handlers if is_shown else [], handlers)]
    try:
        yield
    finally:
        logger.handlers = handlers


class _Noting(logging.Handler):
    """Stands before the handlers that there are."""

    def __init__(
        self,
        omissions: dict[str, None],
        of_omissions: list[logging.Handler],
        of_others: list[logging.Handler],
    ) -> None:
        super().__init__()
        self._omissions = omissions
        self._of_omissions = of_omissions
        self._of_others = of_others

    @override
    def emit(self, record: logging.LogRecord) -> None:
        handlers = self._of_others
        left_out = getattr(record, "left_out", None)
        if left_out is not None:
            self._omissions[left_out] = None
            handlers = self._of_omissions
        for handler in handlers:
            if record.levelno >= handler.level:
                handler.handle(record)
