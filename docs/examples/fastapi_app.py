"""A chat service: `uvicorn fastapi_app:app`, with as many workers as you like."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Query, Request
from pydantic import BaseModel

from asyncsessions import (
    IdempotencyConflictError,
    InvalidMessageError,
    InvalidSessionIdError,
    open_store,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with open_store(os.environ.get("SESSIONS_URL", "jsonl://sessions")) as store:
        app.state.store = store
        yield  # On shutdown the store first completes the writes under way.


app = FastAPI(lifespan=lifespan)


class NewMessage(BaseModel):
    content: str


@app.post("/chats/{chat_id}/messages", status_code=201)
async def post_message(
    request: Request,
    chat_id: str,
    message: NewMessage,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> dict[str, Any]:
    try:
        (stored,) = await request.app.state.store.append(
            chat_id,
            [{"role": "user", "content": message.content}],
            idempotency_key=idempotency_key,
        )
    except (InvalidSessionIdError, InvalidMessageError) as exc:
        raise HTTPException(422, str(exc)) from exc
    except IdempotencyConflictError as exc:
        raise HTTPException(409, str(exc)) from exc
    return {"seq": stored.seq, "timestamp": stored.timestamp}


@app.get("/chats/{chat_id}/messages")
async def get_history(
    request: Request, chat_id: str, limit: Annotated[int, Query(ge=0, le=1000)] = 50
) -> list[dict[str, Any]]:
    try:
        return await request.app.state.store.get_chat_history(chat_id, limit)
    except InvalidSessionIdError as exc:
        raise HTTPException(422, str(exc)) from exc
