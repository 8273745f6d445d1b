"""The control beside a single autoencoder: one of random directions, which has learned nothing."""

from __future__ import annotations

import itertools

import torch

from monosem.disk import cache_folder, digest
from monosem.evaluation import FeatureStatistics, feature_statistics, shared_place
from monosem.evaluation.reading import read
from monosem.lm import LanguageModel
from monosem.sae import SAE, DenseEncoder, TopK
from monosem.text import Windows

_BATCHES, _BATCH = 2, 4


def untrained(
    like: SAE, statistics: FeatureStatistics, lm: LanguageModel, windows: Windows, *, seed: int = 0
) -> tuple[SAE, FeatureStatistics]:
    """As many latents in random directions, as many of them active on a token, and where they fire on the windows.

    What it reads and predicts, and which tokens it leaves out, are those of `like`; its scale and mean are those of the
    first windows. Where it fires is kept in the cache folder. Raises as `feature_statistics`.
    """
    k = min(max(1, round(int(statistics.starts[-1]) / statistics.n_tokens)), like.n_latents)
    sae = _random(like, k, lm, windows, seed)
    place = shared_place({"": like}, lm)
    about = [lm.identity(), dict(windows.identity), str(place), place.exclusion.describe(), like.n_latents, k, seed]
    path = cache_folder() / "random" / f"{digest([*about, windows.tokens.tolist()])}.safetensors"
    if path.exists():
        return sae, FeatureStatistics.load(path)
    (found,) = feature_statistics({"random directions": sae}, lm, windows).values()
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save(path)
    return sae, found


def _random(like: SAE, k: int, lm: LanguageModel, windows: Windows, seed: int) -> SAE:
    transcoder = "target" in like.info
    info = {key: like.info[key] for key in ("site", "target", "exclusion", "text") if key in like.info}
    encoder = DenseEncoder(like.d_in, like.n_latents)
    sae = SAE(encoder, TopK(like.n_latents, k), d_out=like.d_out, subtract_b_dec=not transcoder, info=info)
    place = shared_place({"": like}, lm)
    parts = list(itertools.islice(read(lm, windows, place, batch=_BATCH, label="random directions"), _BATCHES))
    acts, target = (torch.cat([getattr(one, key).float().cpu() for one in parts]) for key in ("acts", "target"))
    with torch.no_grad():
        sae.initialise(acts, torch.Generator().manual_seed(seed), target if transcoder else None)
    return sae.eval().to(like.W_dec.device)
