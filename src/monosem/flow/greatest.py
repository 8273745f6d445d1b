"""The greatest entries of each row of a block of scores."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from monosem.evaluation.match import products


class Greatest(NamedTuple):
    """Columns with the greatest scores of each row, best first; −1 and 0 where fewer are positive."""

    indices: Int64[Tensor, "S k"]
    scores: Float32[Tensor, "S k"]

    @classmethod
    def of(cls, block: Float[Tensor, "S F"], k: int) -> Greatest:
        """The k greatest positive entries, equal ones in the order of their columns; `block` is changed."""
        k = min(k, block.shape[1])
        found = cls.empty(len(block), k)
        for place in range(k):
            # `max` gives the first of equal ones, `topk` any of them.
            value, index = block.max(1)
            positive = value > 0
            found.indices[:, place] = torch.where(positive, index, -1).cpu()
            found.scores[:, place] = torch.where(positive, value, 0.0).float().cpu()
            if place + 1 < k:
                block.scatter_(1, index[:, None], -torch.inf)
        return found

    @classmethod
    def empty(cls, rows: int, k: int) -> Greatest:
        """Rows without a match."""
        return cls(torch.full((rows, k), -1, dtype=torch.int64), torch.zeros(rows, k))

    @classmethod
    @torch.no_grad()
    def product(
        cls, rows: Float32[Tensor, "S D"], columns: Float32[Tensor, "F D"], dead: Bool[Tensor, " F"], k: int
    ) -> Greatest:
        """Of rows · columnsᵀ without the dead columns; a block of products exists at a time."""
        found = cls.empty(len(rows), min(k, len(columns)))
        for part, block in products(rows, columns):
            block[:, dead] = -torch.inf
            found.put(part, cls.of(block, k))
        return found

    def put(self, rows: slice, part: Greatest) -> None:
        """Fill in what was found for some of the rows."""
        self.indices[rows], self.scores[rows] = part
