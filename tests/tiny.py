"""Tiny random models, a tokenizer and a corpus, shared by the tests."""

from __future__ import annotations

import functools
import random
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from monosem.lm import LanguageModel
from monosem.text import Corpus

TEXT = "the cat sat on a mat while seven birds sang about rain and river stones under pale northern light"


def corpus(documents: int = 40, words: int = 60, seed: int = 0) -> Corpus:
    """Distinct documents of random words."""
    rng = random.Random(seed)
    texts = [f"{index} " + " ".join(rng.choices(TEXT.split(), k=words)) for index in range(documents)]
    return Corpus("tiny", f"tiny-{documents}-{words}-{seed}", texts, "Random words.")


@functools.cache
def tokenizer() -> Any:
    """A byte-level BPE tokenizer with BOS `<s>` (0) and EOS `</s>` (1)."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(corpus().documents, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


def llama(n_layers: int = 3, seed: int = 0) -> LanguageModel:
    """d_model 32, 4 query heads of size 12 sharing 2 key heads, so that heads are wider than the stream."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return LanguageModel(_spread(LlamaForCausalLM(config)), tokenizer(), name="tiny-llama")


def gpt2(n_layers: int = 3, seed: int = 0) -> LanguageModel:
    """d_model 32, 4 heads, tied embeddings."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer()),
        n_embd=32,
        n_layer=n_layers,
        n_head=4,
        n_positions=128,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return LanguageModel(_spread(GPT2LMHeadModel(config)), tokenizer(), name="tiny-gpt2")


def _spread(model: Any) -> Any:
    """Random gains, biases and larger weights, so that no part of the model is an identity or a zero."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.15)
    return model
