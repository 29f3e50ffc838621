"""What was measured: `results.json`, and `results.md` made of it.

The JSON has a section for each script, with what it ran on. A run adds to its section
or replaces the points that it measured again; where the processor or a version is
another one, the section starts anew.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from speed.networks import HERE
from speed.page import page
from speed.tables import Record

DATA = HERE / "results.json"
PAGE = HERE / "results.md"


def processor() -> str:
    """Name and cores, as far as the system tells."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    widest = "AVX-512" if "avx512f" in _flags(cpuinfo) else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    parts = [name, platform.machine(), f"{cores or os.cpu_count()} cores used", widest]
    return ", ".join(part for part in parts if part)


def _flags(cpuinfo: Path) -> Sequence[str]:
    if not cpuinfo.exists():
        return ()
    lines = cpuinfo.read_text().splitlines()
    return next((x.split() for x in lines if x.startswith("flags")), ())


def environment(*packages: str) -> dict[str, str]:
    """Processor, Python and versions of packages; those not installed are left out."""
    found = {"processor": processor(), "Python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read() -> Record:
    return json.loads(DATA.read_text()) if DATA.exists() else {}


def save(section: str, points: Record, ran_on: dict[str, str]) -> None:
    """Lays `points` over those of `section` and writes both files."""
    data = read()
    known = data.get(section, {"environment": ran_on, "points": {}})
    if known["environment"] != ran_on:
        print(f"{section}: measured elsewhere before; starts anew", file=sys.stderr)
        known = {"environment": ran_on, "points": {}}
    known["points"] |= points
    data[section] = known
    DATA.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(page(data))
