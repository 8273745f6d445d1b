"""One feature as a notebook shows it: where it fires, and what it promotes."""

from __future__ import annotations

from typing import NamedTuple

from monosem.evaluation import FeatureStatistics, promoted, promotes
from monosem.lm import LanguageModel
from monosem.lm.spelling import Spelling
from monosem.report.context import Line, Span, line
from monosem.report.number import short
from monosem.sae import SAE
from monosem.shapes import InputError, card


class Portrait(NamedTuple):
    """A latent: the share of tokens it fires on, its mean and greatest activation, tokens, and strongest contexts.

    `promoted` and `suppressed` are empty where decoder rows are no directions of the residual stream.
    """

    latent: int
    density: float
    mean: float
    max: float
    promoted: list[str]
    suppressed: list[str]
    contexts: list[Line]

    def _repr_html_(self) -> str:
        rows = {
            "fires": f"on {100 * self.density:.3g} % of tokens, mean {short(self.mean)}, max {short(self.max)}",
            "promotes": " · ".join(self.promoted),
            "suppresses": " · ".join(self.suppressed),
        }
        return card.card(f"feature {self.latent}", rows, *(_context(one) for one in self.contexts))


def read_feature(
    statistics: FeatureStatistics, latent: int, lm: LanguageModel, sae: SAE | None = None, *, contexts: int = 5
) -> Portrait:
    """A latent from its statistics; tokens that it promotes need its autoencoder as well.

    Raises `InputError` for a latent that does not exist, and for an autoencoder of another size.
    """
    if sae is not None and sae.n_latents != statistics.n_latents:
        raise InputError(
            f"the autoencoder has {sae.n_latents} latents and the statistics {statistics.n_latents}: "
            "give those of this autoencoder"
        )
    spelling = Spelling(lm.tokenizer)
    up, down = _words(sae, lm, latent, spelling) if sae is not None and promotes(sae, lm) else ([], [])
    return Portrait(
        latent,
        statistics.density(latent),
        statistics.mean(latent),
        statistics.max(latent),
        up,
        down,
        [line(context, latent, statistics, spelling) for context in statistics.top(latent, contexts)],
    )


def _words(sae: SAE, lm: LanguageModel, latent: int, spelling: Spelling) -> tuple[list[str], list[str]]:
    found = promoted(sae, lm, [latent], min(8, lm.vocab_size))
    up, down = ([spelling.word(token) for token in ids[0].tolist()] for ids in (found.top_ids, found.bottom_ids))
    return up, down


def _context(one: Line) -> str:
    text = card.shaded((span.text, span.share, _said(span)) for span in one.spans)
    before, after = ("…" if more else "" for more in (one.before, one.after))
    value = f'<span style="opacity: .7; display: inline-block; min-width: 3.5em">{short(one.value)}</span>'
    return f'<div style="white-space: pre-wrap; margin: .15em 0">{value}{before}{text}{after}</div>'


def _said(span: Span) -> str:
    return ", ".join(short(value) for value in span.values)
