"""JSON text as PraisonAI writes it, and errors that name the file and the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from asyncsessions.errors import SessionFileError

__all__ = ["BOM", "checked", "fail", "kind", "parse"]

BOM = b"\xef\xbb\xbf"
"""What some editors put in front of a text."""


def parse(data: bytes, path: Path) -> Any:
    """Return a JSON value; NaN and Infinity, which the stores refuse, become None.

    Raises:
        SessionFileError: It isn't JSON.
    """
    try:
        return json.loads(data.removeprefix(BOM).decode(), parse_constant=lambda _: None)
    except json.JSONDecodeError as exc:
        detail = f"this isn't JSON ({exc.msg}); correct it, or look for a whole copy of the file"
        raise SessionFileError(detail, path=str(path), line=exc.lineno) from exc
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        detail = "this isn't UTF-8; look for a whole copy of the file"
        raise SessionFileError(detail, path=str(path), line=line) from exc
    except RecursionError as exc:
        raise SessionFileError("this is nested too deep", path=str(path)) from exc
    except ValueError as exc:
        # A number of thousands of digits; the error doesn't quote it.
        raise SessionFileError("this holds a number that is too long", path=str(path)) from exc


def checked(record: object, path: Path, number: int | None) -> dict[str, Any]:
    """Return what can be a session.

    Raises:
        SessionFileError: It can't.
    """
    if not isinstance(record, dict):
        fail(f"a session is a JSON object, not {kind(record)}", path, number)
    if not isinstance(record.get("session_id"), str):
        fail('the object has no text under "session_id"; give each session its id', path, number)
    for key in ("messages", "archived_messages", "snapshots"):
        value = record.get(key)
        if not (value is None or isinstance(value, list)):
            text = f'"{key}" is a list of objects, not {kind(value)}; correct it'
            fail(text, path, number)
    return record


def fail(detail: str, path: Path, number: int | None) -> NoReturn:
    """Raise the error of a file.

    Raises:
        SessionFileError: Always.
    """
    raise SessionFileError(detail, path=str(path), line=number)


def kind(value: object) -> str:
    """Return what JSON calls a value."""
    names = {dict: "an object", list: "a list", str: "text", type(None): "null", bool: "a boolean"}
    return names.get(type(value), "a number")
