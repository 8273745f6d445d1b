"""Rules say which latents of a token are active. One row of `RULES` each; keywords are the configuration."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem import kernels
from monosem.kernels import Selected
from monosem.shapes import InputError

DENSE_ABOVE = 0.15
"""Share of active latents above which dense matrix products are cheaper than sparse rows (docs/log.md)."""


class Rule(nn.Module):
    """What every rule offers. `n_latents` comes from the encoder, everything else from `config`."""

    speed: float = 1.0
    """Learning rate of the thresholds over that of everything else."""

    def learned(self) -> tuple[nn.Parameter, float] | None:
        """Thresholds that learn and the bandwidth through which they do, if the rule has such."""
        return None

    def config(self) -> dict[str, Any]:
        """Constructor keywords, without `n_latents`."""
        raise NotImplementedError

    def rescale(self, codes: float) -> None:
        """Change the units of codes: thresholds are multiplied by `codes`."""

    def choose(self, pre: Float[Tensor, "B F"], bias: Float[Tensor, " F"] | None = None) -> Selected:
        """The entries kept, from pre-activations that still lack their bias; `pre` may be changed."""
        raise NotImplementedError


class TopK(Rule):
    """The k largest positive latents of each token (arXiv 2406.04093)."""

    def __init__(self, n_latents: int, k: int) -> None:
        super().__init__()
        self.k = _checked_k(k, n_latents)

    def config(self) -> dict[str, Any]:
        return {"k": self.k}

    def choose(self, pre: Tensor, bias: Tensor | None = None) -> Selected:
        return kernels.topk(pre, self.k, bias)


class BatchTopK(Rule):
    """The B·k largest latents of a training batch; afterwards one threshold for all (arXiv 2412.06410).

    The threshold is a running mean of the smallest value each training batch keeps.
    """

    rate = 0.1

    def __init__(self, n_latents: int, k: int) -> None:
        super().__init__()
        self.k = _checked_k(k, n_latents)
        self.cut: Tensor
        self.register_buffer("cut", torch.tensor(float("nan")))
        self.n_latents = n_latents

    def config(self) -> dict[str, Any]:
        return {"k": self.k}

    def choose(self, pre: Tensor, bias: Tensor | None = None) -> Selected:
        pre = _biased(pre, bias)
        if self.training:
            selected = kernels.batch_topk(pre, self.k)
            self._observe(selected.values)
            return selected
        if self.cut.isnan():
            raise InputError(
                "this BatchTopK autoencoder has no threshold: train it, or call .train() to select by batch"
            )
        return kernels.above(pre, self.cut.clamp_min(0).expand(self.n_latents))

    def rescale(self, codes: float) -> None:
        self.cut.mul_(codes)

    def _observe(self, values: Tensor) -> None:
        smallest = values.min().to(self.cut) if len(values) else torch.zeros_like(self.cut)
        self.cut.copy_(torch.where(self.cut.isnan(), smallest, torch.lerp(self.cut, smallest, self.rate)))


class JumpReLU(Rule):
    """Latents above a learned threshold of their own (arXiv 2407.14435), in units of the scaled input.

    While gradients are recorded, inactive entries within half a bandwidth of their threshold are stored as zeros:
    through them the threshold learns.
    """

    speed = 30.0

    def __init__(self, n_latents: int, bandwidth: float = 0.3) -> None:
        super().__init__()
        if not bandwidth > 0:
            raise InputError(f"bandwidth {bandwidth} must be positive, in units of the scaled input (0.3 is usual)")
        self.bandwidth = bandwidth
        self.threshold = nn.Parameter(torch.zeros(n_latents))

    def config(self) -> dict[str, Any]:
        return {"bandwidth": self.bandwidth}

    def learned(self) -> tuple[nn.Parameter, float]:
        return self.threshold, self.bandwidth

    @torch.no_grad()
    def rescale(self, codes: float) -> None:
        self.bandwidth *= codes
        self.threshold.mul_(codes)

    def choose(self, pre: Tensor, bias: Tensor | None = None) -> Selected:
        pre = _biased(pre, bias)
        threshold = self.threshold.detach()
        if not self.training:
            return kernels.above(pre, threshold.clamp_min(0))
        values, indices, offsets = kernels.above(pre, (threshold - self.bandwidth / 2).clamp_min(0))
        return Selected(torch.where(values > threshold[indices], values, 0.0), indices, offsets)


class ReLU(Rule):
    """Every positive latent; dense while many are."""

    def __init__(self, n_latents: int) -> None:
        super().__init__()

    def config(self) -> dict[str, Any]:
        return {}

    def choose(self, pre: Tensor, bias: Tensor | None = None) -> Selected:
        pre = _biased(pre, bias)
        zero = pre.new_zeros(pre.shape[1])
        if kernels.count_above(pre, zero) > DENSE_ABOVE * pre.numel():
            return Selected(pre.relu(), None, None)
        return kernels.above(pre, zero)


RULES: dict[str, type[Rule]] = {"topk": TopK, "batch_topk": BatchTopK, "jumprelu": JumpReLU, "relu": ReLU}


def _biased(pre: Tensor, bias: Tensor | None) -> Tensor:
    return pre if bias is None else pre.add_(bias)


def _checked_k(k: int, n_latents: int) -> int:
    if not 1 <= k <= n_latents:
        raise InputError(f"k = {k} does not fit {n_latents} latents: choose k between 1 and {n_latents}")
    return k
