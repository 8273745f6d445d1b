"""The deactivation experiment: remove a feature's predecessors at one token and see what is left of it.

arXiv 2502.03032, sections 4.2 and 5.2, appendix A.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.disk import digest
from monosem.flow.coactivation import chosen, involved, kept
from monosem.flow.deactivation import Deactivation
from monosem.flow.design import Design
from monosem.flow.match import Match, Matcher
from monosem.flow.occurrence import Occurrence, Setup, codes_of
from monosem.flow.predecessor import predecessors
from monosem.flow.rerun import Clean, Rerun, clean_pass
from monosem.flow.suite import Suite
from monosem.flow.trial import Matched, Method, RandomActive, RandomDirection
from monosem.lm import LanguageModel
from monosem.progress import Bar, progress
from monosem.shapes import InputError, Site
from monosem.text import Windows

_VERSION = 1  # raise it when the same design gives other trials


def deactivate(
    suite: Suite,
    lm: LanguageModel,
    windows: Windows,
    matchers: Sequence[Matcher],
    layers: Sequence[int],
    design: Design | None = None,
    *,
    keep: Path | None = None,
) -> Deactivation:
    """Success and activation change of removing what matchers call predecessors; the first matcher is the reference.

    z_old > 0 always; success is z_new = 0, activation change 1 − z_new/z_old, both over targets with an active
    predecessor. z_new is what the autoencoder's rule gives at the token as it is evaluated. `keep`: a folder in which
    finished windows are stored and found again. Raises `InputError`.
    """
    parts = list(deactivations(suite, lm, windows, matchers, layers, design, keep=keep))
    return Deactivation.joined(parts)


def deactivations(
    suite: Suite,
    lm: LanguageModel,
    windows: Windows,
    matchers: Sequence[Matcher],
    layers: Sequence[int],
    design: Design | None = None,
    *,
    keep: Path | None = None,
) -> Iterator[Deactivation]:
    """`deactivate` window by window, so that what is finished can be shown before the rest is."""
    found = _Experiment(suite, lm, windows, matchers, layers, design or Design())
    where = None if keep is None else keep / digest(found.identity())
    with progress("deactivating", found.moments, "moments") as bar:
        for index in range(len(windows.tokens)):
            path = None if where is None else where / f"{found.name_of(index)}.safetensors"
            if path is not None and path.exists():
                bar.advance(found.moments // len(windows.tokens))
                yield Deactivation.load(path, found.names)
                continue
            one = found.window(index, bar)
            if path is not None:
                one.save(path)
            yield one


class _Experiment:
    """What stays the same over all windows: matches, methods, sites."""

    def __init__(
        self,
        suite: Suite,
        lm: LanguageModel,
        windows: Windows,
        matchers: Sequence[Matcher],
        layers: Sequence[int],
        design: Design,
    ) -> None:
        self.suite, self.lm, self.windows, self.design = suite, lm, windows, design
        self.layers = list(dict.fromkeys(layers))
        named = {matcher.name: matcher for matcher in matchers}
        if not named or len(named) < len(matchers) or not self.layers:
            raise InputError("give at least one matcher, each once, and at least one layer")
        self.matched = [Matched(name, self._matches(one), design.r) for name, one in named.items()]
        reference = self.matched[0]
        controls: list[Method] = [RandomActive(reference), RandomDirection(reference)] if design.controls else []
        self.setup = Setup(suite, lm, design, (*self.matched, *controls), len(self.matched))
        self.names = self.setup.names
        self.sites = list(dict.fromkeys(site for layer in self.layers for site in involved(suite, layer)))
        # The stream before each layer is where runs of it begin, also where the suite has no autoencoder there.
        self.read = list(dict.fromkeys([*self.sites, *(Site("resid_post", one - 1) for one in self.layers if one)]))
        self.passes = 0

    @property
    def moments(self) -> int:
        return len(self.windows.tokens) * self.design.tokens * len(self.layers)

    def _matches(self, matcher: Matcher) -> dict[int, dict[str, Match]]:
        return {layer: predecessors(self.suite, layer, matcher).matches for layer in self.layers}

    def identity(self) -> dict[str, Any]:
        """What decides the trials of a window, beside its tokens: JSON-able."""
        contents = hashlib.sha256()
        for one in self.matched:
            for layer in self.layers:
                for match in one.matches[layer].values():
                    contents.update(match.indices.numpy().tobytes())
        return {
            "version": _VERSION,
            "design": asdict(self.design),
            "layers": self.layers,
            "methods": self.names,
            "matches": contents.hexdigest(),
            "autoencoders": {str(site): self.suite.hash(site) for site in self.sites},
            "model": [self.lm.fingerprint(), str(self.lm.dtype)],
        }

    def name_of(self, index: int) -> str:
        """A file name for a window: its place, from which draws are made, and its tokens."""
        tokens = hashlib.sha256(self.windows.tokens[index].numpy().tobytes())
        tokens.update(self.windows.special[index].numpy().tobytes())
        return f"{index}-{tokens.hexdigest()[:16]}"

    @torch.no_grad()
    def window(self, index: int, bar: Bar) -> Deactivation:
        """All trials of one window."""
        clean = clean_pass(self.lm, self.windows.tokens[index], self.read)
        acts = {site: clean.acts[site][None] for site in self.sites}
        keep = kept(self.suite, self.windows.special[index][None], acts)
        keep[:, -1] = False  # the loss needs a next token
        places = chosen(keep[0], self.design.tokens, np.random.default_rng([self.design.seed, index]))
        elsewhere = {layer: self._codes(clean, keep[0], layer) for layer in self.layers if self.design.exhaustive}
        found: list[dict[str, Any]] = []
        for position in places.nonzero()[:, 0].tolist():
            run = Rerun(self.lm, clean, position, self.design.rows)
            base = run.activations(self.read)
            for layer in self.layers:
                key = (self.design.seed, index, position, layer)
                at = Occurrence(self.setup, clean, run, base, key, elsewhere.get(layer, {}))
                found += [{"window": index, "position": position, "layer": layer, **one} for one in at.trials()]
                self.passes += at.passes
                bar.advance(1, passes=self.passes)
        bar.advance((self.design.tokens - int(places.sum())) * len(self.layers))
        return Deactivation.of(self.names, found)

    def _codes(self, clean: Clean, keep: Bool[Tensor, " T"], layer: int) -> dict[str, Float[Tensor, "N G"]]:
        """Of every kept token of the window, by origin."""
        origins = self.suite.before(Site("resid_post", layer))
        return {
            origin: codes_of(self.suite, site, clean.acts[site][keep.to(clean.acts[site].device)])
            for origin, site in origins.items()
        }
