"""What the programs here share: options, interleaved timing, figures with targets, the exit code."""

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "datasets", "kopf", "kubernetes")


@dataclass(frozen=True)
class Target:
    """What a figure has to reach."""

    relation: str
    """`>=` or `<=`."""
    value: float

    def holds(self, value: float) -> bool:
        """Whether a value reaches it."""
        return value >= self.value if self.relation == ">=" else value <= self.value

    def __str__(self) -> str:
        """Such as `>= 1.15`."""
        return f"{self.relation} {self.value:g}"


def at_least(value: float) -> Target:
    """A target from below."""
    return Target(">=", value)


def at_most(value: float) -> Target:
    """A target from above."""
    return Target("<=", value)


@dataclass(frozen=True)
class Figure:
    """One measured value."""

    name: str
    value: float
    unit: str = ""
    target: Target | None = None
    low: float | None = None
    """Smallest of the repeats."""
    high: float | None = None
    """Largest of the repeats."""
    raw: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Every repeat of every arm."""

    @property
    def holds(self) -> bool:
        """Whether the target is reached; true without one."""
        return self.target is None or self.target.holds(self.value)

    def __str__(self) -> str:
        """Name, value with spread, target, verdict."""
        spread = "" if self.low is None else f" ({self.low:.4g} .. {self.high:.4g})"
        line = f"{self.name}: {self.value:.4g}{spread} {self.unit}".rstrip()
        if self.target is None:
            return line
        return f"{line}; target {self.target}: {'holds' if self.holds else 'falls short'}"


class Report:
    """Prints figures as they come and remembers them."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.figures: list[Figure] = []
        print(f"{title}\n{machine()}\n{versions()}", flush=True)

    def add(self, figure: Figure) -> None:
        """Print a figure and keep it."""
        self.figures.append(figure)
        print(figure, flush=True)

    def say(self, text: str) -> None:
        """Print a line that is no figure."""
        print(f"  {text}", flush=True)

    def finish(self, file: Path | None) -> int:
        """Write the JSON when asked and return the exit code: 1 when a target is missed."""
        missed = [figure.name for figure in self.figures if not figure.holds]
        if file is not None:
            figures = [asdict(figure) | {"holds": figure.holds} for figure in self.figures]
            content = {
                "title": self.title,
                "command": sys.argv,
                "machine": machine(),
                "versions": versions(),
                "figures": figures,
            }
            file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print("every target holds" if not missed else f"falls short: {', '.join(missed)}", flush=True)
        return 1 if missed else 0


def machine() -> str:
    """Processor, cores and load."""
    cores = len(os.sched_getaffinity(0))
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    load = os.getloadavg()[0]
    return f"{names[0] if names else platform.machine()}, {cores} cores, load {load:.1f} at the start"


def versions() -> str:
    """Versions of the packages that matter, as far as they are installed."""
    known = []
    for package in PACKAGES:
        try:
            known.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return f"Python {platform.python_version()}, {', '.join(known)}"


def options(description: str | None, parts: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The options that every program has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under a minute; too little for a claim")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures, raw ones included")
    if parts:
        parser.add_argument("--only", choices=parts, action="append", help="a part; may be repeated")
    return parser


def interleave(arms: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run arms in the order A B B A A B B A ..., so that a drift of the machine hits both alike.

    Args:
        arms: what to run, by name; each returns its measurement.
        repeats: measurements of each arm.

    Returns:
        The measurements of each arm, in the order of the repeats.
    """
    results: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(repeats):
        names = list(arms) if repeat % 2 == 0 else list(arms)[::-1]
        for name in names:
            results[name].append(arms[name]())
    return results


def ratio(
    name: str, results: Mapping[str, Sequence[float]], over: str, under: str, target: Target | None = None
) -> Figure:
    """The median over repeats of one arm's measurement divided by another's of the same repeat."""
    ratios = [a / b for a, b in zip(results[over], results[under], strict=True)]
    return Figure(
        name=name,
        value=statistics.median(ratios),
        target=target,
        low=min(ratios),
        high=max(ratios),
        raw={over: list(results[over]), under: list(results[under])},
    )


def median_of(name: str, values: Sequence[float], unit: str = "", target: Target | None = None) -> Figure:
    """The median of repeats with their spread."""
    return Figure(
        name=name,
        value=statistics.median(values),
        unit=unit,
        target=target,
        low=min(values),
        high=max(values),
        raw={"repeats": list(values)},
    )
