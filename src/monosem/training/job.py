"""One autoencoder in training: its optimiser, its dead-latent counters, its step."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem import kernels
from monosem.sae import SAE
from monosem.sae.kron import KronEncoder
from monosem.sae.objective import Loss, Objective
from monosem.shapes.codes import Codes
from monosem.training.config import TrainConfig
from monosem.training.control import Control, Trained

SUMS = ("loss", "mse", "penalty", "aux", "sse", "sst", "l0", "grad_norm", "clamped", "gated", "steps")
"""What is summed on the device between two lines of the log."""
COUNTERS = ("last_fired", "dead", "sums", "prefixes", "clamped", "logged_l0")
"""What a job remembers besides weights and moments."""


class Job:
    """Steps depend on the batches alone, so a job gives the same weights alone or beside others."""

    def __init__(
        self,
        name: str,
        sae: SAE,
        objective: Objective,
        config: TrainConfig,
        device: torch.device,
        control: Control | None = None,
    ) -> None:
        self.name, self.config = name, config
        self.sae, self.objective = sae.to(device).train(), objective.to(device)
        self.control = (control or Trained()).to(device)
        self.control.hold(self.sae)
        self.optimiser = _optimiser(self.sae, config.lr)
        # One place more than latents: entries that are not active are written there.
        self.last_fired = torch.zeros(sae.n_latents + 1, dtype=torch.int64, device=device)
        self.dead = torch.empty(0, dtype=torch.int64, device=device)
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
        budgets = getattr(objective.nesting, "budgets", ())
        self.prefixes = torch.zeros(len(budgets), dtype=torch.float64, device=device)
        self.seconds = 0.0
        self.clamped = torch.full((), -1.0, dtype=torch.float64, device=device)
        self.logged_l0 = torch.full((), -1.0, dtype=torch.float64, device=device)

    def step(
        self,
        x: Float[Tensor, "B D"],
        lr: float,
        tokens: int,
        sst: Float[Tensor, ""],
        target: Float[Tensor, "B E"] | None = None,
    ) -> None:
        """One optimiser step on raw activations, to explain `target` (None: x itself).

        `tokens`: seen after this step; `sst`: the centred energy of what is explained.
        """
        start = time.perf_counter()
        scaled = x * self.sae.scale
        wanted = scaled if target is None else target * self.sae.out_scale
        self.control.see(self.sae, scaled, tokens >= self.config.steps * self.config.batch)
        l0 = torch.zeros((), device=x.device)
        pieces = self.config.accumulate
        for part, explained in zip(scaled.chunk(pieces), wanted.chunk(pieces), strict=True):
            loss = self._loss(part, explained, pieces)
            self._count_fired(loss.codes, tokens)
            l0 += (loss.codes.values != 0).sum() / len(x)
            self._add_up(loss, explained, sst / pieces)
        self.objective.penalty.advance(l0)
        self.sums[SUMS.index("l0")] += l0
        self.sums[SUMS.index("steps")] += 1
        if isinstance(self.sae.encoder, KronEncoder):
            self.sums[SUMS.index("clamped") : SUMS.index("gated") + 1] += self.sae.encoder.take_clamped()
        if self.control.learns:
            self._update(lr)
        self.seconds += time.perf_counter() - start

    def _loss(self, x: Float[Tensor, "B D"], target: Float[Tensor, "B E"], pieces: int) -> Loss:
        """The loss of one piece of a batch; its gradients are added where anything learns."""
        with self._autocast():
            loss = self.objective(self.sae, x, self.dead if self.control.learns else None, target)
        if self.control.learns:
            (loss.total / pieces).backward()
        return loss

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.last_fired.device.type, torch.bfloat16)

    @torch.no_grad()
    def _update(self, lr: float) -> None:
        self.control.still(self.sae)
        if self.config.unit_decoder and self.sae.W_dec.grad is not None:
            kernels.project_rows(self.sae.W_dec.grad, self.sae.W_dec)
        self.sums[SUMS.index("grad_norm")] += self._clip()
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group["speed"]
        self.optimiser.step()
        self.optimiser.zero_grad()
        if self.config.unit_decoder and self.sae.W_dec.requires_grad:
            kernels.normalise_rows(self.sae.W_dec)
        self.control.bound(self.sae)

    def _clip(self) -> Float[Tensor, ""]:
        """Bound the gradient's norm; the norm before. On a CPU, short gradients are not multiplied by 1."""
        learning = _learning(self.sae)
        norm = nn.utils.get_total_norm([weight.grad for weight in learning if weight.grad is not None])
        if norm.device.type != "cpu" or norm + 1e-6 > self.config.clip:
            nn.utils.clip_grads_with_norm_(learning, self.config.clip, norm)
        return norm

    @torch.no_grad()
    def _count_fired(self, codes: Codes, tokens: int) -> None:
        if codes.indices is None:
            self.last_fired[:-1].masked_fill_((codes.values > 0).any(0), tokens)
        else:
            self.last_fired[torch.where(codes.values > 0, codes.indices, self.sae.n_latents).flatten()] = tokens

    @torch.no_grad()
    def _add_up(self, loss: Loss, explained: Tensor, sst: Tensor) -> None:
        share = 1 / self.config.accumulate
        sse = loss.mse * explained.numel() / self.sae.out_scale**2
        terms = [
            loss.total.detach() * share,
            loss.mse * share,
            loss.penalty * share,
            loss.aux * share,
        ]
        self.sums[: len(terms) + 2] += torch.stack([*terms, sse, sst])
        if len(self.prefixes) and loss.errors is not None:
            self.prefixes += loss.errors * explained.numel() / self.sae.out_scale**2

    def refresh_dead(self, tokens: int) -> None:
        """Latents that have not fired for the configured number of tokens; waits for the device."""
        silent = tokens - self.last_fired[:-1]
        self.dead = (silent >= self.config.dead_tokens).nonzero().flatten()

    def summary(self) -> dict[str, float]:
        """Means since the last call; waits for the device."""
        values = dict(zip(SUMS, self.sums.tolist(), strict=True))
        self.sums.zero_()
        steps = max(values["steps"], 1)
        means = {key: values[key] / steps for key in ("loss", "mse", "penalty", "aux", "l0", "grad_norm")}
        self.logged_l0.fill_(means["l0"])
        evr = 1 - values["sse"] / values["sst"] if values["sst"] else float("nan")
        summary = {**means, "explained_variance": evr, "dead_share": len(self.dead) / self.sae.n_latents}
        if values["gated"]:
            summary["clamped_share"] = values["clamped"] / values["gated"]
            self.clamped.fill_(summary["clamped_share"])
        if len(self.prefixes):
            summary |= self._by_budget(values["sst"])
        return summary

    @property
    def clamped_share(self) -> float | None:
        """Share of the gate's slopes that were clamped, as last summed up; None without a gate."""
        return None if self.clamped < 0 else float(self.clamped)

    @property
    def l0(self) -> float | None:
        """Mean active latents a token of the batches last summed up; None before."""
        return None if self.logged_l0 < 0 else float(self.logged_l0)

    def _by_budget(self, sst: float) -> dict[str, float]:
        """Explained variance of the training batches at the smallest, the largest and powers of two of the budgets."""
        budgets = self.objective.nesting.describe()["J"]
        explained = (1 - self.prefixes / sst).tolist() if sst else [float("nan")] * len(budgets)
        self.prefixes.zero_()
        shown = {budgets[0], budgets[-1], *(budget for budget in budgets if budget & (budget - 1) == 0)}
        return {f"explained_variance_at_{k}": ev for k, ev in zip(budgets, explained, strict=True) if k in shown}

    def state(self) -> dict[str, Tensor]:
        """Everything that decides the next steps, as named tensors."""
        state = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        state |= {f"objective.{name}": tensor for name, tensor in self.objective.state_dict().items()}
        state |= {f"control.{name}": tensor for name, tensor in self.control.state_dict().items()}
        for number, moments in self.optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{number}.{name}": tensor for name, tensor in moments.items()}
        return state | {name: getattr(self, name) for name in COUNTERS}

    def resume(self, state: dict[str, Tensor]) -> None:
        """Continue from `state`, bitwise."""
        self.sae.load_state_dict(_under("sae.", state))
        self.objective.load_state_dict(_under("objective.", state))
        self.control.load_state_dict(_under("control.", state))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimiser.", state).items():
            number, key = name.split(".", 1)
            moments.setdefault(int(number), {})[key] = tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        device = self.last_fired.device
        for name in COUNTERS:
            setattr(self, name, state[name].to(device))


def _optimiser(sae: SAE, lr: float) -> torch.optim.Adam:
    """Adam over what learns, fused where torch has it; thresholds learn at a speed of their own."""
    learned = sae.rule.learned()
    threshold = [learned[0]] if learned and learned[0].requires_grad else []
    others = [weight for weight in _learning(sae) if all(weight is not one for one in threshold)]
    groups = [{"params": others, "speed": 1.0}, {"params": threshold, "speed": sae.rule.speed}]
    fused = sae.b_dec.device.type in ("cpu", "cuda")
    return torch.optim.Adam([groups[0], *(group for group in groups[1:] if group["params"])], lr=lr, fused=fused)


def _learning(sae: SAE) -> list[nn.Parameter]:
    """The parameters that are not held by a control."""
    return [weight for weight in sae.parameters() if weight.requires_grad]


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
