"""Write the page and the pictures of a run: ``python -m benchmarks.report docs/results/FULL.json``.

``--table`` prints the run instead.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.report.page import Recorded, write_page
from benchmarks.report.table import print_results
from benchmarks.results import read


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("results", type=Path, help="what a run wrote")
    parser.add_argument(
        "--other", type=Path, metavar="FILE", help="another run, to show how well the two agree"
    )
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where the page goes")
    parser.add_argument("--table", action="store_true", help="print the run instead")
    options = parser.parse_args()
    shown = _read(parser, options.results)
    other = None if options.other is None else _read(parser, options.other)
    if options.table and other:
        parser.error("--table shows one run; compare two with python -m benchmarks --compare")
    if options.table:
        print_results(shown.results)
        return
    # Only pictures need matplotlib, which takes a second to import.
    try:
        from benchmarks.report.pictures import draw_all
    except ModuleNotFoundError as exc:
        sys.exit(f"{exc}: pictures need matplotlib, which is in the group bench")
    for path in draw_all(shown.results, options.docs / "pictures"):
        print(path)
    print(write_page(shown, options.docs, other))


def _read(parser: argparse.ArgumentParser, path: Path) -> Recorded:
    try:
        return Recorded(read(path), path)
    except (OSError, ValueError) as exc:
        parser.error(f"{path}: {exc}")


if __name__ == "__main__":
    main()
