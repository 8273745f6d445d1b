"""Two kinds of text, and a model that writes them, for the tests of what steered text is worth."""

from __future__ import annotations

import functools
import random

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import tiny
from monosem.lm import LanguageModel
from monosem.text import Corpus

NATURE, TOWN = (
    ["river", "stones", "rain", "birds", "pale", "northern", "light"],
    ["cat", "sat", "mat", "seven", "sang", "about", "under"],
)


def corpus(own: list[str], documents: int = 60, seed: int = 0) -> Corpus:
    """Sentences in a fixed order of words, mostly `own` ones."""
    rng, texts = random.Random(seed), []
    for number in range(documents):
        start = rng.randrange(len(own))
        texts.append(f"{number} " + " ".join(own[(start + step) % len(own)] for step in range(24)))
    return Corpus(own[0], str(seed), texts, "Made up.")


@functools.cache
def writer() -> LanguageModel:
    """A model that knows which token follows which in either kind of text, and nothing else; made, not trained."""
    size = len(tiny.tokenizer())
    follows = torch.full((size, size), 0.01)
    for text in [*corpus(NATURE, seed=1).documents, *corpus(TOWN, seed=2).documents]:
        row = [0, *tiny.tokenizer()(text)["input_ids"]]
        follows.index_put_((torch.tensor(row[:-1]), torch.tensor(row[1:])), torch.ones(()), accumulate=True)
    config = GPT2Config(
        vocab_size=size,
        n_embd=size,
        n_layer=1,
        n_head=1,
        n_positions=128,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.transformer.wte.weight.copy_(torch.eye(size))
        # The norm of a unit vector is √V (e − 1/V); its bias takes the second part away.
        model.transformer.ln_f.weight.fill_(1)
        model.transformer.ln_f.bias.fill_(size**-0.5)
        model.lm_head.weight.copy_((follows / follows.sum(1, keepdim=True)).log().T / size**0.5)
    return LanguageModel(model, tiny.tokenizer(), name="pairs")
