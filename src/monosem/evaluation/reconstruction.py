"""All metrics that compare activations with reconstructions. One row of `RATIOS` per quotient of sums."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float64
from torch import Tensor

from monosem.evaluation.batch import Batch
from monosem.evaluation.cosine import cossim
from monosem.evaluation.density import Density
from monosem.evaluation.ev_centered_residual import ev_centered_residual
from monosem.evaluation.explained_variance import ExplainedVariance
from monosem.evaluation.explained_variance_legacy import explained_variance_legacy
from monosem.evaluation.explained_variance_saebench import ExplainedVarianceSAEBench
from monosem.evaluation.fvu_batch import fvu_batch
from monosem.evaluation.l0 import L0Distribution, l0
from monosem.evaluation.mse import mse
from monosem.evaluation.norm import l2_norm_in, l2_norm_out, l2_ratio
from monosem.evaluation.per_k import PerK
from monosem.evaluation.ratio import Figure, Ratio, Sums
from monosem.evaluation.reconstruction_bias import relative_reconstruction_bias
from monosem.evaluation.variation import Variation
from monosem.sae import SAE

RATIOS: dict[str, Callable[[Batch], Sums]] = {
    "explained_variance_legacy": explained_variance_legacy,
    "fvu_batch": fvu_batch,
    "ev_centered_residual": ev_centered_residual,
    "mse": mse,
    "l0": l0,
    "cossim": cossim,
    "l2_norm_in": l2_norm_in,
    "l2_norm_out": l2_norm_out,
    "l2_ratio": l2_ratio,
    "relative_reconstruction_bias": relative_reconstruction_bias,
}


class Reconstruction:
    """Running sums of one autoencoder over kept tokens, in raw space."""

    def __init__(self, sae: SAE) -> None:
        self._explained, self._saebench = ExplainedVariance(), ExplainedVarianceSAEBench()
        self._ratios = {name: Ratio() for name in RATIOS}
        self._l0, self._density, self._per_k = (
            L0Distribution(sae.n_latents),
            Density(sae.n_latents),
            PerK(sae),
        )

    def update(self, batch: Batch) -> None:
        for name, ratio in self._ratios.items():
            ratio.update(RATIOS[name](batch))
        for metric in (self._explained, self._saebench, self._l0, self._density, self._per_k):
            metric.update(batch)

    def figures(self, variation: Variation) -> dict[str, Figure]:
        """Every metric by its name; `variation` is that of the same batches."""
        exact = self._l0.quantiles() | self._density.compute()
        return {
            "explained_variance": self._explained.compute(variation),
            **{name: ratio.compute() for name, ratio in self._ratios.items()},
            **{name: Figure(value) for name, value in exact.items()},
        }

    def density(self) -> Float64[Tensor, " F"]:
        """The share of tokens on which each latent is active."""
        return self._density.densities()

    def compat(self) -> dict[str, float]:
        """Figures that exist only to compare with other tools' tables."""
        return {"explained_variance_saebench_0_6": self._saebench.compute()}

    def curves(self, variation: Variation) -> dict[str, list]:
        """`l0_histogram`, `density_histogram`, and `per_k` where codes have ranks."""
        curves: dict[str, list] = {
            "l0_histogram": self._l0.histogram(),
            "density_histogram": self._density.histogram(),
        }
        per_k = self._per_k.compute(float(variation.per_batch().sum()))
        return curves | ({"per_k": per_k} if per_k else {})
