"""The agent's methods in which a turn passes, and what they tell the store."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from asyncsessions.integrations._praisonai_turns import (
    Turn,
    TurnNotStoredError,
    current_turn,
    entered,
)

__all__ = ["Recorder", "attached_class"]

# A method of the agent's own class, bound to the agent.
_Method = Callable[..., Any]
_AsyncMethod = Callable[..., Coroutine[Any, Any, Any]]

# What the user said in a broken stream, which is stored; for the turn that takes its place.
_streamed: ContextVar[Any] = ContextVar("asyncsessions_praisonai_streamed", default=None)
# Kept here, because an event loop alone would let go of them.
_writes: set[asyncio.Task[None]] = set()


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


def attached_class(base: type[Any]) -> type[Any]:
    """Return an agent's class with other methods where a turn passes.

    A class and not attributes of the agent: its copies then have methods of their own.
    """
    plain = {name: _overridden(base, name, function) for name, function in _PLAIN.items()}
    coroutines = {name: _aoverridden(base, name, function) for name, function in _ASYNC.items()}
    return type(base.__name__, (base,), {"__module__": base.__module__} | plain | coroutines)


def _overridden(base: type[Any], name: str, function: _Method) -> _Method:
    method = getattr(base, name)

    @functools.wraps(method)
    def override(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, functools.partial(method, self), *args, **kwargs)

    return override


def _aoverridden(base: type[Any], name: str, function: _AsyncMethod) -> _AsyncMethod:
    method = getattr(base, name)

    @functools.wraps(method)
    async def override(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await function(self, functools.partial(method, self), *args, **kwargs)

    return override


def _recorder(agent: Any) -> Recorder | None:
    """Return what writes an agent's turns; None for a copy of an attached agent."""
    attachment = agent.__dict__.get("_asyncsessions")
    return None if attachment is None else attachment.recorder


# A turn's beginning and end.


def _chat(agent: Any, ask: _Method, /, *args: Any, **kwargs: Any) -> Any:
    recorder = _recorder(agent)
    if recorder is None:
        return ask(*args, **kwargs)
    recorder.check_sync()
    with entered(agent, is_async=False) as turn:
        try:
            answer = ask(*args, **kwargs)
        except BaseException as exc:
            _remember(agent, turn)
            with _noted(exc):
                recorder.finish(turn)
            raise
        _remember(agent, turn)
        with _answered(answer):
            recorder.finish(turn)
        return answer


async def _achat(agent: Any, ask: _AsyncMethod, /, *args: Any, **kwargs: Any) -> Any:
    recorder = _recorder(agent)
    if recorder is None:
        return await ask(*args, **kwargs)
    with entered(agent, is_async=True) as turn:
        try:
            answer = await ask(*args, **kwargs)
        except BaseException as exc:
            _remember(agent, turn)
            with _noted(exc):
                await _to_the_end(recorder, turn)
            raise
        _remember(agent, turn)
        with _answered(answer):
            await _to_the_end(recorder, turn)
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


async def _to_the_end(recorder: Recorder, turn: Turn) -> None:
    """Await the write of a turn; a caller that is cancelled meanwhile sees it through first."""
    task = asyncio.get_running_loop().create_task(recorder.afinish(turn))
    _writes.add(task)
    task.add_done_callback(_writes.discard)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if task.cancelled():
            # By the end of the event loop, which cancels everything once. What is stored by now
            # is not stored again.
            await recorder.afinish(turn)
        else:
            task.exception()  # Marks it as seen; the caller learns of the cancellation.
        raise


# What happens in between.


def _add(agent: Any, add: _Method, /, role: str, content: Any) -> Any:
    # All but for repeated words return None.
    if (added := add(role, content)) is not False:
        _note(agent, role, content)
    return added


def _append(agent: Any, append: _Method, /, message: dict[str, Any]) -> Any:
    _note(agent, message.get("role"), message.get("content"))
    return append(message)


def _note(agent: Any, role: Any, content: Any) -> None:
    """Note what an agent adds to its history as part of its turn."""
    turn, recorder = current_turn(agent), _recorder(agent)
    if turn is None or recorder is None:
        return
    if role == "assistant":
        turn.reply = {"role": role, "content": content}
    elif role == "user" and turn.user is None:
        turn.user = {"role": role, "content": content}
        turn.is_user_stored = _streamed.get() == content
        if not turn.is_user_stored:
            recorder.user_said(turn)


def _roll_back(agent: Any, roll_back: _Method, /, *args: Any) -> Any:
    turn = current_turn(agent)
    if turn is not None:
        turn.roll_back()
    return roll_back(*args)


def _execute(
    agent: Any,
    execute: _Method,
    /,
    function_name: str,
    arguments: Any,
    tool_call_id: str | None = None,
) -> Any:
    turn = current_turn(agent)
    if turn is None:
        return execute(function_name, arguments, tool_call_id)
    with turn.tool(function_name, arguments, tool_call_id) as call:
        result = execute(function_name, arguments, tool_call_id)
        turn.answer_tool(call, result)
        return result


async def _aexecute(
    agent: Any,
    execute: _AsyncMethod,
    /,
    function_name: str,
    arguments: Any,
    tool_call_id: str | None = None,
    *rest: Any,
    **options: Any,
) -> Any:
    turn = current_turn(agent)
    if turn is None:
        return await execute(function_name, arguments, tool_call_id, *rest, **options)
    with turn.tool(function_name, arguments, tool_call_id) as call:
        result = await execute(function_name, arguments, tool_call_id, *rest, **options)
        turn.answer_tool(call, result)
        return result


# What the agent would write itself: a turn is written as a whole, and a stream, which is none, by
# the agent.


def _persist(
    agent: Any, persist: _Method, /, role: str, content: Any, *args: Any, **kw: Any
) -> None:
    if current_turn(agent) is None:
        persist(role, content, *args, **kw)
        agent._asyncsessions_said = content if role == "user" else None


async def _apersist(agent: Any, persist: _AsyncMethod, /, *args: Any, **kwargs: Any) -> None:
    if current_turn(agent) is None:
        await persist(*args, **kwargs)


def _stream(agent: Any, stream: _Method, /, *args: Any, **kwargs: Any) -> Any:
    recorder = _recorder(agent)
    if recorder is not None:
        recorder.check_sync()
    return stream(*args, **kwargs)


def _fall_back(agent: Any, fall_back: _Method, /, *args: Any, **kwargs: Any) -> Any:
    # The turn that takes the place of a broken stream goes on where it ended.
    agent._discard_partial_assistant_turn()
    token = _streamed.set(agent._asyncsessions_said)
    try:
        return fall_back(*args, **kwargs)
    finally:
        _streamed.reset(token)


_PLAIN: dict[str, _Method] = {
    "chat": _chat,
    "execute_tool": _execute,
    "_add_to_chat_history": _add,
    "_add_to_chat_history_if_not_duplicate": _add,
    "_append_to_chat_history": _append,
    "_persist_message": _persist,
    "_rollback_chat_history_to": _roll_back,
    "_start_stream": _stream,
    "_stream_fallback_chat": _fall_back,
}
_ASYNC: dict[str, _AsyncMethod] = {
    "achat": _achat,
    "execute_tool_async": _aexecute,
    "_apersist_message": _apersist,
}
