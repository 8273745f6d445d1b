"""The trial of the baselines: same new latents, tokens and batches, at each calibration that matters."""

from __future__ import annotations

from scipy.stats import mannwhitneyu
from torch import Tensor

from monosem.boost import grafted
from monosem.boost.redundancy import chance, nearest
from monosem.reproduce.arm import Measured, Trial
from monosem.reproduce.boost.arm import EXTENDED, FINETUNED, GRAFTED
from monosem.reproduce.boost.experiment import Experiment, trial
from monosem.reproduce.boost.reading import measured
from monosem.reproduce.boost.text import sample
from monosem.reproduce.boost.threshold import at_l0, l0, with_last_at
from monosem.sae import SAE, groups

OWN, GENERAL, EQUAL = "", "@general", "@equal"
"""An arm's L0: that of its rule on domain text, that of its rule on general text, or Boost's on domain text."""
REPLACED = ("core", "boost", FINETUNED.name, FINETUNED.name + GENERAL)
INSIDE = {"domain": REPLACED, "general": REPLACED}
"""What is tried inside the model."""


def run(one: Experiment) -> Measured:
    """All baselines beside the core and Boost; how near new latents lie to the core's."""
    core, boost, k = one.core, one.load(one.residual()), one.scale.k
    trained = one.trained([*EXTENDED, FINETUNED])
    general = sample(one.here.general.source, one.here, one.scale)
    wanted, own = l0(boost, one.batches), one.scale.extra["core"]["k"]
    saes = {"core": core, "boost": boost, "more_k": at_l0(core, one.batches, wanted), **trained}
    for name, sae in trained.items():
        joint = own if name == FINETUNED.name else own + k
        saes[name + GENERAL] = at_l0(sae, general, joint)
        saes[name + EQUAL] = at_l0(sae, one.batches, wanted)
    taken = grafted(core, trained[FINETUNED.name], one.scale.n_latents, list(one.batches), k)
    taken.info = taken.info | {"exclusion": core.info["exclusion"]}
    saes[GRAFTED + EQUAL] = with_last_at(taken, one.batches, k)
    saes[GRAFTED] = taken
    return {
        "arms": measured(saes, one.text, one.here, losses=one.scale.extra["losses"], inside=INSIDE),
        "redundancy": redundancy(boost, trained),
    }


def redundancy(boost: SAE, trained: dict[str, SAE]) -> dict[str, dict[str, float]]:
    """Median cosine of new latents with the nearest of the core, of each arm; and whether Boost's are smaller.

    `less` and `more` are one-sided Mann–Whitney p values, per latent, of Boost's being smaller and greater.
    """
    core = groups(boost)[0].latents
    own, rows = nearest(boost.W_dec[core.stop :], boost.W_dec[core])[0], boost.W_dec[core]
    others: dict[str, Tensor] = {"random": chance(rows, len(own))}
    for arm in EXTENDED:
        others[arm.name] = nearest(trained[arm.name].W_dec[core.stop :], rows)[0]
    found = {"boost": {"median": float(own.median())}}
    for name, values in others.items():
        a, b = own.detach().cpu().numpy(), values.detach().cpu().numpy()
        sides = {
            side: float(mannwhitneyu(a, b, alternative=way).pvalue)
            for side, way in (("less", "less"), ("more", "greater"))
        }
        found[name] = {"median": float(values.median()), **sides}
    return found


def make(domain: str) -> Trial:
    """The trial of a domain."""
    return trial("rivals", domain, run, lambda scale: [*EXTENDED, FINETUNED], read=13, losses=4)
