"""First-letter absorption of an arm: the words are read once, every autoencoder encodes the same activations."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from monosem.disk import cache_folder, digest
from monosem.interpret.absorption_gate import Truth, probe_letters
from monosem.interpret.absorption_task import absorption_of
from monosem.interpret.first_letter import first_letters
from monosem.interpret.probing_example import Labelled, Read, read_examples, read_with
from monosem.lm import LanguageModel
from monosem.reproduce import recording
from monosem.reproduce.arm import Measured
from monosem.reproduce.data import Data
from monosem.reproduce.scale import Scale
from monosem.sae import SAE


class Words(NamedTuple):
    """What was read of the words, and the probe of their letters."""

    read: Read
    truth: Truth


def absorption(sae: SAE, data: Data, scale: Scale) -> Measured:
    """`absorption`: means over letters of fraction, full absorption and main latents; or why it is not measurable."""
    if data.text is None or not scale.extra["words"]:
        return {}
    sae.info = sae.info | data.text.info
    words = known(sae, scale)
    found = absorption_of({"arm": sae}, read_with(sae, "arm", words.read), words.truth)
    if found.gate:
        return {"absorption": {"gate": found.gate}}
    row = found.rows["arm"]
    means = {key: round(getattr(row, key).value, 6) for key in ("fraction", "full", "splits")}
    return {"absorption": {**means, "l0": round(found.settings["l0"]["arm"], 3), "letters": len(row.letters)}}


_KNOWN: dict[str, Words] = {}


def known(sae: SAE, scale: Scale) -> Words:
    """The words of this scale's model and site, from the cache folder where they were read before."""
    lm = recording.model(scale)
    examples = _examples(lm, scale.extra["words"])
    place = {key: sae.info.get(key) for key in ("site", "exclusion")}
    code = digest([lm.identity(), str(lm.dtype), place, examples.source, examples.settings])
    if code not in _KNOWN:
        read = read_examples({"arm": sae}, lm, examples, keep=cache_folder() / "probing")
        _KNOWN[code] = Words(read, probe_letters(read))
    return _KNOWN[code]


@cache
def _examples(lm: LanguageModel, words: int) -> Labelled:
    return first_letters(lm.tokenizer, per_letter=words)
