"""The graph that steering follows, cut as its purpose asks for (arXiv 2502.03032, appendix B)."""

from __future__ import annotations

from collections.abc import Sequence

from monosem.flow.cut import PUBLISHED, STEERING, Cuts
from monosem.flow.graph import Graph
from monosem.flow.node import Node
from monosem.flow.steering import Mode
from monosem.flow.suite import Suite
from monosem.flow.tracing import trace


def along_flow(
    suite: Suite, seeds: Sequence[Node], mode: Mode, cuts: Cuts | None = None, *, gaps: bool = False
) -> Graph:
    """Backward and forward from the seeds by cosine.

    For `add` the residual chain ends where s(R) < 0.5, and modules stay from 0.15 on. For `rescale` the chain is not
    cut, and modules stay from 0.25 on. Never below what chance gives, which on narrow models is more. Raises
    `InputError` as `trace`.
    """
    cuts = cuts or Cuts(dict(STEERING if mode == "add" else PUBLISHED))
    return trace(suite, seeds, cuts=cuts, gaps=gaps).pruned(chain=mode == "add")
