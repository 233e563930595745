"""What a run ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import psutil

import asyncsessions
from benchmarks.results import Machine

__all__ = ["installed", "machine"]

_GIB = 1 << 30
_CPU_INFO = Path("/proc/cpuinfo")


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of packages, as far as they are installed."""
    versions = {}
    for package in sorted(set(packages)):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def machine(versions: dict[str, str]) -> Machine:
    """Return where this is, with versions of what was measured."""
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=_processor(),
        cpus=os.cpu_count() or 1,
        memory=round(psutil.virtual_memory().total / _GIB, 1),
        python=platform.python_version(),
        versions={"asyncsessions": asyncsessions.__version__} | versions,
    )


def _processor() -> str:
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
