"""Running a language model through autoencoders: their features can be read, changed, and differentiated by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast, get_args, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.lm import edit as edits
from monosem.lm.card import splice_card
from monosem.lm.edit import Amount, Edit, Latents
from monosem.lm.running import Tokens, running
from monosem.shapes import InputError, Site
from monosem.shapes.codes import Codes
from monosem.shapes.exclusion import Exclusion

if TYPE_CHECKING:
    from monosem.lm.model import LanguageModel

Gradient = Literal["through", "past"]


class Autoencoder(Protocol):
    """What is spliced in: `monosem.SAE`, or anything that offers the same."""

    info: dict[str, Any]
    d_in: int
    d_out: int
    training: bool
    W_dec: Any

    def codes(self, x: Float[Tensor, "B T D"], /) -> Codes: ...

    def decode(self, codes: Codes, x: Float[Tensor, "B T D"], /) -> Float[Tensor, "B T E"]: ...

    def train(self, mode: bool = True, /) -> Any: ...


class Pass(NamedTuple):
    """What one forward pass left at a splice."""

    tokens: Tokens
    acts: Codes
    edited: Codes
    error: Float[Tensor, "B T E"]
    output: Float[Tensor, "B T E"]
    kept: Bool[Tensor, "B T"]


class Splice:
    """One autoencoder in a running model: it reads at `site` and writes at `target`, the same for all but transcoders.

    What it holds is that of the last forward pass, also after the block. Gradients are kept on `acts.values`,
    `edited.values` and `output`.
    """

    def __init__(
        self, sae: Autoencoder, site: Site, target: Site, tokenizer: Any, *, error: bool, gradient: Gradient
    ) -> None:
        self.sae, self.site, self.target, self._tokenizer = sae, site, target, tokenizer
        self._error, self._past = error, gradient == "past"
        self._edits: list[Edit] = []
        self._pass: Pass | None = None

    @property
    def acts(self) -> Codes:
        """Features as encoded, before any edit, [B, T] tokens; none at tokens that are left out."""
        return self._last().acts

    @property
    def edited(self) -> Codes:
        """Features as decoded: `acts` after the edits."""
        return self._last().edited

    @property
    def attribution(self) -> Codes:
        """Feature times gradient after `metric.backward()`: to first order, what each adds to the metric.

        Raises `InputError` where no gradient has come back.
        """
        values = self.acts.values
        if values.grad is None:
            raise InputError(
                f"no gradient has come back to {self.target}: outside torch.no_grad(), call backward() on a number "
                "made of the logits"
            )
        return replace(self.acts, values=values.detach() * values.grad)

    @property
    def error(self) -> Float[Tensor, "B T E"]:
        """What the autoencoder leaves unexplained, in raw units, without gradient; 0 at tokens that are left out."""
        return self._last().error

    @property
    def output(self) -> Float[Tensor, "B T E"]:
        """What the model went on with."""
        return self._last().output

    @property
    def kept(self) -> Bool[Tensor, "B T"]:
        """Where the activation was replaced."""
        return self._last().kept

    @property
    def tokens(self) -> Tokens:
        """What the pass was given."""
        return self._last().tokens

    def edit(self, fn: Edit) -> Splice:
        """Change the codes of every following pass by `fn(codes)`, after earlier edits.

        `fn` gets `Codes` of [B, T] tokens and returns `Codes`, or a dense tensor [B, T, F]; while generating T is 1
        after the prompt.
        """
        self._edits.append(fn)
        return self

    def scale(self, latents: Latents, factor: float) -> Splice:
        """Multiply features by `factor` where they are active."""
        return self.edit(lambda codes: edits.scale(codes, latents, factor))

    def set(self, latents: Latents, value: Amount) -> Splice:
        """Give features a value at every token, also where they are not active; a tensor gives one for each token."""
        return self.edit(lambda codes: edits.put(codes, latents, value))

    def ablate(self, latents: Latents) -> Splice:
        """Set features to 0."""
        return self.edit(lambda codes: edits.ablate(codes, latents))

    def add(self, latents: Latents, amount: Amount) -> Splice:
        """Add to features at every token, also where they are not active; a tensor gives an amount for each token."""
        return self.edit(lambda codes: edits.add(codes, latents, amount))

    def reset(self) -> Splice:
        """Forget all edits."""
        self._edits.clear()
        return self

    @property
    def ran(self) -> bool:
        """Whether a forward pass has reached it."""
        return self._pass is not None

    def _repr_html_(self) -> str:
        return splice_card(self, self._tokenizer)

    def _last(self) -> Pass:
        if self._pass is None:
            raise InputError(f"no forward pass has reached {self.target} inside the splice: call lm.logits(tokens)")
        return self._pass

    def _write(self, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T E"], tokens: Tokens, kept: Tensor) -> Tensor:
        """The activation that replaces `y` at the target, given `x` at the site, where `kept`.

        With the error term it is y + decode(edited) − decode(acts), which is y to the last bit without an edit;
        y − decode(acts) counts as a constant (arXiv 2403.19647).
        """
        x, target = x.to(self.sae.W_dec), y.to(self.sae.W_dec)
        x = x.detach() if self._past else x
        kept = kept.to(x.device)
        acts = _tracked(_only(self.sae.codes(x), kept))
        recon = self.sae.decode(acts, x)
        edited = self._changed(acts, kept)
        new = recon if edited is acts else self.sae.decode(edited, x)
        if self._error:
            new = (target if self._past else target.detach()) + (new - recon.detach())
        elif self._past:
            new = new + (target - target.detach())
        output = torch.where(kept.to(y.device)[..., None], new.to(y), y)
        if output.requires_grad and not output.is_leaf:
            output.retain_grad()
        error = torch.where(kept[..., None], (target - recon).detach(), 0.0)
        self._pass = Pass(tokens, acts, edited, error, output, kept)
        return output

    def _changed(self, acts: Codes, kept: Bool[Tensor, "B T"]) -> Codes:
        if not self._edits:
            return acts
        # An edit may write into what it is given: `acts` stays as it was.
        codes = replace(acts, values=acts.values.clone())
        for change in self._edits:
            codes = _as_codes(change(codes), acts)
        return _retained(_only(codes, kept))


class Splices(Mapping[Site, Splice]):
    """Several splices by the site they read, in the order of computation; TransformerLens names are understood."""

    def __init__(self, lm: LanguageModel, splices: Iterable[Splice]) -> None:
        self._lm, self._splices = lm, {splice.site: splice for splice in splices}

    def __getitem__(self, site: str | Site) -> Splice:
        found = self._lm.site(site)
        if found not in self._splices:
            raise InputError(f"no autoencoder is spliced in at {found}, only at {', '.join(map(str, self))}")
        return self._splices[found]

    def __iter__(self) -> Iterator[Site]:
        return iter(self._splices)

    def __len__(self) -> int:
        return len(self._splices)


@overload
def splice(
    lm: LanguageModel,
    sae: Mapping[Any, Autoencoder] | Sequence[Autoencoder],
    site: None = None,
    *,
    error: bool = True,
    exclude: bool = True,
    keep: Bool[Tensor, "B T"] | None = None,
    gradient: Gradient = "through",
) -> AbstractContextManager[Splices]:
    """Several autoencoders."""
    ...


@overload
def splice(
    lm: LanguageModel,
    sae: Autoencoder,
    site: str | Site | None = None,
    *,
    error: bool = True,
    edit: Edit | None = None,
    exclude: bool = True,
    keep: Bool[Tensor, "B T"] | None = None,
    gradient: Gradient = "through",
) -> AbstractContextManager[Splice]:
    """One autoencoder."""
    ...


def splice(
    lm: LanguageModel,
    sae: Any,
    site: str | Site | None = None,
    *,
    error: bool = True,
    edit: Edit | None = None,
    exclude: bool = True,
    keep: Bool[Tensor, "B T"] | None = None,
    gradient: Gradient = "through",
) -> AbstractContextManager[Splice] | AbstractContextManager[Splices]:
    """Run the model through an autoencoder: inside the block every forward pass goes on from its reconstruction.

    with lm.splice(sae) as spliced:          # at sae.info["site"], with its error term: the model is unchanged
        spliced.set(17, 8.0)                 # until features are edited
        lm.logits(tokens)
        lm.model.generate(tokens)
    spliced.acts                             # Codes of the last pass, [B, T] tokens

    `site` is where it reads (default: what it was trained at); a transcoder writes at `sae.info["target"]`. A mapping
    {site: autoencoder}, or a list, splices in several and gives a mapping of splices: a later one sees what an
    earlier one changed. `error`: what the reconstruction lacks is added, as a constant. `edit`: as `Splice.edit`.

    Tokens that the rule stored with the autoencoder leaves out (positions, special tokens, norms at its own site) and
    padding keep their activation; `exclude=False` replaces all but padding, `keep` [B, T] says itself where to
    replace. `gradient`: upstream of the splice they pass `through` encoder and decoder, as the model now computes,
    or `past` them, as if the model were unchanged (what the code of arXiv 2403.19647 does for attribution with
    several autoencoders). Parameters that require a gradient get theirs. Autoencoders are in evaluation mode inside.

    Raises `InputError` for a site that is missing, unknown or of another width, and for an edit that returns
    something else than codes.
    """
    if gradient not in get_args(Gradient):
        raise InputError(f"gradient = {gradient!r}: give through or past")
    several = isinstance(sae, (Mapping, Sequence))
    if several and (site is not None or edit is not None):
        raise InputError("site and edit belong to one autoencoder: give {site: sae}, and edit with spliced[site].edit")
    pairs = _pairs(sae) if several else [(site, sae)]
    found = [_placed(lm, one, at, error=error, gradient=gradient) for at, one in pairs]
    _check_apart(found)
    if edit is not None:
        found[0].edit(edit)
    rules = [Exclusion.of(one.sae.info) if exclude else None for one in found]
    result = Splices(lm, _ordered(lm, found)) if several else found[0]
    return cast(Any, _spliced(lm, dict(zip(found, rules)), _given(keep), result))


def _pairs(saes: Mapping[Any, Autoencoder] | Sequence[Autoencoder]) -> list[tuple[Any, Autoencoder]]:
    if not saes:
        raise InputError("no autoencoder was given: give at least one")
    return list(saes.items()) if isinstance(saes, Mapping) else [(None, one) for one in saes]


def _placed(lm: LanguageModel, sae: Autoencoder, site: str | Site | None, *, error: bool, gradient: Gradient) -> Splice:
    """A splice with its two sites. Raises `InputError` where the widths do not fit."""
    asked = sae.info.get("site") if site is None else site
    if asked is None:
        raise InputError("the autoencoder does not say its site: give one, such as lm.splice(sae, 'resid_post.12')")
    read = lm.site(asked)
    target = lm.site(sae.info["target"]) if sae.info.get("target") else read
    for at, width, what in ((read, sae.d_in, "reads"), (target, sae.d_out, "writes")):
        if lm.width(at) != width:
            raise InputError(
                f"the autoencoder {what} activations of width {width}, {at} of {lm.name} has width {lm.width(at)}: "
                "use the model and site it was trained on"
            )
    return Splice(sae, read, target, lm.tokenizer, error=error, gradient=gradient)


def _check_apart(splices: list[Splice]) -> None:
    """One splice a reading and a written site: else which one is meant by a site, and their order, is not said."""
    for place in ("site", "target"):
        sites = [getattr(one, place) for one in splices]
        for site in sites:
            if sites.count(site) > 1:
                raise InputError(
                    f"two autoencoders {'read' if place == 'site' else 'write'} at {site}: put one block in the other, "
                    "with lm.splice(first) as a, lm.splice(second) as b"
                )


def _ordered(lm: LanguageModel, splices: list[Splice]) -> list[Splice]:
    """In the order in which the model reaches what they write; a module path keeps its place after all others."""
    order = {site: place for place, site in enumerate(lm.sites())}
    return sorted(splices, key=lambda one: order.get(one.target, len(order)))


def _given(keep: Tensor | None) -> Callable[[Tensor], Tensor] | None:
    """A check that `keep` fits the pass it is used in."""
    if keep is None:
        return None

    def fitting(like: Tensor) -> Tensor:
        if keep.shape != like.shape or keep.dtype != torch.bool:
            raise InputError(
                f"keep has shape {tuple(keep.shape)} and type {keep.dtype}, the pass has tokens {tuple(like.shape)}: "
                "give booleans of that shape"
            )
        return keep.to(like.device)

    return fitting


@contextmanager
def _spliced(
    lm: LanguageModel,
    rules: Mapping[Splice, Exclusion | None],
    keep: Callable[[Tensor], Tensor] | None,
    result: Splice | Splices,
) -> Iterator[Splice | Splices]:
    with ExitStack() as stack:
        current = stack.enter_context(running(lm))
        for one in _ordered(lm, list(rules)):
            stack.callback(one.sae.train, one.sae.training)
            one.sae.train(False)
            stack.enter_context(_installed(lm, one, rules[one], keep, current))
        yield result


@contextmanager
def _installed(
    lm: LanguageModel,
    one: Splice,
    rule: Exclusion | None,
    keep: Callable[[Tensor], Tensor] | None,
    current: Callable[[], Tokens],
) -> Iterator[None]:
    held: list[Tensor] = []

    def hold(x: Float[Tensor, "B T D"]) -> None:
        held[:] = [x]

    def write(y: Float[Tensor, "B T E"]) -> Float[Tensor, "B T E"]:
        x = y if one.site == one.target else held.pop()
        tokens = current()
        if keep is not None:
            kept = keep(tokens.positions)
        else:
            out = tokens.padding
            if rule is not None:
                out = out | rule.mask(tokens.special, {one.site: x, one.target: y}, tokens.positions)
            kept = ~out
        return one._write(x, y, tokens, kept)

    with ExitStack() as stack:
        if one.site != one.target:
            stack.enter_context(lm.hooks({one.site: hold}))
        stack.enter_context(lm.hooks({one.target: write}))
        yield


def _only(codes: Codes, kept: Bool[Tensor, "B T"]) -> Codes:
    """Stored values of tokens that are left out as zeros, which are not active."""
    flat = kept.reshape(codes.rows)
    there = flat[:, None] if codes.offsets is None else flat[codes.entry_rows()]
    return replace(codes, values=torch.where(there, codes.values, 0.0))


def _tracked(codes: Codes) -> Codes:
    """Codes whose values keep their gradient; where nothing before them needs one, the graph begins here."""
    if torch.is_grad_enabled() and not codes.values.requires_grad:
        return replace(codes, values=codes.values.detach().requires_grad_())
    return _retained(codes)


def _retained(codes: Codes) -> Codes:
    if codes.values.requires_grad and not codes.values.is_leaf:
        codes.values.retain_grad()
    return codes


def _as_codes(changed: Any, like: Codes) -> Codes:
    """What an edit returned. Raises `InputError` unless it is for the same tokens and latents."""
    if isinstance(changed, Tensor) and changed.shape == like.shape:
        return Codes(changed.reshape(like.rows, like.n_latents), None, like.n_latents, None, like.leading)
    fits = isinstance(changed, Codes) and (changed.rows, changed.n_latents) == (like.rows, like.n_latents)
    if not fits:
        given = tuple(changed.shape) if isinstance(changed, (Tensor, Codes)) else type(changed).__name__
        raise InputError(f"the edit returned {given}: return Codes, or a dense tensor, of shape {like.shape}")
    return replace(changed, leading=like.leading)
