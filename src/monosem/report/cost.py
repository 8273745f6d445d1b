"""What each autoencoder costs: multiply-adds a token, parameters, and which of them are dead."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from monosem.evaluation.per_k import most
from monosem.report.parent import dead_parents, shape_of
from monosem.report.subject import Subject
from monosem.report.table import Cell, Column
from monosem.sae import GroupedEncoder, KronEncoder, flops, groups


def remarks(subjects: Sequence[Subject]) -> list[str]:
    """A sentence for every encoder that is dearer than a dense one."""
    found = []
    for subject in subjects:
        shape, ratio = shape_of(subject.sae), flops.encoder_share(subject.sae)
        if shape is not None and ratio > 1:
            found.append(
                f"{subject.name} has a dearer encoder than a dense autoencoder: h·(m + n) = {shape.n_rows:,} rows for "
                f"{shape.n_latents:,} latents, {ratio:.4g} times the multiply-adds."
            )
    return found


def columns(subjects: Sequence[Subject]) -> list[Column]:
    """Those of `COLUMNS` that say something of at least one autoencoder."""
    return [column for column in COLUMNS if any(column.cell(subject).value for subject in subjects)]


def _encoder(subject: Subject) -> Cell:
    encoder = subject.sae.encoder
    if isinstance(encoder, GroupedEncoder):
        return Cell(" + ".join(f"{group.name} {group.n_latents:,}" for group in groups(subject.sae)))
    if not isinstance(encoder, KronEncoder):
        return Cell("dense")
    heads, base, extension = encoder.shape
    return Cell(f"kron, h {heads}, m {base}, n {extension}, {encoder.gate}")


def _flops(part: str) -> Callable[[Subject], Cell]:
    def cell(subject: Subject) -> Cell:
        return Cell(f"{getattr(flops.cost(subject.sae, _k(subject)), part):,}")

    return cell


def _k(subject: Subject) -> int:
    """Active latents a token: those of its rule, or as many as were measured where their number varies."""
    return most(subject.sae) or round(subject.evaluation["metrics"]["l0"])


def _dead(part: str) -> Callable[[Subject], Cell]:
    def cell(subject: Subject) -> Cell:
        shape = shape_of(subject.sae)
        if shape is None:
            return Cell("")
        return Cell(f"{getattr(dead_parents(shape, subject.features.densities > 0), part):.2%}")

    return cell


COLUMNS = (
    Column(
        "encoder",
        "dense: a row for each latent; kron: h heads of m bases and n extensions, a latent for each pair of these in a "
        "head, and the gate that joins the two",
        _encoder,
    ),
    Column("encoder, multiply-adds", "of the encoder's product with one token", _flops("encoder")),
    Column(
        "encoder ÷ dense",
        "over those of a dense encoder of as many latents; above 1 the encoder is dearer",
        lambda subject: Cell(f"{flops.encoder_share(subject.sae):.4g}"),
    ),
    Column(
        "all, multiply-adds",
        "of one token's forward pass: encoder, products of pre-latents, and k decoder rows (arXiv 2505.22255, eq. 7); "
        "finding the k largest is not in it; k is the mean L0 where it varies",
        _flops("total"),
    ),
    Column(
        "dense ÷ all",
        "multiply-adds of a dense autoencoder of as many latents and the same k over these: how many times the tokens "
        "the same multiply-adds pay for",
        lambda subject: Cell(f"{flops.multiplier(subject.sae, _k(subject)):.4g}"),
    ),
    Column(
        "parameters",
        "numbers learned: encoder, decoder, thresholds",
        lambda subject: Cell(f"{flops.parameters(subject.sae)['total']:,}"),
    ),
    Column(
        "dead latents",
        "share of latents active on no token of the feature statistics",
        lambda subject: Cell(f"{(subject.features.densities == 0).mean():.2%}"),
    ),
    Column("dead bases", "share of bases whose latents with all n extensions are dead", _dead("bases")),
    Column("dead extensions", "share of extensions whose latents with all m bases are dead", _dead("extensions")),
)
