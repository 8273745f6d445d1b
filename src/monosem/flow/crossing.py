"""One reading of a text for all ways past all layers: reconstructions, errors and losses, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float32, Float64, Int
from torch import Tensor

from monosem.evaluation.loss import Source, cross_entropy, log_probabilities, loss
from monosem.evaluation.replacement import replace_kept
from monosem.evaluation.variation import Variation
from monosem.flow.passage import Part, Passage, Tally, in_each
from monosem.flow.shortcut import Passing, Shortcut, Way
from monosem.flow.suite import Suite
from monosem.lm import LanguageModel
from monosem.progress import Bar
from monosem.shapes import Site
from monosem.shapes.exclusion import Exclusion
from monosem.text.window import Windows


class Pair:
    """Two neighbouring layers, the shortcuts between them and what they have done so far."""

    def __init__(self, suite: Suite, source: Site, target: Site, ways: Sequence[Way]) -> None:
        self.source, self.target, self.sae = source, target, suite[source]
        self.shortcuts = {way.name: way.at(suite, source, target) for way in ways}
        self.tallies = {name: Tally() for name in self.shortcuts}

    def recons(self, acts: dict[Site, Float32[Tensor, "B D"]]) -> dict[str, tuple[Shortcut, Float32[Tensor, "B D"]]]:
        device = self.sae.W_dec.device
        earlier, later = (acts[site].to(device) for site in (self.source, self.target))
        given = Passing(earlier, later, self.sae.codes(earlier))
        return {name: (one, one.make(given)) for name, one in self.shortcuts.items()}

    def passages(self, variations: dict[Site, Variation], clean: list[float], tokens: list[float]) -> list[Passage]:
        found = []
        for name, tally in self.tallies.items():
            place = self.shortcuts[name].place
            terms, offset = tally.explained(variations[place])
            losses = tally.losses(clean, tokens)
            found.append(Passage(self.source, self.target, name, place, terms, offset, losses))
        return found


class Crossing:
    """One reading of the text."""

    def __init__(
        self,
        lm: LanguageModel,
        windows: Windows,
        pairs: list[Pair],
        rules: list[Exclusion],
    ) -> None:
        self.lm, self.windows, self.pairs, self.rules = lm, windows, pairs, rules
        self.sites = list(dict.fromkeys(site for pair in pairs for site in (pair.source, pair.target)))
        self.variations = {site: Variation() for site in self.sites}
        self.limited = [lm.site(name) for rule in rules for name in rule.max_norm]
        self.tokens = 0
        self.clean: list[float] = []
        self.counts: list[float] = []

    @torch.no_grad()
    def read(self, part: slice, losses: bool, bar: Bar) -> None:
        """Add a batch of windows, at its end: one that is interrupted adds nothing."""
        tokens = self.windows.tokens[part]
        acts = self.lm.capture(tokens, dict.fromkeys([*self.sites, *self.limited]))
        keep = ~torch.stack([rule.mask(self.windows.special[part], acts) for rule in self.rules]).any(0)
        bar.advance(tokens.numel())
        counts = in_each(keep.sum(1))
        if not counts:
            return
        kept = {site: acts[site][keep.to(acts[site].device)].float() for site in self.sites}
        clean = self._clean(tokens, keep.to(self.lm.device)) if losses else None
        added: list[tuple[Tally, Part]] = []
        for pair in self.pairs:
            for name, (shortcut, recon) in pair.recons(kept).items():
                ce = [] if clean is None else clean.replaced(self.lm, shortcut.place, recon).tolist()
                added.append((pair.tallies[name], Part.of(recon, kept[shortcut.place].to(recon), counts, ce)))
                bar.advance(tokens.numel() if losses else 0, layer=pair.target.layer)
        self._add(kept, counts, clean, added)

    def _add(
        self, kept: dict[Site, Tensor], counts: list[int], clean: Unchanged | None, added: list[tuple[Tally, Part]]
    ) -> None:
        self.tokens += sum(counts)
        for site, variation in self.variations.items():
            for window in kept[site].split(counts):
                variation.update(window)
        for tally, part in added:
            tally.add(part)
        if clean is not None:
            self.clean += clean.source.by_window(cross_entropy(clean.log_p, clean.source.targets)).tolist()
            self.counts += clean.source.tokens().tolist()

    def _clean(self, tokens: Int[Tensor, "B T"], keep: Bool[Tensor, "B T"]) -> Unchanged | None:
        """The unchanged model on these windows; None where no kept token has a next one."""
        source = Source.of(tokens.to(self.lm.device), keep)
        if not len(source.targets):
            return None
        return Unchanged(tokens, keep, source, log_probabilities(self.lm.logits(tokens), source))

    def passages(self) -> list[Passage]:
        """What every way has done so far."""
        return [one for pair in self.pairs for one in pair.passages(self.variations, self.clean, self.counts)]


class Unchanged(NamedTuple):
    """What the unchanged model says of some windows."""

    tokens: Int[Tensor, "B T"]
    keep: Bool[Tensor, "B T"]
    source: Source
    log_p: Float32[Tensor, "S V"]

    def replaced(self, lm: LanguageModel, place: Site, recon: Float32[Tensor, "N D"]) -> Float64[Tensor, " B"]:
        """Cross-entropy of each window with the kept tokens of a place replaced."""
        with lm.hooks({place: lambda act: replace_kept(act, self.keep, recon)}):
            return loss(lm.logits(self.tokens), self.log_p, self.source).ce


def rules_of(suite: Suite, sites: Sequence[Site]) -> list[Exclusion]:
    """The different rules of the autoencoders: a token that one leaves out is left out."""
    rules: list[Exclusion] = []
    for site in sites:
        rule = Exclusion.of(suite[site].info, str(site))
        rules += [] if rule in rules else [rule]
    return rules
