"""Timing on a shared machine: candidates are interleaved and compared by the median of their paired ratios."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


def interleaved(candidates: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each candidate, one after the other `repeats` times, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(repeats + 1):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    """Median over rounds of one's time over the other's."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {f"{name}_ms": round(statistics.median(values), 2) for name, values in times.items()}


def show(result: dict[str, object], as_json: bool) -> None:
    print(json.dumps(result) if as_json else "\n".join(f"{key:32} {value}" for key, value in result.items()))
