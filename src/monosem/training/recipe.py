"""The autoencoders that can be asked for by name: points on the axes, with their start from a first batch.

A name joins words by `+`, one at most of each axis: `kron+hierarchical`, `batch_topk+matryoshka+frozen_decoder`. An
axis without a word has its default: a dense encoder, the rule topk, the objective reconstruction, all trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from monosem import kernels
from monosem.sae import SAE, BatchTopK, DenseEncoder, JumpReLU, KronEncoder, ReLU, Rule, TopK, groups
from monosem.sae.encoder import Encoder
from monosem.sae.fit import Nesting, Whole
from monosem.sae.flops import dense_cost, encoder_cost
from monosem.sae.folder import build, describe
from monosem.sae.hierarchical import Hierarchical
from monosem.sae.matryoshka import Matryoshka
from monosem.sae.objective import Objective
from monosem.sae.penalty import L1, NoPenalty, Penalty, TargetL0
from monosem.sae.rule import RULES
from monosem.shapes import InputError, KronShape
from monosem.training.budget import parse_budgets, parse_weights, parse_widths
from monosem.training.config import TrainConfig
from monosem.training.control import BESIDE, CONTROLS, Control, check_rank
from monosem.training.core import check_name, needed
from monosem.training.draw import generator
from monosem.training.role import ROLES, Role, plain_core


class RuleRecipe(NamedTuple):
    """A rule and the penalty that goes with it."""

    rule: Callable[[TrainConfig], Rule]
    penalty: Callable[[TrainConfig], Penalty]


ENCODER_WORDS: dict[str, Callable[[TrainConfig, int], Encoder]] = {
    "dense": lambda c, d_in: DenseEncoder(d_in, c.n_latents),
    "kron": lambda c, d_in: KronEncoder(
        d_in, c.n_latents, **kron_shape(c)._asdict(), gate=c.gate, clamp=c.gate_clamp, revival=c.revival
    ),
}
RULE_WORDS: dict[str, RuleRecipe] = {
    "topk": RuleRecipe(lambda c: TopK(c.n_latents, c.k), lambda c: NoPenalty()),
    "batch_topk": RuleRecipe(lambda c: BatchTopK(c.n_latents, c.k), lambda c: NoPenalty()),
    "jumprelu": RuleRecipe(lambda c: JumpReLU(c.n_latents, c.bandwidth), lambda c: TargetL0(float(c.k))),
    "relu": RuleRecipe(lambda c: ReLU(c.n_latents), lambda c: L1(c.l1)),
}
OBJECTIVE_WORDS: dict[str, Callable[[TrainConfig], Nesting]] = {
    "reconstruction": lambda c: Whole(),
    "hierarchical": lambda c: _hierarchical(c),
    "matryoshka": lambda c: Matryoshka(parse_widths(c.widths, c.n_latents)),
}
REFUSED: dict[tuple[str, str], str] = {
    ("kron", "jumprelu"): "a Kronecker encoder has no learned thresholds: use topk or batch_topk",
    ("kron", "relu"): "under relu a quarter of all pairs of a Kronecker encoder fires: use topk or batch_topk",
    ("batch_topk", "hierarchical"): "budgets need a fixed number of ranked latents a token: use topk",
    ("jumprelu", "hierarchical"): "budgets need a fixed number of ranked latents a token: use topk",
    ("relu", "hierarchical"): "budgets need a fixed number of ranked latents a token: use topk",
    **{
        (word, "pca"): "principal components have an encoder and a number of latents of their own: write pca alone"
        for word in ("kron", "batch_topk", "jumprelu", "relu", "hierarchical", "matryoshka")
    },
    **{
        (word, "finetuned"): "a fine-tuned core keeps its own encoder and rule: write finetuned alone"
        for word in ("kron", "batch_topk", "jumprelu", "relu", "hierarchical", "matryoshka")
    },
    **{
        ("kron", role): "the core's latents have a row each, which a Kronecker encoder has not: use a dense one"
        for role in ("extended_random", "extended_active")
    },
}
"""Pairs of words that do not go together, and why. Every other combination works (docs/design.md)."""
BESIDE_A_CORE = {
    "general": "is watched",
    "domain": "names what is trained",
    "core_k": "is for baselines",
}
"""Settings that mean something only beside a core, and what."""


class Recipe(NamedTuple):
    """One word of each axis."""

    encoder: str
    rule: str
    objective: str
    control: str = "trained"
    role: str | None = None


def recipe(name: str) -> Recipe:
    """What a name means. Raises `InputError` for unknown words, two of one axis, and refused pairs."""
    axes = (ENCODER_WORDS, RULE_WORDS, OBJECTIVE_WORDS, CONTROLS, ROLES)
    chosen: list[str | None] = [None] * len(axes)
    for word in name.split("+"):
        axis = next((number for number, words in enumerate(axes) if word in words), None)
        if axis is None:
            raise InputError(
                f"unknown autoencoder {name!r}: join words by +, one of {', '.join(ENCODER_WORDS)}, one of "
                f"{', '.join(RULE_WORDS)}, one of {', '.join(OBJECTIVE_WORDS)}, one of {', '.join(CONTROLS)}; "
                f"beside a core, one of {', '.join(ROLES)}"
            )
        if chosen[axis] is not None:
            raise InputError(f"{name!r} names two of one kind, {chosen[axis]} and {word}: keep one")
        chosen[axis] = word
    usual = ("dense", "topk", "reconstruction", "trained")
    found = Recipe(*(word or default for word, default in zip(chosen, usual, strict=False)), role=chosen[4])
    if found.control == "held_core" and not (found.role and ROLES[found.role].extends):
        raise InputError(f"{name!r}: only what extends a core can hold the core's latents, as extended_random does")
    for pair, reason in REFUSED.items():
        if set(pair) <= set(found):
            raise InputError(f"{name!r}: {reason}")
    return found


def with_controls(config: TrainConfig) -> TrainConfig:
    """The settings with every autoencoder to train; with `controls`, those of each that names none, and one pca.

    A transcoder has no principal components. Raises `InputError` for unknown words.
    """
    if not config.controls:
        return config
    plain = [name for name in config.sae if recipe(name).control == "trained"]
    beside = [f"{name}+{control}" for name in plain for control in BESIDE]
    names = [*config.sae, *beside, *([] if config.transcodes else ["pca"])]
    return replace(config, sae=tuple(dict.fromkeys(names)))


def role_of(name: str, config: TrainConfig) -> Role | None:
    """What an autoencoder is to the core, if settings name one. Raises `InputError` for a role without a core."""
    named = recipe(name).role
    if config.core is None:
        if named is not None:
            raise InputError(f"{name!r} is trained beside a core: give its folder as core, or leave {named} out")
        return None
    return ROLES[named or "residual"]


def make_control(name: str) -> Control:
    """What is held in training, and what replaces it."""
    return CONTROLS[recipe(name).control]()


def kron_shape(config: TrainConfig) -> KronShape:
    """h, m and n of the settings; h is what n_latents leaves if it is not given. Raises `InputError`."""
    pairs = config.base * config.extension
    heads = config.heads if config.heads is not None else config.n_latents // pairs
    return KronShape(heads, config.base, config.extension).check(config.n_latents)


def check(name: str, config: TrainConfig) -> None:
    """Everything that can be wrong before activations are read. Raises `InputError`."""
    made, role = recipe(name), role_of(name, config)
    for key, does in BESIDE_A_CORE.items():
        if config.core is None and getattr(config, key) is not None:
            raise InputError(
                f"{key} = {getattr(config, key)} {does} beside a core: give its folder as core, or leave {key} out"
            )
    if role is not None and role.residual:
        check_name(config)
    if made.control == "pca" and config.core is not None:
        raise InputError(f"{name!r} is no control beside a core: leave it out")
    if made.control == "pca" and config.transcodes:
        raise InputError(f"{name!r} explains the site it reads, and {config.target} is another: leave it or target out")
    make_objective(name, config)
    if made.encoder != "kron":
        return
    ENCODER_WORDS["kron"](config, 1)
    head = config.base * config.extension
    if made.objective == "matryoshka":
        wrong = [width for width in parse_widths(config.widths, config.n_latents) if width % head]
        if wrong:
            raise InputError(f"width {wrong[0]} cuts a head of {head} latents (base · extension): use multiples of it")


def make(
    name: str, config: TrainConfig, first: Float[Tensor, "B D"], target: Float[Tensor, "B E"] | None = None
) -> tuple[SAE, Objective]:
    """A new autoencoder, initialised from a first batch of raw activations, and its objective.

    With a first batch of another site's activations, a transcoder that predicts them.
    """
    check(name, config)
    made = recipe(name)
    if made.control == "pca":
        check_rank(config.k, first.shape[1])
    first, target = first.cpu().float(), None if target is None else target.cpu().float()
    sae = blank(name, config, first.shape[1], None if target is None else target.shape[1])
    role, sized = role_of(name, config), effective(name, config)
    if role is None:
        sae.initialise(first, generator(config), target)
    else:
        role.start(sae, sized, first, target)
    objective = make_objective(name, config)
    if isinstance(sae.rule, JumpReLU) and isinstance(objective.penalty, TargetL0):
        known = None if role is None else role.thresholds(config)
        start, k = (first.new_empty(0), sized.k) if known is None else (known.to(first), config.k)
        with torch.no_grad():
            sae.rule.threshold.copy_(_thresholds(sae.pre_acts(first), start, k))
        objective.penalty.initialise(sae.rule.threshold, sae.d_out)
    return sae, objective


def blank(name: str, config: TrainConfig, d_in: int, d_out: int | None = None) -> SAE:
    """The autoencoder a name means, its weights zero; with `d_out`, the width of another site, a transcoder."""
    made, config = recipe(name), effective(name, config)
    if made.role == "finetuned":
        return build(describe(plain_core(config)))
    role = role_of(name, config)
    extends = role is not None and role.extends
    skip = config.skip if role is None else role.skips(config)
    return SAE(
        ENCODER_WORDS[made.encoder](config, d_in),
        RULE_WORDS[made.rule].rule(config),
        d_out=d_out,
        skip=skip,
        subtract_b_dec=d_out is None if config.subtract_b_dec is None else config.subtract_b_dec,
        info={"held_latents": needed(config).sae.n_latents} if extends else None,
    )


def make_objective(name: str, config: TrainConfig) -> Objective:
    """The loss a recipe trains with."""
    made, config = recipe(name), effective(name, config)
    return Objective(
        RULE_WORDS[rule_word(name, config)].penalty(config),
        _nesting_of(needed(config).sae) if made.role == "finetuned" else OBJECTIVE_WORDS[made.objective](config),
        aux_coefficient=config.aux,
        k_aux=2 * config.k if config.k_aux is None else config.k_aux,
    )


def rule_word(name: str, config: TrainConfig) -> str:
    """The rule an autoencoder is trained with: a fine-tuned core keeps its own, and groups with thresholds are one.

    Without any positive threshold that is `relu`: there is none to raise.
    """
    made = recipe(name)
    if made.role != "finetuned":
        return made.rule
    rules = needed(config).sae.rules
    if all(isinstance(rule, ReLU) or (isinstance(rule, JumpReLU) and _flat(rule)) for rule in rules):
        return "relu"
    return "jumprelu" if len(rules) > 1 else next(word for word, kind in RULES.items() if type(rules[0]) is kind)


def effective(name: str, config: TrainConfig) -> TrainConfig:
    """The settings with k at the last budget: ranks after it would be selected and never learn.

    Principal components are two latents each, have no other number of them, and are taken about the mean.
    """
    made, role = recipe(name), role_of(name, config)
    if role is not None:
        config = role.settings(config)
    if made.control == "pca":
        return replace(config, n_latents=2 * config.k, subtract_b_dec=True)
    if made.objective != "hierarchical":
        return config
    return replace(config, k=parse_budgets(config.budgets, config.k)[-1])


def budgeted(name: str, config: TrainConfig, d_in: int) -> TrainConfig:
    """The settings of one autoencoder: with equal = flops, its tokens cost what a dense TopK's would.

    Decoder rows that a role leaves as they are are not normalised.
    """
    config = replace(config, unit_decoder=effective(name, config).unit_decoder)
    if config.equal == "tokens" or recipe(name).encoder == "dense":
        return config
    spent = encoder_cost(ENCODER_WORDS["kron"](config, d_in), d_in, config.k).total
    granted = dense_cost(d_in, config.n_latents, d_in, config.k).total
    return replace(config, tokens=max(config.batch, round(config.tokens * granted / spent)))


@torch.no_grad()
def _thresholds(pre: Float[Tensor, "B F"], known: Float[Tensor, " C"], k: int) -> Float[Tensor, " F"]:
    """Those known, then one for all other latents that makes their mean L0 on a first batch equal k."""
    new = pre[:, len(known) :].contiguous()
    found = kernels.batch_topk(new, k).values.min() if new.shape[1] else pre.new_zeros(())
    return torch.cat([known, found.expand(new.shape[1])])


def _flat(rule: JumpReLU) -> bool:
    return not bool((rule.threshold > 0).any())


def _nesting_of(core: SAE) -> Nesting:
    """The objective that a core says it was trained with; the whole for one that says nothing, and for a sum."""
    ranks, widths = core.info.get("budgets"), core.info.get("widths")
    if len(groups(core)) > 1:
        return Whole()
    if ranks and isinstance(core.rule, TopK):
        kept = [pair for pair in zip(ranks["J"], ranks["weights"], strict=True) if pair[0] <= core.rule.k]
        return Hierarchical(*map(tuple, zip(*kept, strict=True))) if kept else Whole()
    return Matryoshka(tuple(widths)) if widths else Whole()


def _hierarchical(config: TrainConfig) -> Hierarchical:
    budgets = parse_budgets(config.budgets, config.k)
    return Hierarchical(budgets, parse_weights(config.budget_weights, budgets))
