"""Sums of autoencoders that read the same activations: a core and what was trained on its error (arXiv 2507.12990).

x̂ = core(x) + Σ residual_a(x). The sum is an `SAE` with a group of latents for each part, and may be made one plain
autoencoder by `stitch` where every group has thresholds.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.sae.autoencoder import SAE
from monosem.sae.dense import DenseEncoder
from monosem.sae.encoder import Encoder
from monosem.sae.function import decode
from monosem.sae.grouped import GroupedEncoder, GroupRule
from monosem.sae.kron import KronEncoder
from monosem.sae.rule import BatchTopK, JumpReLU, ReLU, Rule
from monosem.shapes import InputError

CORE = "core"
"""The name of the first group."""


class Group(NamedTuple):
    """Latents first … first + n_latents of a composition, and what is known of where they come from."""

    name: str
    first: int
    n_latents: int
    info: dict[str, Any]

    @property
    def latents(self) -> slice:
        return slice(self.first, self.first + self.n_latents)


def groups(sae: SAE) -> list[Group]:
    """The groups of an autoencoder in order; one that is no composition is its own core."""
    stored = sae.info.get("groups") or [{"name": CORE, "n_latents": sae.n_latents, "info": sae.info}]
    found, first = [], 0
    for one in stored:
        found.append(Group(one["name"], first, one["n_latents"], one.get("info", {})))
        first += one["n_latents"]
    return found


def origin(sae: SAE, latent: int) -> tuple[str, int]:
    """The group a latent belongs to, and its number there. Raises `InputError` for a latent that is not there."""
    for group in groups(sae):
        if group.first <= latent < group.first + group.n_latents:
            return group.name, latent - group.first
    raise InputError(f"latent {latent} does not exist: this autoencoder has {sae.n_latents:,}, counted from 0")


@torch.no_grad()
def boosted(core: SAE, residuals: Mapping[str, SAE]) -> SAE:
    """core(x) + Σ residual(x): an autoencoder whose latents are the core's, then those of each residual by name.

    `core` may be a composition itself. Residuals have no decoder bias; each is expressed in the core's units, which
    changes it by rounding. The core's codes keep every bit, and its output does where it stores codes sparsely (dense
    ReLU and stitched ones: to rounding). Weights are copied. Raises `InputError` for widths, sites or targets that
    differ, for names and weights that are there already, and for a residual with a bias or a skip connection.
    """
    parts = _parts(core)
    rows: list[Tensor] = [core.W_dec]
    stored = [_entry(group.name, group.n_latents, group.info) for group in groups(core)]
    for name, residual in residuals.items():
        _check(core, residual, name, {entry["name"] for entry in stored})
        own = _in_units_of(core, residual)
        _check_new(name, _parts(own), [encoder.weight for encoder, _ in parts])
        parts += _parts(own)
        rows.append(own.W_dec)
        stored.append(_entry(name, residual.n_latents, residual.info))
    encoders, rules = zip(*copy.deepcopy(parts), strict=True)
    return _filled(core, GroupedEncoder(encoders), GroupRule(rules), torch.cat(rows), stored)


@torch.no_grad()
def merged(sums: Sequence[SAE]) -> SAE:
    """One core with the residuals of several compositions of it, every bit as it is in them.

    The core is the groups that all of them begin with. Raises `InputError` if that is none, and for a residual that is
    in two of them behind it.
    """
    first, *others = sums
    shared = min((_shared(first, other) for other in others), default=0)
    if others and not shared:
        raise InputError("these are sums with different cores: merge what was trained beside one core")
    parts = _parts(first)
    rows: list[Tensor] = [first.W_dec]
    stored = [_entry(group.name, group.n_latents, group.info) for group in groups(first)]
    for other in others:
        for group, part in list(zip(groups(other), _parts(other), strict=True))[shared:]:
            _check_free(group.name, {entry["name"] for entry in stored})
            _check_new(group.name, [part], [encoder.weight for encoder, _ in parts])
            parts.append(part)
            rows.append(other.W_dec[group.latents])
            stored.append(_entry(group.name, group.n_latents, group.info))
    encoders, rules = zip(*copy.deepcopy(parts), strict=True)
    return _filled(first, GroupedEncoder(encoders), GroupRule(rules), torch.cat(rows), stored)


@torch.no_grad()
def without(sae: SAE, *names: str) -> SAE:
    """A composition without some of its residuals; all that is left keeps every bit, and says what the core says.

    Raises `InputError` for the core and for names that are not there.
    """
    known = groups(sae)
    for name in names:
        if name not in {group.name for group in known[1:]}:
            there = ", ".join(group.name for group in known[1:]) or "none"
            raise InputError(f"no residual {name!r} to take away: this autoencoder has {there}")
    kept = [number for number, group in enumerate(known) if group.name not in names]
    parts = copy.deepcopy([_parts(sae)[number] for number in kept])
    rows = torch.cat([sae.W_dec[known[number].latents] for number in kept])
    if len(parts) == 1:
        (encoder, rule), stored = parts[0], None
    else:
        encoders, rules = zip(*parts, strict=True)
        encoder, rule = GroupedEncoder(encoders), GroupRule(rules)
        stored = [_entry(known[number].name, known[number].n_latents, known[number].info) for number in kept]
    made = _filled(sae, encoder, rule, rows, stored)
    made.info = {key: value for key, value in made.info.items() if key not in KEPT} | known[0].info | _stored(stored)
    return made


@torch.no_grad()
def added(sae: SAE, x: Float[Tensor, "B D"]) -> dict[str, Float[Tensor, "B E"]]:
    """What each residual of a composition adds to the core's output, raw."""
    parts, scaled, found = _parts(sae), x.to(sae.W_dec.dtype) * sae.scale, {}
    for group, (encoder, rule) in list(zip(groups(sae), parts, strict=True))[1:]:
        codes = encoder.select(scaled, rule, sae.centre)
        found[group.name] = decode(codes, sae.W_dec[group.latents]) / sae.out_scale
    return found


@torch.no_grad()
def stitch(sae: SAE) -> SAE:
    """One plain JumpReLU autoencoder that computes the same, to rounding (arXiv 2507.12990, sec. 3.2).

    Latents keep their numbers, and `info["groups"]` their origin. Raises `InputError` for a group without thresholds
    (one TopK over all latents is another function) or without a row for each latent.
    """
    weights, thresholds = [], []
    for group, (encoder, rule) in zip(groups(sae), _parts(sae), strict=True):
        if not isinstance(encoder, DenseEncoder):
            raise InputError(f"{group.name} has a Kronecker encoder, which has no row for each latent: keep the sum")
        weights.append(encoder)
        thresholds.append(_thresholds(group.name, rule, encoder).to(encoder.bias))
    encoder = DenseEncoder(sae.d_in, sae.n_latents).to(sae.W_dec)
    encoder.weight.copy_(torch.cat([one.weight for one in weights]))
    encoder.bias.copy_(torch.cat([one.bias for one in weights]))
    rule = JumpReLU(sae.n_latents).to(sae.W_dec)
    rule.threshold.copy_(torch.cat(thresholds))
    return _filled(sae, encoder, rule, sae.W_dec, sae.info.get("groups"))


def _parts(sae: SAE) -> list[tuple[DenseEncoder | KronEncoder, Rule]]:
    """Encoder and rule of each group; those of a stitched autoencoder are cut out of the whole."""
    if isinstance(sae.encoder, GroupedEncoder):
        return list(zip(sae.encoder, sae.rules, strict=True))
    if len(groups(sae)) > 1:
        return [_cut(sae, group) for group in groups(sae)]
    return [(sae.encoder, sae.rule)]


def _cut(sae: SAE, group: Group) -> tuple[DenseEncoder, Rule]:
    assert isinstance(sae.encoder, DenseEncoder)
    assert isinstance(sae.rule, JumpReLU)
    encoder = DenseEncoder(sae.d_in, group.n_latents).to(sae.W_dec)
    encoder.weight.copy_(sae.encoder.weight[group.latents])
    encoder.bias.copy_(sae.encoder.bias[group.latents])
    rule = JumpReLU(group.n_latents, sae.rule.bandwidth).to(sae.W_dec)
    rule.threshold.copy_(sae.rule.threshold[group.latents])
    return encoder, rule


def _entry(name: str, n_latents: int, info: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "n_latents": n_latents, "info": {key: info[key] for key in KEPT if key in info}}


KEPT = ("name", "text", "training", "seed", "calibration", "core", "budgets")
"""What a group keeps of the autoencoder it was."""


def _stored(entries: list[dict[str, Any]] | None) -> dict[str, Any]:
    return {"groups": entries} if entries else {}


def _filled(like: SAE, encoder: Encoder, rule: Rule, rows: Float[Tensor, "F E"], stored: list | None) -> SAE:
    """An autoencoder in the spaces of another, with its bias and skip connection."""
    info = {key: value for key, value in like.info.items() if key != "groups"} | _stored(stored)
    made = SAE(
        encoder,
        rule,
        d_out=like.d_out,
        scale=like.scale,
        code_scale=like.code_scale,
        out_scale=like._out_scale,
        skip=like.W_skip is not None,
        subtract_b_dec=like.subtract_b_dec,
        info=info,
    ).to(like.W_dec)
    made.W_dec.copy_(rows)
    made.b_dec.copy_(like.b_dec)
    if made.W_skip is not None and like.W_skip is not None:
        made.W_skip.copy_(like.W_skip)
    return made.eval()


def _in_units_of(core: SAE, residual: SAE) -> SAE:
    """The same residual with the core's scales, whose encoder takes off the core's bias if the core's does."""
    own = residual.expressed(core.scale, core._out_scale, core.code_scale)
    if core.centre is not None:
        for encoder, _ in _parts(own):
            encoder.bias.add_(encoder.weight @ core.centre)
    return own


def _check(core: SAE, residual: SAE, name: str, taken: set[str]) -> None:
    _check_free(name, taken)
    if (residual.d_in, residual.d_out) != (core.d_in, core.d_out):
        raise InputError(
            f"{name} maps widths {residual.d_in} to {residual.d_out}, the core {core.d_in} to {core.d_out}: "
            "give a residual of the same site"
        )
    for key, does in (("site", "reads"), ("target", "explains")):
        own, wanted = (one.info.get(key, one.info.get("site")) for one in (residual, core))
        if None not in (own, wanted) and own != wanted:
            raise InputError(f"{name} {does} {own}, the core {wanted}: give a residual of the same site")
    if residual.W_skip is not None or bool(residual.b_dec.any()):
        raise InputError(f"{name} has a decoder bias or a skip connection: residuals are trained with monosem boost")


def _shared(a: SAE, b: SAE) -> int:
    """With how many equal groups two autoencoders of one space begin."""
    spaces = [(one.scale, one.out_scale, one.code_scale, one.subtract_b_dec, one.d_in, one.d_out) for one in (a, b)]
    if spaces[0] != spaces[1] or not _equal([a.b_dec, a.W_skip], [b.b_dec, b.W_skip]):
        return 0
    count = 0
    for one, other in zip(_members(a), _members(b), strict=False):
        if one[:2] != other[:2] or not _equal(one[2], other[2]):
            break
        count += 1
    return count


def _members(sae: SAE) -> list[tuple[tuple[str, int], tuple[Any, ...], list[Tensor | None]]]:
    """What each group is: its name and size, the kinds and configurations of its parts, and all its weights."""
    return [
        (
            (group.name, group.n_latents),
            (type(encoder), encoder.config(), type(rule), rule.config()),
            [sae.W_dec[group.latents], *encoder.state_dict().values(), *rule.state_dict().values()],
        )
        for group, (encoder, rule) in zip(groups(sae), _parts(sae), strict=True)
    ]


def _equal(ours: Sequence[Tensor | None], theirs: Sequence[Tensor | None]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(a is b if a is None or b is None else a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def _check_free(name: str, taken: set[str]) -> None:
    if name in taken:
        raise InputError(f"there is a group {name!r} already: choose another name, or take it away first")


def _check_new(name: str, own: list[tuple[DenseEncoder | KronEncoder, Rule]], weights: list[Tensor]) -> None:
    for encoder, _ in own:
        if any(weight.shape == encoder.weight.shape and torch.equal(weight, encoder.weight) for weight in weights):
            raise InputError(f"{name} is part of this autoencoder already: adding it again would count it twice")


def _thresholds(name: str, rule: Rule, encoder: DenseEncoder) -> Float[Tensor, " F"]:
    if isinstance(rule, JumpReLU):
        return rule.threshold.clamp_min(0)
    if isinstance(rule, ReLU):
        return torch.zeros_like(encoder.bias)
    if isinstance(rule, BatchTopK) and not rule.cut.isnan():
        return rule.cut.clamp_min(0).expand(encoder.n_latents)
    raise InputError(
        f"{name} keeps a fixed number of latents ({type(rule).__name__}), which one rule over all latents cannot: "
        "keep the sum, or train it with batch_topk or jumprelu"
    )
