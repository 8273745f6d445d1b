"""Which prefixes an objective trains, from the words of a setting."""

from __future__ import annotations

from itertools import pairwise

from monosem.shapes import InputError


def parse_budgets(text: str, k: int) -> tuple[int, ...]:
    """J of the hierarchical objective: `all`, `stride:8`, `pow2` (both with k), or numbers within 1..k."""
    if text == "all":
        return tuple(range(1, k + 1))
    if text == "pow2":
        return tuple(sorted({1 << power for power in range(k.bit_length())} | {k}))
    word, _, number = text.partition(":")
    if word == "stride" and number.isdecimal() and int(number) > 0:
        return tuple(sorted({*range(int(number), k + 1, int(number)), k}))
    return _numbers("budgets", text, k, "all, stride:8, pow2, or numbers such as 8,16,32")


def parse_weights(text: str, budgets: tuple[int, ...]) -> tuple[float, ...]:
    """The weight of each budget, to sum 1: `uniform`, `1/j`, or as many numbers as budgets."""
    if text in ("uniform", "1/j"):
        raw = [1.0 if text == "uniform" else 1 / budget for budget in budgets]
    else:
        raw = [_number("budget_weights", part) for part in text.split(",")]
        if len(raw) != len(budgets) or min(raw) < 0 or not sum(raw) < float("inf") or raw[-1] <= 0:
            raise InputError(
                f"budget_weights = {text}: expected uniform, 1/j, or {len(budgets)} numbers of at least 0 "
                "(one for each budget), the last above 0"
            )
    return tuple(weight / sum(raw) for weight in raw)


def parse_widths(text: str, n_latents: int) -> tuple[int, ...]:
    """Prefixes of a Matryoshka dictionary: `pow2` (F/16, F/8, F/4, F/2, F), or numbers ending at F."""
    if text == "pow2":
        return tuple(sorted({max(1, n_latents >> power) for power in range(5)}))
    widths = _numbers("widths", text, n_latents, "pow2, or numbers such as 512,2048,8192")
    if widths[-1] != n_latents:
        raise InputError(
            f"widths = {text}: the last one has to be n_latents = {n_latents}, so that every latent learns"
        )
    return widths


def _numbers(name: str, text: str, most: int, expected: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"{name} = {text!r}: expected {expected}")
    numbers = tuple(int(part) for part in parts)
    if numbers[0] < 1 or numbers[-1] > most or any(one >= other for one, other in pairwise(numbers)):
        raise InputError(f"{name} = {text}: expected ascending numbers within 1..{most}")
    return numbers


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{name}: {text!r} is not a number") from None
