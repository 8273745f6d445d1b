"""Which random numbers initial weights are drawn from."""

from dataclasses import replace

import torch
from torch.nn import functional

from monosem.training import TrainConfig
from monosem.training.recipe import make

CONFIG = TrainConfig(site="resid_post.1", n_latents=48, k=4, tokens=320, batch=32)


def rows(**changes):
    sae, _ = make("topk", replace(CONFIG, **changes), torch.randn(64, 32, generator=torch.Generator().manual_seed(5)))
    return functional.normalize(sae.W_dec.detach(), dim=1)


def test_a_seed_means_another_start_at_every_site():
    here, again, elsewhere, other = rows(), rows(), rows(site="mlp_out.1"), rows(seed=1)
    assert torch.equal(here, again)
    for one in (elsewhere, other):
        cosines = here @ one.T
        # Of equal numbers as of any others: nothing to match by.
        assert float(cosines.diagonal().abs().mean()) < 0.3
        assert int((cosines.argmax(1) == torch.arange(48)).sum()) < 8


def test_at_one_site_other_settings_begin_alike():
    assert torch.allclose(rows(), rows(k=8), atol=1e-6)
