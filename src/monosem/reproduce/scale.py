"""How large an experiment is: training settings, seeds, held-out tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from monosem.reproduce.arm import Arm
from monosem.shapes import InputError
from monosem.training.config import TrainConfig


@dataclass(frozen=True)
class Scale:
    """`settings` are training settings shared by all arms; `held_out` tokens are measured on, as many others tune."""

    name: str
    settings: dict[str, Any]
    data: str
    seeds: tuple[int, ...]
    minutes: float
    held_out: int
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    tuning_seed: int = 99
    tuning_share: float = 0.25
    """Share of the tokens on which learning rates are compared: a short run prefers larger ones than a long one."""
    pass_minutes: float = 2.5
    """Arms that go through the stream together; rows are written after it, so this is what a kill can cost."""
    extra: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if self.tuning_seed in self.seeds:
            raise InputError(
                f"seed {self.tuning_seed} is kept for choosing learning rates: give seeds other than {self.tuning_seed}"
            )

    @property
    def k(self) -> int:
        return self.settings["k"]

    @property
    def n_latents(self) -> int:
        return self.settings["n_latents"]

    @property
    def tokens(self) -> int:
        return self.settings["tokens"]

    def config(self, arm: Arm, seed: int, lr: float, share: float = 1.0) -> TrainConfig:
        """The settings of one arm; `share` of its tokens. Raises `InputError` if they do not fit together."""
        values = {**self.settings, **arm.settings}
        values["tokens"] = max(round(values["tokens"] * share), values["batch"])
        return TrainConfig.from_dict({**values, "sae": (arm.sae,), "seed": seed + arm.offset, "lr": lr})

    def changed(self, settings: Mapping[str, Any], seeds: tuple[int, ...] | None = None) -> Scale:
        """The same scale with other settings, and other seeds if given."""
        return replace(self, settings={**self.settings, **settings}, seeds=seeds or self.seeds)
