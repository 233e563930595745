"""The agent's side: its class with a few methods that tell a turn to the store."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Protocol, Self

from asyncsessions.integrations._praisonai_turns import (
    Turn,
    TurnNotStoredError,
    current_turn,
    entered,
)

__all__ = ["Attachment", "Recorder"]


class Recorder(Protocol):
    """Writes the turns of one agent into one session."""

    def check_sync(self) -> None:
        """Raise if the agent's sync methods can't be stored."""

    def user_said(self, turn: Turn) -> None:
        """Begin to write the user's message."""

    def finish(self, turn: Turn) -> None:
        """Write what is missing of a turn of ``chat``."""

    async def afinish(self, turn: Turn) -> None:
        """Write what is missing of a turn of ``achat``; it is not cancelled."""


class Attachment:
    """A store that is attached to an agent, until `detach`.

    Args:
        agent: The agent.
        session_id: The session that holds its turns.
        recorder: Writes them.
        store: What the agent itself gets as its store.
        history: What it starts with.
    """

    def __init__(
        self,
        agent: Any,
        session_id: str,
        recorder: Recorder,
        store: Any,
        history: list[dict[str, Any]],
    ) -> None:
        self.session_id = session_id
        self._agent = agent
        self._recorder = recorder
        self._class = type(agent)
        # The history is in chat_history now: injected or saved by the agent it would come twice.
        auto_save = getattr(agent, "auto_save", None)
        changes = {
            "_session_id": session_id,
            "_history_session_id": session_id,
            "_session_store": store,
            "_session_store_initialized": True,
            "_history_enabled": False,
            "_auto_save_last_index": len(history),
            "auto_save": None if auto_save == session_id else auto_save,
            "_asyncsessions": self,
        }
        self._before = {name: agent.__dict__.get(name, _ABSENT) for name in changes}
        agent.chat_history[:] = history
        agent.__dict__.update(changes)
        agent.__class__ = _attached(self._class)  # type: ignore[arg-type]  # a class is hashable

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Return None: a copy of the agent has nothing attached."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()

    def detach(self) -> None:
        """Make the agent what it was, but for its history, and write what still waits.

        Doing it again does nothing. The store stays open.
        """
        agent, before = self._agent, self._before
        self._before = {}
        if not before:
            return
        agent.__class__ = self._class
        for name, value in before.items():
            if value is _ABSENT:
                agent.__dict__.pop(name, None)
            else:
                agent.__dict__[name] = value
        close = getattr(self._recorder, "close", None)
        if close is not None:
            close()


_ABSENT: Any = object()
# What the user said in a broken stream, which is stored; for the turn that takes its place.
_streamed: ContextVar[Any] = ContextVar("asyncsessions_praisonai_streamed", default=None)


def _recorder(agent: Any) -> Recorder | None:
    """Return what writes an agent's turns; None for a copy of an attached agent."""
    attachment = agent.__dict__.get("_asyncsessions")
    return None if attachment is None else attachment._recorder


@functools.cache
def _attached(base: type[Any]) -> type[Any]:
    """Return an agent's class with the methods in which a turn passes.

    A class and not attributes of the agent: its copies then get methods of their own.
    """

    class Attached(base):  # type: ignore[misc]  # the agent's own class
        @functools.wraps(base.chat)
        def chat(self, *args: Any, **kwargs: Any) -> Any:
            return _chat(self, functools.partial(super().chat, *args, **kwargs))

        @functools.wraps(base.achat)
        async def achat(self, *args: Any, **kwargs: Any) -> Any:
            return await _achat(self, functools.partial(super().achat, *args, **kwargs))

        @functools.wraps(base._start_stream)
        def _start_stream(self, *args: Any, **kwargs: Any) -> Any:
            recorder = _recorder(self)
            if recorder is not None:
                recorder.check_sync()
            return super()._start_stream(*args, **kwargs)

        @functools.wraps(base.execute_tool)
        def execute_tool(
            self, function_name: str, arguments: Any, tool_call_id: str | None = None
        ) -> Any:
            turn = current_turn(self)
            if turn is None:
                return super().execute_tool(function_name, arguments, tool_call_id)
            with turn.tool(function_name, arguments, tool_call_id) as call:
                result = super().execute_tool(function_name, arguments, tool_call_id)
                turn.answer_tool(call, result)
                return result

        @functools.wraps(base.execute_tool_async)
        async def execute_tool_async(
            self, function_name: str, arguments: Any, tool_call_id: str | None = None, *rest: Any
        ) -> Any:
            turn = current_turn(self)
            execute = super().execute_tool_async
            if turn is None:
                return await execute(function_name, arguments, tool_call_id, *rest)
            with turn.tool(function_name, arguments, tool_call_id) as call:
                result = await execute(function_name, arguments, tool_call_id, *rest)
                turn.answer_tool(call, result)
                return result

        @functools.wraps(base._add_to_chat_history_if_not_duplicate)
        def _add_to_chat_history_if_not_duplicate(self, role: str, content: Any) -> Any:
            is_new = super()._add_to_chat_history_if_not_duplicate(role, content)
            turn, recorder = current_turn(self), _recorder(self)
            if turn is None or recorder is None or not is_new or role != "user":
                return is_new
            if turn.user is None:
                turn.user = {"role": role, "content": content}
                turn.is_user_stored = _streamed.get() == content
                if not turn.is_user_stored:
                    recorder.user_said(turn)
            return is_new

        @functools.wraps(base._append_to_chat_history)
        def _append_to_chat_history(self, message: dict[str, Any]) -> Any:
            turn = current_turn(self)
            if turn is not None and message.get("role") == "assistant":
                turn.reply = {"role": "assistant", "content": message.get("content")}
            return super()._append_to_chat_history(message)

        @functools.wraps(base._rollback_chat_history_to)
        def _rollback_chat_history_to(self, *args: Any) -> Any:
            turn = current_turn(self)
            if turn is not None:
                turn.roll_back()
            return super()._rollback_chat_history_to(*args)

        @functools.wraps(base._persist_message)
        def _persist_message(self, role: str, content: Any, *args: Any, **kwargs: Any) -> None:
            # A turn is written as a whole; a stream, which is none, by the agent itself.
            if current_turn(self) is None:
                super()._persist_message(role, content, *args, **kwargs)
                self._asyncsessions_said = content if role == "user" else None

        @functools.wraps(base._apersist_message)
        async def _apersist_message(self, *args: Any, **kwargs: Any) -> None:
            if current_turn(self) is None:
                await super()._apersist_message(*args, **kwargs)

        @functools.wraps(base._stream_fallback_chat)
        def _stream_fallback_chat(self, *args: Any, **kwargs: Any) -> Any:
            # The turn that takes the place of a broken stream goes on where it ended.
            self._discard_partial_assistant_turn()
            token = _streamed.set(getattr(self, "_asyncsessions_said", None))
            try:
                return super()._stream_fallback_chat(*args, **kwargs)
            finally:
                _streamed.reset(token)

    Attached.__name__, Attached.__qualname__ = base.__name__, base.__qualname__
    return Attached


def _chat(agent: Any, ask: Callable[[], Any]) -> Any:
    recorder = _recorder(agent)
    if recorder is None:
        return ask()
    recorder.check_sync()
    with entered(agent, is_async=False) as turn:
        try:
            answer = ask()
        except BaseException as exc:
            _remember(agent, turn)
            with _noted(exc):
                recorder.finish(turn)
            raise
        _remember(agent, turn)
        with _answered(answer):
            recorder.finish(turn)
        return answer


async def _achat(agent: Any, ask: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    recorder = _recorder(agent)
    if recorder is None:
        return await ask()
    with entered(agent, is_async=True) as turn:
        try:
            answer = await ask()
        except BaseException as exc:
            _remember(agent, turn)
            with _noted(exc):
                await _to_the_end(recorder.afinish(turn))
            raise
        _remember(agent, turn)
        with _answered(answer):
            await _to_the_end(recorder.afinish(turn))
        return answer


def _remember(agent: Any, turn: Turn) -> None:
    """Let the agent remember of a failed turn what the store does: what the user said.

    So the same words again are the same message, here and after a restart.
    """
    if turn.user is not None and turn.was_rolled_back:
        agent._add_to_chat_history(turn.user["role"], turn.user["content"])


@contextmanager
def _noted(failure: BaseException) -> Iterator[None]:
    """Let a turn's own failure tell of the store's, which is the lesser one."""
    try:
        yield
    except TurnNotStoredError as exc:
        failure.add_note(f"{exc}: {exc.__cause__}")


@contextmanager
def _answered(answer: Any) -> Iterator[None]:
    """Give the answer of a turn that wasn't stored to the caller all the same."""
    try:
        yield
    except TurnNotStoredError as exc:
        exc.answer = answer
        raise


# Kept here, because an event loop alone would let go of them.
_writes: set[asyncio.Task[None]] = set()


async def _to_the_end(writing: Coroutine[Any, Any, None]) -> None:
    """Await a write; a caller that is cancelled meanwhile sees it through first."""
    task = asyncio.get_running_loop().create_task(writing)
    _writes.add(task)
    task.add_done_callback(_writes.discard)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # Marks it as seen; the caller learns of the cancellation.
        raise
