"""Small conversations for the demo: users, assistants, and tools that are called."""

from __future__ import annotations

import json
import random
from typing import Any

__all__ = ["Turn", "chat", "errand"]

Turn = list[dict[str, Any]]
"""Messages that are appended together."""

_GREETINGS = ("Hi!", "Hello there", "Good morning", "Hey, quick question", "こんにちは", "Salut 👋")
_REMARKS = (
    "Is anybody else waiting for the train to Ghent?",
    "Mine was cancelled, so I took the bus.",
    "The platform changed again, now it's number 4.",
    "Thanks, that helps.",
    "Could someone summarise what was decided?",
    "I'd rather meet at half past nine.",
    "¿Alguien tiene la dirección?",
    "Ok 👍",
)
_REPLIES = (
    "Noted. I'll remind everyone ten minutes before.",
    "The next train leaves at 17:42 from platform 4.",
    "So far: the meeting moves to Thursday, and Ann brings the plans.",
    "I don't know that one, but I can look it up.",
)
_WISHES = (
    ("A table for {n} at {place}, please.", "find_table", "{place} has room at {time}."),
    ("Book {n} seats to {place}.", "find_trip", "There is a trip to {place} at {time}."),
    ("What's the weather in {place}?", "get_weather", "In {place}, at {time}: mild and dry."),
    ("Order {n} coffees from {place}.", "add_order_item", "{place} will have them by {time}."),
)
_PLACES = ("Riverside", "Kraków", "the Old Mill", "Zürich", "Café Änne", "京都")


def chat(rng: random.Random) -> list[Turn]:
    """Return some turns of a busy group chat."""
    turns: list[Turn] = [[{"role": "user", "content": rng.choice(_GREETINGS)}]]
    for _ in range(rng.randint(2, 5)):
        turns.append([{"role": "user", "content": rng.choice(_REMARKS)}])
        if rng.random() < 0.4:
            turns.append([{"role": "assistant", "content": rng.choice(_REPLIES)}])
    return turns


def errand(rng: random.Random) -> list[Turn]:
    """Return a conversation in which an assistant calls a tool for its user."""
    wish, tool, result = rng.choice(_WISHES)
    place, people = rng.choice(_PLACES), rng.randint(2, 6)
    time = f"{rng.randint(9, 21)}:{rng.choice(('00', '15', '30', '45'))}"
    call_id = f"call_{rng.getrandbits(40):010x}"
    arguments = json.dumps({"place": place, "people": people}, ensure_ascii=False)
    call = {"id": call_id, "type": "function", "function": {"name": tool, "arguments": arguments}}
    found = json.dumps({"place": place, "time": time}, ensure_ascii=False)
    answer = result.format(place=place, time=time)
    return [
        [{"role": "user", "content": rng.choice(_GREETINGS)}],
        [{"role": "assistant", "content": "Hello! What can I do for you?"}],
        [{"role": "user", "content": wish.format(n=people, place=place)}],
        # A call and its result belong together, so they are stored in one step.
        [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call_id, "name": tool, "content": found},
        ],
        [{"role": "assistant", "content": answer}],
        [{"role": "user", "content": rng.choice(("Perfect, thanks!", "Great.", "Merci 🙏"))}],
    ]
