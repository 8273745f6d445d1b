"""What a notebook shows of a language model, and of an autoencoder spliced into one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monosem.lm.spelling import Spelling
from monosem.shapes import card

if TYPE_CHECKING:
    from monosem.lm.model import LanguageModel
    from monosem.lm.splice import Splice

SHOWN = 40
"""Tokens of a pass that are shown."""


def model_card(lm: LanguageModel) -> str:
    """Name, family, sizes, precision, where it is from, and its sites."""
    kinds = list(dict.fromkeys(site.kind for site in lm.sites()))
    return card.card(
        lm.name,
        {
            "family": lm.model.config.model_type,
            "layers": f"{lm.n_layers}, width {lm.d_model:,}, vocabulary {lm.vocab_size:,}",
            "runs in": f"{str(lm.dtype).removeprefix('torch.')} on {lm.device}",
            "sites": f"{', '.join(kinds)} (.0 to .{lm.n_layers - 1})" if kinds else "any module, by its path",
            "source": lm.source,
        },
    )


def splice_card(splice: Splice, tokenizer: Any) -> str:
    """Where it is, and the strongest features of each token of the last pass."""
    where = f"{splice.site}" if splice.site == splice.target else f"{splice.site} → {splice.target}"
    if not splice.ran:
        return card.card(f"splice at {where}", {"features": "no forward pass has run inside it yet"})
    tokens, codes = splice.tokens, splice.edited
    ids = None if tokens.ids is None else tokens.ids.flatten().tolist()[:SHOWN]
    words = [f"token {place}" for place in range(SHOWN)] if ids is None else list(map(Spelling(tokenizer).word, ids))
    kept = splice.kept.flatten().tolist()
    rows = [
        [str(place), words[place], "" if kept[place] else "left out", *firing]
        for place, firing in enumerate(codes.described(SHOWN))
    ]
    shape = " × ".join(map(str, splice.kept.shape))
    more = f"the first {SHOWN} of {codes.rows:,} tokens" if codes.rows > SHOWN else ""
    return card.card(
        f"splice at {where}",
        {"last pass": f"{shape} tokens, {int(splice.kept.sum()):,} of them replaced"},
        card.table(["", "token", "", "L0", "strongest features"], rows, more),
    )
