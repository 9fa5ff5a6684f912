"""All benchmarks one after the other, and what they say as one page: RESULTS.md, with plots.

    python benchmarks/all.py [--only NAME,...] [--quick] [--check] [--to FOLDER]

It takes some twelve minutes, on a machine that does nothing else. With --check it ends with
status 1 if a ratio of any benchmark is beyond its bound; the page is written all the same.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plot import bars

HERE: Final = Path(__file__).parent
PAPER: Final = "on_paper.md"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A program beside this one.

    Attributes:
        name: Of its file.
        arguments: What makes it fit into the time of all of them.
        quick: Those that only show that it works.
    """

    name: str
    arguments: Sequence[str] = ()
    quick: Sequence[str] = ("--quick",)


BENCHMARKS: Final = (
    Benchmark("request_path", ("--rounds", "51")),
    Benchmark("dispatch", ("--rounds", "31")),
    Benchmark("processes", ("--rounds", "11")),
    Benchmark("hangs"),
    Benchmark("awaits"),
    Benchmark("celery_fires"),
    Benchmark("stores", ("--rounds", "9")),
    Benchmark("sessions", ("--rounds", "31")),
    Benchmark("events", ("--rounds", "5")),
    Benchmark("fires", ("--rounds", "1")),
    Benchmark("busy"),
    Benchmark("scale"),
    Benchmark("startup"),
    Benchmark("fleet", ("--seconds", "12"), quick=("--seconds", "2", "--stores", "sqlite")),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What a benchmark has said.

    Attributes:
        command: As one would give it.
        printed: Its heading and its tables.
        complaint: Why it has failed; empty if it has not.
        seconds: How long it took.
    """

    name: str
    command: str
    printed: str
    complaint: str
    seconds: float


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Run them, write the page, and leave with status 1 if one has failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--only", default="", help="names of benchmarks, with commas between; all by default")
    parser.add_argument("--quick", action="store_true", help="only show that they work: the figures mean nothing")
    parser.add_argument("--check", action="store_true", help="end with status 1 if a ratio is beyond its bound")
    parser.add_argument("--to", type=Path, default=HERE, help="the folder of RESULTS.md and plots/")
    given = parser.parse_args(argv)
    only = [name for name in given.only.split(",") if name]
    if unknown := set(only) - {one.name for one in BENCHMARKS}:
        parser.error(f"--only: there is no benchmark {', '.join(sorted(unknown))}")
    results = []
    for one in BENCHMARKS:
        if (not only or one.name in only) and (HERE / f"{one.name}.py").exists():
            print(f"{one.name} ...", end=" ", flush=True)
            results.append(run(one, is_quick=given.quick, is_checked=given.check))
            print(f"{results[-1].seconds:.0f} s {results[-1].complaint}", flush=True)
    write(results, given.to)
    if any(result.complaint for result in results):
        sys.exit(1)
    return results


def run(one: Benchmark, *, is_quick: bool, is_checked: bool) -> Result:
    """Run it as a program of its own, so that none of them finds what another one has imported."""
    path = HERE / f"{one.name}.py"
    options = [*(one.quick if is_quick else one.arguments)]
    if is_checked and not is_quick and "--check" in path.read_text(encoding="utf-8"):
        options.append("--check")
    begun = time.perf_counter()
    done = subprocess.run(  # noqa: S603 - ourselves
        [sys.executable, path, *options], check=False, capture_output=True, text=True, encoding="utf-8"
    )
    complaint = "" if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2] or f"status {done.returncode}"
    return Result(
        name=one.name,
        command=" ".join(["python", f"benchmarks/{one.name}.py", *options]),
        printed=done.stdout.strip(),
        complaint=complaint,
        seconds=time.perf_counter() - begun,
    )


# The page


def write(results: Sequence[Result], folder: Path) -> None:
    """Write RESULTS.md to *folder*, and a plot of each table that has one beside it."""
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    minutes = sum(result.seconds for result in results) / 60
    parts = [
        "# What Pulse costs, beside its limits and its peers",
        f"`python benchmarks/all.py`, {minutes:.0f} minutes. What counts are the ratios within one table.",
    ]
    for result in results:
        heading, *tables = re.split(r"\n\n(?=\|)", result.printed)
        parts.append(f"## {heading.partition(':')[0]}\n\n`{result.command}`\n\n```\n{heading}\n```")
        if result.complaint:
            parts.append(f"**It failed: {result.complaint}**")
        for number, table in enumerate(tables, 1):
            parts.append(table.strip())
            for place, (column, drawing) in enumerate(drawn(table)):
                name = f"{result.name}-{number}{'' if place == 0 else f'-{place + 1}'}.svg"
                (plots / name).write_text(drawing, encoding="utf-8")
                parts.append(f"![{column}](plots/{name})")
    parts.append((HERE / PAPER).read_text(encoding="utf-8").strip())
    (folder / "RESULTS.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def drawn(table: str) -> Iterator[tuple[str, str]]:
    """The column of *table* that tells most, and a chart of it: the first ratio, or else the last p99."""
    head, _rule, *rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines() if line
    ]
    ratios = [number for number, name in enumerate(head) if number and ("x the limit" in name or "x " in name[:2])]
    late = [number for number, name in enumerate(head) if "p99" in name]
    for place in ratios[:1] or late[-1:]:
        # Rows that share a name differ in their next column.
        names = [row[0] for row in rows]
        said = [row[0] if names.count(row[0]) == 1 else f"{row[0]}, {row[1]} {head[1]}" for row in rows]
        chart = bars(f"{head[0]}: {head[place]}", [(name, row[place]) for name, row in zip(said, rows, strict=True)])
        if chart:
            yield head[place], chart


if __name__ == "__main__":
    main()
