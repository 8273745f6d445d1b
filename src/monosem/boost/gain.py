"""How much better than the core: every reading of `gain`, because papers do not say which they mean."""

from __future__ import annotations

from collections.abc import Mapping


def gains(core: Mapping[str, float | None], other: Mapping[str, float | None]) -> dict[str, float | None]:
    """From metrics on one text.

    `ev` EV − EV_core; `ev_relative` (EV − EV_core)/EV_core; `unexplained_removed` 1 − (1 − EV)/(1 − EV_core);
    `ce` the added cross-entropy that is gone, in nats; `ce_damage_removed` 1 − ΔCE/ΔCE_core with ΔCE = CE − CE of the
    unchanged model. None where it is not defined.
    """
    a, b = core["explained_variance"], other["explained_variance"]
    assert a is not None
    assert b is not None
    found: dict[str, float | None] = {
        "ev": b - a,
        "ev_relative": (b - a) / a if a else None,
        "unexplained_removed": 1 - (1 - b) / (1 - a) if a != 1 else None,
    }
    losses = [one.get(key) for one in (core, other) for key in ("ce_loss_sae", "ce_loss_clean")]
    if any(loss is None for loss in losses):
        return found | {"ce": None, "ce_damage_removed": None}
    was, now = losses[0] - losses[1], losses[2] - losses[3]  # pyrefly: ignore[unsupported-operation]
    return found | {"ce": was - now, "ce_damage_removed": 1 - now / was if was else None}
