"""One turn of an agent: what was said, which tools were called, and what became of it."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from asyncsessions.errors import SessionStoreError

__all__ = ["Turn", "TurnNotStoredError", "current_turn", "entered"]


class TurnNotStoredError(SessionStoreError):
    """The agent's turn is over, but the store refused it; the store's error is the cause.

    Append each of `batches` under its key when the store works again: what did arrive isn't
    stored twice.

    Attributes:
        answer: What the agent returned; None where the turn failed, too.
        batches: What may be missing in the store: idempotency keys with messages, in order.
    """

    def __init__(
        self, session_id: str, batches: Sequence[tuple[str, Sequence[dict[str, Any]]]]
    ) -> None:
        super().__init__(
            f"a turn of session {session_id!r} was not stored; the agent's answer is in .answer, "
            "and what to append again in .batches",
            session_id=session_id,
        )
        self.answer: Any = None
        self.batches: list[tuple[str, list[dict[str, Any]]]] = [
            (key, list(messages)) for key, messages in batches
        ]


class _Call:
    """One tool call; without a result until it returned."""

    __slots__ = ("arguments", "call_id", "is_done", "name", "result")

    def __init__(self, name: str, arguments: Any, call_id: str | None) -> None:
        self.name: str = name
        # As text at once, because tools may change what they get.
        self.arguments: str = arguments if isinstance(arguments, str) else _text(arguments or {})
        self.call_id: str = call_id or f"call_{uuid.uuid4().hex}"
        self.is_done: bool = False
        self.result: str = ""

    def is_outer_of(self, call_id: str | None) -> bool:
        """Whether this is PraisonAI's tool that calls another one, under its own id."""
        return self.name == "tool_call" and self.call_id == call_id and not self.is_done

    def messages(self) -> Iterator[dict[str, Any]]:
        function = {"name": self.name, "arguments": self.arguments}
        call = {"id": self.call_id, "type": "function", "function": function}
        yield {"role": "assistant", "content": None, "tool_calls": [call]}
        yield {"role": "tool", "content": self.result, "tool_call_id": self.call_id}


class Turn:
    """What one call of ``chat`` or ``achat`` adds to a session.

    Args:
        agent: Whose turn it is.
        outer: The turn in which this one was started, as by a tool that asks an agent.
        is_async: Whether it is one of ``achat``.
    """

    def __init__(self, agent: object, outer: Turn | None, *, is_async: bool) -> None:
        self.agent = agent
        self.outer = outer
        self.is_async = is_async
        self.key: str = uuid.uuid4().hex
        self.user: dict[str, Any] | None = None
        self.reply: dict[str, Any] | None = None
        self.was_rolled_back: bool = False
        #: Ends when the user's message is stored; set by who writes it.
        self.writing: asyncio.Future[Any] | None = None
        self.is_user_stored: bool = False
        self._calls: list[_Call] = []

    @contextmanager
    def tool(self, name: str, arguments: Any, call_id: str | None) -> Iterator[_Call]:
        """Note a tool's call; what it returns goes to `answer_tool`, an error is its answer."""
        outer = [call for call in self._calls if call.is_outer_of(call_id)]
        if outer:
            # The model asked for that one.
            yield outer[0]
            return
        call = _Call(name, arguments, call_id)
        self._calls.append(call)
        try:
            yield call
        except Exception as exc:
            self.answer_tool(call, {"error": str(exc)})
            raise

    def answer_tool(self, call: _Call, result: Any) -> None:
        """Note what a tool returned."""
        call.result = result if isinstance(result, str) else _text(result)
        call.is_done = True

    def roll_back(self) -> None:
        """Note that the agent took back what it had added to its history."""
        self.reply = None
        self.was_rolled_back = True

    def unsaved(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Return what isn't stored yet: idempotency keys with messages that belong together.

        The user's message is one of its own, because it is stored before the model answers.
        """
        user = [] if self.user is None or self.is_user_stored else [self.user]
        batches = [(f"{self.key}:user", user), (self.key, self._rest())]
        return [(key, messages) for key, messages in batches if messages]

    def _rest(self) -> list[dict[str, Any]]:
        """Return what follows the user's message: finished tool calls, and the reply if any.

        A call without a result is left out, as no model takes it.
        """
        calls = [each for call in self._calls if call.is_done for each in call.messages()]
        return calls if self.reply is None else [*calls, self.reply]


_current: ContextVar[Turn | None] = ContextVar("asyncsessions_praisonai_turn", default=None)


def current_turn(agent: object) -> Turn | None:
    """Return the turn of an agent that the caller is in; None where there is none."""
    turn = _current.get()
    while turn is not None and turn.agent is not agent:
        turn = turn.outer
    return turn


@contextmanager
def entered(agent: object, *, is_async: bool) -> Iterator[Turn]:
    """Start a turn of an agent; threads and tasks that are started in it see it, too."""
    turn = Turn(agent, _current.get(), is_async=is_async)
    token = _current.set(turn)
    try:
        yield turn
    finally:
        _current.reset(token)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
