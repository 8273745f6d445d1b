"""Where a result comes from: everything needed to obtain it again."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from monosem.evaluation.place import Place
from monosem.lm import LanguageModel
from monosem.sae import SAE, describe, flops
from monosem.text.window import Windows


def provenance(lm: LanguageModel, windows: Windows, place: Place, batch: int, command: str | None) -> dict[str, Any]:
    """JSON-able; the same for every autoencoder of one pass."""
    count, length = windows.tokens.shape
    return {
        "command": command,
        "monosem": _version(),
        "model": lm.identity(),
        "text": dict(windows.identity),
        "tokens": {
            "windows": count,
            "length": length,
            "total": count * length,
            "sha256": hashlib.sha256(windows.tokens.contiguous().cpu().numpy().tobytes()).hexdigest(),
        },
        "attention": "within a window, across the documents in it",
        "site": str(place.site),
        **({} if place.predicted is None else {"target": str(place.predicted)}),
        "exclusion": place.exclusion.describe(),
        "batch": batch,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "device": str(lm.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def whereabouts(origin: Mapping[str, Any]) -> str:
    """The site of a result, or `site → target` of transcoders."""
    return f"{origin['site']} → {origin['target']}" if "target" in origin else origin["site"]


def of_autoencoder(sae: SAE) -> dict[str, Any]:
    """Its configuration and training record, with seeds where training stored them; and what it costs.

    `encoder_over_dense`: encoder rows over those of a dense encoder, above 1 where it is dearer.
    """
    cost = {
        "parameters": flops.parameters(sae)["total"],
        "encoder_multiply_adds": flops.cost(sae).encoder,
        "encoder_over_dense": flops.encoder_share(sae),
    }
    return {"sae": describe(sae), "seed": sae.info.get("seed"), "cost": cost}


def _version() -> str | None:
    """None when the package runs from its source without being installed."""
    try:
        return version("monosem")
    except PackageNotFoundError:
        return None
