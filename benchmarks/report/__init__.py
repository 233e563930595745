"""What a run shows: tables on a terminal, pictures, a page, and how it differs from another run."""

from __future__ import annotations
