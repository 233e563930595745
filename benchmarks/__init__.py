"""What asyncsessions costs, as ratios to references measured in the same run."""

from __future__ import annotations
