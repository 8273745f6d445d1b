"""What is known of a latent: a label, tokens that it promotes, how often and how strongly it fires."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from monosem.evaluation import FeatureStatistics, promotes
from monosem.evaluation.promotion import extremes
from monosem.flow.node import Node
from monosem.flow.suite import Suite
from monosem.interpret import Label, labels
from monosem.lm.spelling import Spelling

if TYPE_CHECKING:
    from monosem.lm import LanguageModel

WORDS = 8
_ROWS = 256


class Note(NamedTuple):
    """What is on disk beside the autoencoder, or can be read off the unembedding; None and () where nothing is known.

    `label` is the latest, `judge` whose it is. `density`, `mean` and `max` are those of `features.safetensors`.
    """

    label: str | None = None
    judge: str | None = None
    promoted: tuple[str, ...] = ()
    suppressed: tuple[str, ...] = ()
    density: float | None = None
    mean: float | None = None
    max: float | None = None

    @property
    def caption(self) -> str:
        """The shortest there is to say: the label, else promoted tokens; what cannot be printed is escaped."""
        text = self.label or "  ".join(word.strip() for word in self.promoted[:4])
        return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def notes(nodes: Iterable[Node], suite: Suite, lm: LanguageModel | None = None) -> dict[Node, Note]:
    """What is known of each node; with a model also the tokens that its decoder row promotes and suppresses.

    Raises `InputError` for files beside an autoencoder that are damaged.
    """
    asked = sorted(set(nodes), key=str)
    found = dict.fromkeys(asked, Note()) if lm is None else _with_tokens(asked, suite, lm)
    for site in {node.site for node in asked}:
        folder = suite.folder(site)
        if folder is not None:
            own = [node for node in asked if node.site == site]
            labelled, statistics = labels(folder), _statistics(folder, suite.n_latents(site))
            found |= {node: _described(found[node], node.latent, labelled, statistics) for node in own}
    return found


def _described(note: Note, latent: int, labelled: dict[int, list[Label]], statistics: FeatureStatistics | None) -> Note:
    if latent in labelled:
        note = note._replace(label=labelled[latent][0].text, judge=labelled[latent][0].judge)
    if statistics is not None:
        density, mean, peak = statistics.density(latent), statistics.mean(latent), statistics.max(latent)
        note = note._replace(density=density, mean=mean, max=peak)
    return note


def _with_tokens(nodes: Sequence[Node], suite: Suite, lm: LanguageModel) -> dict[Node, Note]:
    """Tokens of nodes whose decoder rows are directions of the model's stream; one product for many sites."""
    found = dict.fromkeys(nodes, Note())
    writing = [node for node in nodes if promotes(suite[node.site], lm)]
    spelling = Spelling(lm.tokenizer)
    for start in range(0, len(writing), _ROWS):
        part = writing[start : start + _ROWS]
        rows = torch.stack([suite[node.site].W_dec[node.latent].detach().cpu() for node in part])
        up, down = _spelled(rows, lm, spelling)
        found |= {node: Note(promoted=a, suppressed=b) for node, a, b in zip(part, up, down, strict=True)}
    return found


def _spelled(
    rows: torch.Tensor, lm: LanguageModel, spelling: Spelling
) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    ends = extremes(rows, lm, min(WORDS, lm.vocab_size))
    up, down = (
        [tuple(spelling.word(one) for one in row) for row in ids.tolist()] for ids in (ends.top_ids, ends.bottom_ids)
    )
    return up, down


def _statistics(folder: Path, n_latents: int) -> FeatureStatistics | None:
    path = folder / "features.safetensors"
    found = FeatureStatistics.load(path) if path.is_file() else None
    return found if found is not None and found.n_latents == n_latents else None
