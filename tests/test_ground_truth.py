"""On data made from known sparse features, the dictionary that training finds is that of the data."""

import pytest
import torch

from monosem.activations import Rows, Stream
from monosem.shapes import Site
from monosem.shapes.route import Route
from monosem.training import Job, Loop, TrainConfig
from monosem.training.recipe import make

SITE = Site("resid_post", 0)
D, FEATURES, ACTIVE = 32, 64, 4


class Synthetic:
    """Independent features with unit directions, each present with probability ACTIVE/FEATURES, strength 0.5..1.5."""

    sites = (SITE,)
    n_windows, length = 2000, 64

    def __init__(self, seed):
        self.seed = seed
        directions = torch.randn(FEATURES, D, generator=torch.Generator().manual_seed(100 + seed))
        self.directions = directions / directions.norm(dim=1, keepdim=True)

    def rows(self, which):
        parts = []
        for window in which:
            generator = torch.Generator().manual_seed(1000 * self.seed + int(window))
            shape = (self.length, FEATURES)
            present = torch.rand(shape, generator=generator) < ACTIVE / FEATURES
            parts.append((present * (torch.rand(shape, generator=generator) + 0.5)) @ self.directions)
        windows = torch.from_numpy(which).repeat_interleave(self.length)
        return Rows({SITE: torch.cat(parts)}, windows, torch.arange(self.length).repeat(len(which)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_training_recovers_the_features_of_synthetic_data(seed, tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    names = ("topk", "batch_topk", "jumprelu")
    config = TrainConfig(
        sae=names,
        n_latents=FEATURES,
        k=ACTIVE,
        tokens=600_000,
        batch=512,
        lr=3e-3,
        seed=seed,
        checkpoint_every=10**6,
    )
    source = Synthetic(seed)
    stream = Stream(source, batch=512, block=200, seed=seed)
    first = next(stream).acts[SITE]
    jobs = [Job(name, *make(name, config, first), config, torch.device("cpu")) for name in names]
    start = {job.name: recovery(job.sae, source.directions) for job in jobs}
    (tmp_path / "checkpoints").mkdir()
    Loop({Route(SITE): jobs}, stream, config, tmp_path).run()
    for job in jobs:
        assert start[job.name] < 0.65
        assert recovery(job.sae, source.directions) >= 0.9, job.name


def recovery(sae, directions):
    """Mean over true features of the best cosine with a decoder row."""
    rows = sae.W_dec.detach() / sae.W_dec.detach().norm(dim=1, keepdim=True)
    return float((directions @ rows.T).max(1).values.mean())
