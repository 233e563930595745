"""Titles for conversations."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable

__all__ = ["MakeTitle", "make_title"]

MakeTitle = Callable[[str, str], Awaitable[str]]

_LONGEST = 60


async def make_title(question: str, answer: str) -> str:
    """Return a title for a conversation: PraisonAI's, else the start of the question.

    PraisonAI asks a model, and also falls back to the question where that fails.
    """
    try:
        module = importlib.import_module("praisonaiagents.session.title")
    except ImportError:
        return _start_of(question)
    title: str = await module.generate_title_async(question, answer)
    return title


def _start_of(text: str) -> str:
    sentence = " ".join(text.split()).partition(". ")[0].rstrip(".?! ")
    return sentence if len(sentence) <= _LONGEST else sentence[: _LONGEST - 3] + "..."
