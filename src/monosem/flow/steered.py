"""The result of a comparison: texts of every setting, scores by every judge, means and paired differences."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from monosem import __version__
from monosem.flow.offline import Offline, Scored, correlations
from monosem.flow.rating import Rated, rate
from monosem.flow.steering import Mode
from monosem.flow.sweep import FORMAT, PLAIN, VERSION, Sweep, Texts
from monosem.interpret.interval import bootstrap
from monosem.interpret.judge import Judge

Scores = dict[str, float]
"""Of one text, by judge and what it says: `offline: coherence`; NaN where it is missing."""


class Row(NamedTuple):
    """One setting: what it wrote, and the scores of every text in the same order."""

    texts: Texts
    scores: list[Scores]


def scored(
    sweep: Sweep,
    found: Sequence[Texts],
    mode: Mode,
    *,
    offline: Offline | None = None,
    judge: Judge | None = None,
    subjects: Sequence[str] = (),
) -> tuple[list[Row], dict[str, Any]]:
    """Every text scored by those judges that there are, and what the judges are, JSON-able.

    The mean loss by the plain model is always there.
    """
    prompts = [ids.tolist() for ids in sweep.ids()]
    rows = [Row(one, [{"loss": loss} for loss in one.losses]) for one in found]
    said: dict[str, Any] = {}
    if offline is not None:
        every: list[Scored] = []
        for row in rows:
            own = offline.score(row.texts.samples(prompts), row.texts.losses)
            every += own
            for scores, one in zip(row.scores, own):
                scores |= _flat(one)
        said["offline"] = offline.describe() | {"rank correlations": correlations(every)}
    if judge is not None:
        rated = rate(judge, [one.text for texts in found for one in texts.written], subjects, mode)
        for scores, one in zip((scores for row in rows for scores in row.scores), rated.ratings, strict=True):
            scores |= _graded(judge.name, one.coherence, one.behaviour, one.total(mode))
        said[judge.name] = {"form": rated.form, "subjects": list(subjects)} | _counts(rated)
    return rows, said


def to_json(
    sweep: Sweep, rows: Sequence[Row], judges: Mapping[str, Any], mode: Mode, extra: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The whole result, what is missing as None.

    Scores are means with 95 % intervals over texts; differences are to the plain text, in pairs.
    """
    plain = next((row for row in rows if row.texts.setting.name == PLAIN), None)
    found = {
        "format": FORMAT,
        "version": VERSION,
        "monosem": __version__,
        "mode": mode,
        **sweep.describe(),
        "judges": dict(judges),
        **(extra or {}),
        "rows": [_row(row, plain) for row in rows],
    }
    # JSON has no word for NaN.
    return json.loads(json.dumps(found), parse_constant=lambda _: None)


def best(rows: Sequence[Row], metric: str) -> dict[str, dict[str, Any]]:
    """Of every family of settings the one with the greatest mean on even samples, and its mean on odd ones.

    A family has one strategy, schedule and baseline; strength and layer are chosen. So the choice is made on other
    texts than the figure. Means leave out missing scores; families of one setting have no choice and are left out.
    """
    families: dict[str, dict[str, tuple[float, float]]] = {}
    for row in rows:
        axes = row.texts.setting.axes or {}
        if axes.get("strength") is None or metric not in row.scores[0]:
            continue
        halves = [
            [scores[metric] for one, scores in zip(row.texts.written, row.scores) if one.sample % 2 == half]
            for half in (0, 1)
        ]
        kept = [[value for value in half if not math.isnan(value)] for half in halves]
        if kept[0] and kept[1]:
            parts = [axes["strategy"], axes["schedule"]["shape"], axes.get("baseline")]
            family = families.setdefault(", ".join(part for part in parts if part and part != "constant"), {})
            family[row.texts.setting.name] = (float(np.mean(kept[0])), float(np.mean(kept[1])))
    found = {}
    for name, family in families.items():
        if len(family) > 1:
            chosen = max(family, key=lambda one: family[one][0])
            found[name] = {"setting": chosen, "chosen on": family[chosen][0], "scored on": family[chosen][1]}
    return found


def _row(row: Row, plain: Row | None) -> dict[str, Any]:
    texts, setting = row.texts, row.texts.setting
    metrics = list(row.scores[0]) if row.scores else []
    return {
        "name": setting.name,
        "axes": dict(setting.axes or {}),
        "words": setting.words,
        "steering": None if setting.steering is None else dict(setting.steering.info),
        "tokens": None if setting.steering is None else setting.steering.tokens,
        "norms": {str(site): norm._asdict() for site, norm in texts.norms.items()},
        "relative_norm": texts.relative_norm,
        "scores": {key: _mean([scores[key] for scores in row.scores]) for key in metrics},
        "minus_plain": {} if plain is None or plain is row else _minus(row, plain, metrics),
        "texts": [one.to_json() | {"scores": scores} for one, scores in zip(texts.written, row.scores)],
    }


def _minus(row: Row, plain: Row, metrics: Sequence[str]) -> dict[str, Any]:
    """Differences in pairs: the same prompt and the same noise."""
    own = {(one.prompt, one.sample): scores for one, scores in zip(plain.texts.written, plain.scores)}
    pairs = [(own[one.prompt, one.sample], scores) for one, scores in zip(row.texts.written, row.scores)]
    return {key: _mean([after[key] - before[key] for before, after in pairs]) for key in metrics}


def _mean(values: Sequence[float]) -> dict[str, float]:
    kept = [value for value in values if not math.isnan(value)]
    return {**bootstrap(kept)._asdict(), "missing": len(values) - len(kept)}


def _flat(one: Scored) -> Scores:
    found = {"offline: coherence": one.coherence.value}
    found |= {f"offline: behaviour ({name})": value for name, value in one.behaviour.items()}
    return found | {f"offline: total ({name})": value for name, value in one.total.items()}


def _graded(name: str, coherence: float | None, behaviour: Mapping[str, float | None], total: float | None) -> Scores:
    """Missing grades are NaN, never 0; the theme's grade first, those of other subjects are side effects."""
    first, *others = behaviour
    found = {f"{name}: coherence": coherence, f"{name}: behaviour": behaviour[first], f"{name}: total": total}
    found |= {f"{name}: side effect ({subject})": behaviour[subject] for subject in others}
    return {key: math.nan if value is None else value for key, value in found.items()}


def _counts(rated: Rated) -> dict[str, int]:
    return {"texts": len(rated.ratings), "asked again": rated.malformed, "missing": rated.missing}
