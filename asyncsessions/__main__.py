"""Runs the command line as ``python -m asyncsessions``."""

from __future__ import annotations

from asyncsessions.cli import main

if __name__ == "__main__":
    main()
