"""Texts that a model writes after prompts, plain or steered, and how likely the plain model finds them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.flow.applied import Norm, Reading, steer
from monosem.flow.sampling import Sampling, draw
from monosem.flow.steering import Steering
from monosem.flow.suite import Suite
from monosem.lm import LanguageModel
from monosem.shapes import InputError, Site

BATCH = 16
_LOGITS = 2**25
"""Logits that are held at once when texts are read."""


class Written(NamedTuple):
    """A continuation: sample `sample` of prompt `prompt`, its tokens without the end, and their text."""

    prompt: int
    sample: int
    ids: list[int]
    text: str
    ended: bool

    def to_json(self) -> dict[str, Any]:
        return self._asdict()


class Generation(NamedTuple):
    """Every sample of every prompt, prompt by prompt, and how strong the steering was."""

    texts: list[Written]
    norms: dict[Site, Norm]


@torch.no_grad()
def generate(
    lm: LanguageModel,
    prompts: Sequence[Int64[Tensor, " T"]],
    sampling: Sampling,
    *,
    samples: int = 1,
    steering: Steering | None = None,
    suite: Suite | None = None,
    reading: Reading = "current",
    batch: int = BATCH,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Generation:
    """Continue each prompt `samples` times; what a text is drawn with depends on the seed, its prompt and its number.

    `advance` is told of tokens as they come. Raises `InputError` for prompts that are empty or too long with what is to
    be written, and as `steer`.
    """
    if not prompts or samples < 1 or batch < 1:
        raise InputError("nothing is to be written: give a prompt, and at least 1 sample and 1 text a batch")
    _check_lengths(lm, prompts, sampling)
    rows = [(prompt, sample) for prompt in range(len(prompts)) for sample in range(samples)]
    texts: list[Written] = []
    block = nullcontext(None) if steering is None else steer(lm, steering, suite, reading=reading)
    twice = steering is not None and reading == "clean"
    with block as applied:
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            ids = [prompts[prompt] for prompt, _ in part]
            generators = [sampling.generator(*row) for row in part]
            for row, (found, ended) in zip(part, _continued(lm, ids, generators, sampling, twice, advance)):
                text = lm.tokenizer.decode(found, skip_special_tokens=True)
                texts.append(Written(*row, found, text, ended))
    return Generation(texts, {} if applied is None else applied.norms)


def _check_lengths(lm: LanguageModel, prompts: Sequence[Tensor], sampling: Sampling) -> None:
    longest = getattr(lm.model.config.get_text_config(), "max_position_embeddings", None)
    for prompt in prompts:
        if not len(prompt):
            raise InputError("a prompt is empty: give some text")
        if longest is not None and len(prompt) + sampling.new_tokens > longest:
            raise InputError(
                f"a prompt of {len(prompt)} tokens and {sampling.new_tokens} new ones: "
                f"{lm.name} reads at most {longest}"
            )


def _continued(
    lm: LanguageModel,
    prompts: list[Tensor],
    generators: list[torch.Generator],
    sampling: Sampling,
    twice: bool,
    advance: Callable[[int], None],
) -> Iterator[tuple[list[int], bool]]:
    """New tokens of each prompt, without the one that ends a text, and whether one did."""
    ids, mask = _left_padded(prompts, _pad(lm))
    if twice:
        ids, mask = torch.cat([ids, ids]), torch.cat([mask, mask])
    ends = torch.tensor(sorted(end_ids(lm)), dtype=torch.int64, device=lm.device)
    positional = "position_ids" in inspect.signature(lm.model.forward).parameters
    mask, step, cache = mask.to(lm.device), ids.to(lm.device), None
    places = (mask.cumsum(1) - 1).clamp_min(0)
    done, found = torch.zeros(len(prompts), dtype=torch.bool, device=lm.device), []
    for written in range(sampling.new_tokens):
        given = {"position_ids": places[:, -step.shape[1] :]} if positional else {}
        out = lm.model(input_ids=step, attention_mask=mask, past_key_values=cache, use_cache=True, **given)
        # In a batch of two halves the second is the text that counts; the first reads the same tokens plainly.
        chosen = draw(out.logits[-len(prompts) :, -1], sampling, generators)
        found.append(chosen)
        done |= torch.isin(chosen, ends)
        if done.all() or written + 1 == sampling.new_tokens:
            advance(len(prompts) * (sampling.new_tokens - written))
            break
        advance(len(prompts))
        step, cache = (torch.cat([chosen, chosen]) if twice else chosen)[:, None], out.past_key_values
        # What follows an end is padding: it is neither steered nor counted.
        going = (~done).to(mask)[:, None]
        mask = torch.cat([mask, torch.cat([going, going]) if twice else going], 1)
        places = torch.cat([places, places[:, -1:] + 1], 1)
    for row in torch.stack(found, 1).tolist():
        stop = next((place for place, token in enumerate(row) if token in end_ids(lm)), None)
        yield row[:stop], stop is not None


def _left_padded(prompts: list[Tensor], pad: int) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]:
    longest = max(map(len, prompts))
    ids, mask = torch.full((len(prompts), longest), pad), torch.zeros(len(prompts), longest, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def end_ids(lm: LanguageModel) -> set[int]:
    """Tokens that end a text, by the model and by its tokenizer."""
    known = getattr(lm.model.generation_config, "eos_token_id", None)
    listed = known if isinstance(known, list) else [known]
    return {token for token in [*listed, lm.tokenizer.eos_token_id] if token is not None}


def _pad(lm: LanguageModel) -> int:
    return next(iter(sorted(end_ids(lm))), 0) if lm.tokenizer.pad_token_id is None else lm.tokenizer.pad_token_id


@torch.no_grad()
def losses(
    lm: LanguageModel, prompts: Sequence[Int64[Tensor, " T"]], continuations: Sequence[Sequence[int]]
) -> list[Float[Tensor, " N"]]:
    """The plain model's loss on every token of each continuation given its prompt, nats; none for an empty one."""
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]) + len(continuations[row]))
    found: list[Tensor] = [torch.empty(0)] * len(prompts)
    for part in _parts(order, [len(prompts[row]) + len(continuations[row]) for row in order], lm.vocab_size):
        texts = [torch.cat([prompts[row].cpu(), torch.tensor(continuations[row], dtype=torch.int64)]) for row in part]
        # Padding comes behind, where no token that counts sees it.
        tokens = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=_pad(lm))
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
        logits = lm.model(tokens.to(lm.device), attention_mask=mask.to(lm.device), use_cache=False).logits
        for place, row in enumerate(part):
            first, last = len(prompts[row]) - 1, len(texts[place]) - 1
            log = logits[place, first:last].float().log_softmax(-1)
            found[row] = -log.gather(1, texts[place][first + 1 :, None].to(log.device))[:, 0].cpu()
    return found


def _parts(order: list[int], lengths: list[int], vocab: int) -> Iterator[list[int]]:
    """Texts of similar length whose logits are held together; `lengths` ascend."""
    part: list[int] = []
    for row, length in zip(order, lengths):
        if part and (len(part) + 1) * length * vocab > _LOGITS:
            yield part
            part = []
        part.append(row)
    if part:
        yield part
