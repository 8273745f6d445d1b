"""A paper: its claims, the data and scales they are tested on, what is measured on every arm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module

from monosem.reproduce import STUDIES
from monosem.reproduce.arm import Arm, Family
from monosem.reproduce.claim import Claim
from monosem.reproduce.data import Dataset
from monosem.reproduce.measure import Measure
from monosem.reproduce.scale import Scale
from monosem.shapes import InputError


def silent(scale: Scale) -> str:
    """Nothing to add."""
    return ""


@dataclass(frozen=True)
class Study:
    """`revision` is raised when the same settings come to mean other figures: older rows are then not reused."""

    name: str
    paper: str
    title: str
    claims: tuple[Claim, ...]
    scales: dict[str, Scale]
    families: dict[str, Family]
    data: dict[str, Dataset]
    measures: tuple[Measure, ...]
    about: Callable[[Scale], str] = silent
    reads: bool = False
    """Whether some claims need a judge that reads."""
    cost: Callable[[Scale, int], str] = lambda scale, runs: ""
    """What somebody who is asked will be asked, for so many arms, where a scale names a judge."""
    beside: Callable[[Scale], float] = lambda scale: 0.0
    """Seconds that measuring an arm takes beside what noise shows."""
    revision: int = 1

    def arms(self, scale: Scale, claim: Claim) -> list[Arm]:
        """The arms of a claim, each with its data."""
        return [replace(arm, data=arm.data or scale.data) for arm in claim.arms(scale)]

    def representative(self, scale: Scale, family: str) -> Arm:
        """The arm that learning rates of a family are compared with."""
        arm = self.families[family].representative(scale)
        return replace(arm, data=arm.data or scale.data)


def open_study(name: str) -> Study:
    """Raises `InputError` for a name that is not in the table."""
    return import_module(f"monosem.reproduce.{_known(name, STUDIES, 'study')}").STUDY


def chosen_scale(study: Study, name: str) -> Scale:
    """Raises `InputError` for a scale the study does not have."""
    return study.scales[_known(name, study.scales, "scale")]


def with_judge(study: Study, scale: Scale, judge: str) -> Scale:
    """The scale with somebody to ask. Raises `InputError` for a study that asks nobody."""
    if not study.reads:
        raise InputError(f"--judge {judge}: {study.name} asks nobody; monosem reproduce interpretability does")
    return replace(scale, extra={**scale.extra, "judge": judge})


def chosen_claims(study: Study, asked: str | None) -> list[Claim]:
    """`B1,B2` as claims, all if nothing is asked for. Raises `InputError` for an id the study does not have."""
    claims = {claim.id: claim for claim in study.claims}
    if asked is None:
        return list(claims.values())
    names = [_known(name.strip(), claims, f"claim of {study.name}") for name in asked.split(",")]
    return [claim for claim in study.claims if claim.id in names]


def _known(name: str, table: dict, kind: str) -> str:
    if name in table:
        return name
    close = get_close_matches(name, table, 1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise InputError(f"unknown {kind} {name!r}{hint}: choose from {', '.join(table)}")
