"""What is left out because it can't be read: one log message, and its text as data.

A list, a search or an export goes on where one session of many is damaged. Whoever has to know what
it lacks takes the ``left_out`` of the log records, as the command line does.
"""

from __future__ import annotations

import logging

__all__ = ["leave_out"]


def leave_out(logger: logging.Logger, of: str, what: object) -> None:
    """Warn that something is left out.

    Args:
        logger: The logger of whoever leaves it out.
        of: Of what: ``"list"``, ``"search"``, ``"tree"``, ``"export"``, ``"history"``.
        what: Which session, and why; an error says both. It is the log record's ``left_out``, as
            text.
    """
    text = str(what)
    logger.warning("left out of the %s: %s", of, text, extra={"left_out": text})
