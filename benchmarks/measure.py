"""What all benchmarks share: interleaved rounds, medians, and tables.

A figure means something only beside another of the same run: machines differ, and shared
ones are busy. So every round measures each way once, in another order each time, and what
is compared are the medians over the rounds.
"""

import argparse
import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

K = TypeVar("K")
T = TypeVar("T")

Work = Callable[[int], object]
"""Does the same thing the given number of times; the loop is inside, so that a call more does not count."""

Figure = Callable[[], float]
"""Measures something once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: How often each way is measured.
        is_quick: Whether the figures do not matter, only that there are some.
        is_checked: Whether a figure beyond its bound is to end the program with exit code 1.
    """

    rounds: int
    is_quick: bool
    is_checked: bool = False

    def choose(self, real: T, quick: T) -> T:
        """*real*, or *quick* where the figures do not matter."""
        return quick if self.is_quick else real


def effort(description: str | None, argv: Sequence[str] | None, *, rounds: int, has_bounds: bool = False) -> Effort:
    """What the command line asks for; *rounds* by default.

    Args:
        description: What is measured.
        argv: The arguments; those of the program if not given.
        rounds: How often.
        has_bounds: Whether some figures have bounds, see `check`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=None, help=f"how often each way is measured ({rounds})")
    parser.add_argument("--quick", action="store_true", help="only show that it works: the figures mean nothing")
    parser.set_defaults(check=False)
    if has_bounds:
        parser.add_argument("--check", action="store_true", help="exit with 1 if a figure is beyond its bound")
    given = parser.parse_args(argv)
    chosen = given.rounds or (1 if given.quick else rounds)
    if chosen < 1:
        parser.error("--rounds: want 1 or more")
    return Effort(rounds=chosen, is_quick=given.quick, is_checked=given.check)


# Measuring


def medians(figures: Mapping[K, Figure], rounds: int) -> dict[K, float]:
    """The median of each figure over *rounds*, in which all of them take turns."""
    names = list(figures)
    measured: dict[K, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        gc.collect()  # what one round has left behind is not the next one's to clear away
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            measured[name].append(figures[name]())
    return {name: median(values) for name, values in measured.items()}


class Timed:
    """A `Figure`: the seconds that doing *work* once takes, averaged over about *span* seconds."""

    def __init__(self, work: Work, span: float) -> None:
        """Finds out how often *work* is done in *span*; that also warms it up."""
        self._work = work
        self._count = 1
        # One try that is interrupted would end the search at a handful of calls, which measure the clock.
        while (taken := min(self._take() for _ in range(3))) < span / 4:
            self._count *= 2
        self._count = max(1, round(self._count * span / taken))

    def __call__(self) -> float:
        """Seconds, by the clock on the wall."""
        return self._take() / self._count

    def _take(self) -> float:
        begun = time.perf_counter()
        self._work(self._count)
        return time.perf_counter() - begun


def repeated(call: Callable[[], object]) -> Work:
    """*call* as `Work`, for what takes so long that a loop around it does not count."""

    def work(count: int) -> None:
        for _ in repeat(None, count):
            call()

    return work


def installed(ways: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """What *ways* make, without those whose library is not installed."""
    made = {}
    for name, way in ways.items():
        try:
            made[name] = way()
        except ImportError:
            continue  # its row says so
    return made


def check(given: Effort, what: str, figure: float, *, most: float) -> None:
    """End the program with exit code 1 if *figure* is more than *most*, and that is to be checked.

    Bounds are ratios, or differences between figures of the same run: machines differ.

    Raises:
        SystemExit: it is more.
    """
    if given.is_checked and not figure <= most:
        sys.exit(f"{what}: {figure:.4g}, want at most {most:g}")


# Showing


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of a table; the fields of a subclass are its columns, see `column`."""

    name: str
    is_installed: bool = True


def column(heading: str, form: str) -> Any:
    """A field of a `Row`: a figure that is shown under *heading* as *form* says; None where there is none."""
    return field(default=None, metadata={"heading": heading, "form": form})


def show(title: str, rows: Sequence[Row]) -> None:
    """Print *rows*, all of one kind, as a table."""
    columns = [one for one in fields(rows[0]) if "heading" in one.metadata]
    lines = [[title, *(one.metadata["heading"] for one in columns)], *(_cells(row, columns) for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    print()
    for number, (first, *rest) in enumerate(lines):
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        print(f"| {' | '.join(cells)} |")
        if number == 0:
            rules = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
            print(f"| {' | '.join(rules)} |")


def show_heading(title: str, packages: Iterable[str], given: Effort) -> None:
    """Print what is measured, on which machine, and with which versions."""
    load = os.getloadavg()[0]
    print(f"{title}: medians of {given.rounds} interleaved rounds{' (quick: they mean nothing)' * given.is_quick}")
    print(f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores, load {load:.1f}")
    print(f"{platform.python_implementation()} {platform.python_version()}; {', '.join(map(_version, packages))}")
    sys.stdout.flush()


def _cells(row: Row, columns: Iterable[Field[Any]]) -> list[str]:
    figures = [(getattr(row, one.name), one.metadata["form"]) for one in columns]
    missing = "-" if row.is_installed else "not installed"
    return [row.name, *(missing if figure is None else format(figure, form) for figure, form in figures)]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or "unknown processor")


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} not installed"
