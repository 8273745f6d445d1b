"""What a report is about, in sentences that state only what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from monosem.evaluation.provenance import whereabouts
from monosem.report.subject import Subject
from monosem.shapes import Site
from monosem.shapes.exclusion import Exclusion


def title(subjects: list[Subject]) -> str:
    """The sites and models that the report is about."""
    origins = [subject.evaluation["provenance"] for subject in subjects]
    sites = list(dict.fromkeys(whereabouts(origin) for origin in origins))
    models = list(dict.fromkeys(origin["model"]["name"] for origin in origins))
    return f"Sparse autoencoders of {', '.join(sites)} in {', '.join(models)}"


def about(subjects: list[Subject]) -> list[str]:
    """One sentence for each row of `SENTENCES`; where autoencoders differ, one for each with their names."""
    found = []
    for sentence in SENTENCES:
        said: dict[str, list[str]] = {}
        for subject in subjects:
            said.setdefault(sentence(subject), []).append(subject.name)
        for text, names in said.items():
            found.append(text if len(said) == 1 else f"{', '.join(names)}: {text}")
    return [text for text in found if text]


def _model(subject: Subject) -> str:
    info, origin = subject.sae.info, subject.evaluation["provenance"]
    site, model = Site.parse(origin["site"]), origin["model"]
    source, note = info.get("model_source") or "", model["quantisation"]
    weights = "" if not note or note in source else f" Weights: {note}."
    return (
        f"{site}: {site.meaning}, {subject.sae.d_in} numbers a token. {_target(subject)}"
        f"{model['name']}: a {model['model_type']} model of {model['n_layers']} layers, "
        f"run in {model['dtype']}. "
        f"{source}{weights}".strip()
    )


def _target(subject: Subject) -> str:
    """What a transcoder predicts."""
    if "target" not in subject.evaluation["provenance"]:
        return ""
    target = Site.parse(subject.evaluation["provenance"]["target"])
    skip = "" if subject.sae.W_skip is None else ", with a linear skip connection"
    return (
        f"Predicted from it{skip} is {target}: {target.meaning}, {subject.sae.d_out} numbers a token; explained "
        f"variance and losses are about {target}. "
    )


def _training(subject: Subject) -> str:
    training, text = subject.sae.info.get("training"), subject.sae.info.get("text")
    if not training or not text:
        return "How they were trained was not recorded."
    return (
        f"Trained on {training['tokens']:,} tokens, {training['distinct_tokens']:,} of them distinct, of {_text(text)}."
    )


def _rounding(subject: Subject) -> str:
    lost = subject.sae.info.get("rounding") or {}
    return " ".join(
        f"Activations were stored in {row['dtype']}, which loses {row['unexplained_variance']:.1e} of their variance "
        f"against the model in float32 ({row['tokens']:,} tokens)."
        for row in lost.values()
    )


def _exclusion(subject: Subject) -> str:
    rule = Exclusion(**subject.sae.info["exclusion"])
    return f"Tokens {rule}; they are left out of training, evaluation and feature statistics."


def _evaluation(subject: Subject) -> str:
    evaluation, origin = subject.evaluation, subject.evaluation["provenance"]
    losses = origin["loss"]["tokens"]
    return (
        f"Evaluated on {evaluation['n_tokens']:,} tokens of {_text(origin['text'])}; "
        f"{evaluation['n_excluded']:,} more were excluded. "
        + (f"Losses are means over {losses:,} of them." if losses else "Losses were not measured.")
    )


def _statistics(subject: Subject) -> str:
    metadata = subject.features.metadata
    return (
        f"Features are described on {metadata['n_tokens']:,} tokens of "
        f"{_text(metadata['provenance']['text'])}. "
        "Attention may cross documents inside a window."
    )


def _machine(subject: Subject) -> str:
    origin, training = subject.evaluation["provenance"], subject.sae.info.get("training")
    version = f" with monosem {origin['monosem']}" if origin["monosem"] else ""
    trained = (
        f"Trained on {training['machine']} with {training['threads']} threads and torch {training['torch']}. "
        if training
        else ""
    )
    return (
        f"{trained}Evaluated on {origin['device']} with {origin['threads']} threads and torch "
        f"{origin['torch']}{version}."
    )


SENTENCES: tuple[Callable[[Subject], str], ...] = (
    _model,
    _training,
    _rounding,
    _exclusion,
    _evaluation,
    _statistics,
    _machine,
)


def _text(identity: Mapping[str, Any]) -> str:
    """A text by name, part and revision, as far as they are known."""
    parts = [str(identity.get("corpus", "an unnamed text"))]
    notes = {
        "split": "{} part",
        "revision": "revision {}",
        "length": "windows of {} tokens",
    }
    known = [form.format(identity[key]) for key, form in notes.items() if key in identity]
    known += ["of conversations what the assistant says"] * bool(identity.get("assistant_only"))
    known += [f"the hub's commit {identity['dataset']['commit'][:12]}"] if "dataset" in identity else []
    return parts[0] + (f" ({', '.join(known)})" if known else "")
