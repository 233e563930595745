"""What all tests share: strictness about blocking calls, and how hypothesis searches."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import Phase, settings

# Disks and shared machines are no place for a deadline for each example.
settings.register_profile("default", deadline=None, max_examples=25)
# The same examples every time: a failure then points to the change and not to the draw.
settings.register_profile("ci", deadline=None, max_examples=25, derandomize=True, database=None)
# For defects that must be found, in however unreadable an example.
settings.register_profile(
    "thorough", deadline=None, max_examples=1000, derandomize=True, phases=[Phase.generate]
)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """Fail a test in which the library blocks the event loop."""
    with blockbuster_ctx("asyncsessions", excluded_modules=["asyncsessions.testing"]):
        yield
