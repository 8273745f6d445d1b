"""The report as one HTML file that loads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from monosem.disk import whole_file
from monosem.evaluation import promotes
from monosem.interpret.caption import caption
from monosem.lm import LanguageModel
from monosem.lm.spelling import Spelling
from monosem.report import budget, choice, cost, feature, plot
from monosem.report.about import about, title
from monosem.report.choice import Choice
from monosem.report.colour import colour
from monosem.report.feature import Feature
from monosem.report.mark import marked
from monosem.report.number import short
from monosem.report.parent import shape_of
from monosem.report.subject import Subject
from monosem.report.table import COLUMNS, table
from monosem.shapes import InputError


class Section(NamedTuple):
    """The features of one autoencoder; `units` says what an activation of 1 means.

    `factors`: its latents have two parents each.
    """

    name: str
    colour: str
    units: str
    n_latents: int
    n_tokens: int
    choice: Choice
    promotes: bool
    factors: bool
    strongest: list[Feature]
    random: list[Feature]


def write_report(
    path: str | Path,
    subjects: list[Subject],
    lm: LanguageModel,
    *,
    command: str,
    n_features: int = 12,
    seed: int = 0,
) -> Path:
    """Write the report of `subjects`, in their order, with `n_features` of each kind from each of them.

    `command` is shown as what made it; `seed` draws the random latents and contexts. The same arguments give
    the same bytes. Raises `InputError` for parts that do not belong together or to the model `lm`.
    """
    _check(subjects, lm, n_features)
    spelling = Spelling(lm.tokenizer)
    text = (
        environment()
        .get_template("page.html.j2")
        .render(
            subjects=subjects,
            title=title(subjects),
            about=about(subjects),
            command=command,
            seed=seed,
            columns=COLUMNS,
            rows=table(COLUMNS, subjects),
            colours=[colour(place) for place in range(len(subjects))],
            pictures=plot.pictures(plot.PLOTS, subjects) if plot.available() else None,
            budgets=budget.lines(subjects),
            budget_headings=[heading for heading, _ in budget.FIGURES.values()],
            budget_pictures=plot.pictures(budget.PLOTS, subjects) if plot.available() else None,
            cost_columns=(cost_columns := cost.columns(subjects)),
            costs=table(cost_columns, subjects),
            remarks=cost.remarks(subjects),
            rule=choice,
            top=feature.TOP,
            sections=[
                _section(place, subject, lm, spelling, n_features, seed) for place, subject in enumerate(subjects)
            ],
        )
    )
    with whole_file(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def _section(
    place: int, subject: Subject, lm: LanguageModel, spelling: Spelling, n_features: int, seed: int
) -> Section:
    chosen = Choice(subject.features, n_features, seed)
    shown = [*chosen.strongest, *chosen.random]
    strongest, random = (
        feature.features(subject, lm, spelling, latents, seed, shown) for latents in (chosen.strongest, chosen.random)
    )
    return Section(
        subject.name,
        colour(place),
        _units(subject.features.metadata),
        subject.features.n_latents,
        subject.features.n_tokens,
        chosen,
        promotes(subject.sae, lm),
        shape_of(subject.sae) is not None,
        strongest,
        random,
    )


def _units(metadata: dict[str, Any]) -> str:
    if metadata["space"] == "raw":
        return "those of the model's activations"
    return f"those of the model's activations times {metadata['scale']:.4g}"


def environment() -> Environment:
    """Templates of this room, with what they need to show tokens and numbers."""
    folder = Path(__file__).parent
    found = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"marked": marked, "short": short, "caption": caption}
    return found


def _check(subjects: list[Subject], lm: LanguageModel, n_features: int) -> None:
    if not subjects:
        raise InputError("no autoencoder was given to report on: give at least one")
    if n_features < 1:
        raise InputError(f"{n_features} features were asked for: give a number of at least 1")
    if len({subject.name for subject in subjects}) < len(subjects):
        names = ", ".join(subject.name for subject in subjects)
        raise InputError(f"two autoencoders share a name ({names}): give each its own")
    identity = lm.identity()
    for subject in subjects:
        if subject.features.n_latents != subject.sae.n_latents:
            raise InputError(
                f"{subject.name} has {subject.sae.n_latents} latents and its feature statistics "
                f"{subject.features.n_latents}: gather them again with this autoencoder"
            )
        for origin in (subject.evaluation["provenance"], subject.features.metadata["provenance"]):
            if any(origin["model"][key] != identity[key] for key in ("fingerprint", "tokenizer")):
                raise InputError(
                    f"{subject.name} was measured with the model {origin['model']['name']}, the report was "
                    f"given {lm.name}, whose weights or tokenizer differ: give the same model"
                )
