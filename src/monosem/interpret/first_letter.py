"""Spelling prompts over a model's own vocabulary: words of one token, behind examples of their first letters."""

from __future__ import annotations

import random
import string
from typing import Any

import torch

from monosem.interpret.probing_example import Labelled
from monosem.lm.spelling import Spelling
from monosem.shapes import InputError

LETTERS = tuple(string.ascii_lowercase)
TEMPLATE = "{word} has the first letter: {letter}\n"
_TRAIN = 0.8


def words(tokenizer: Any) -> dict[str, int]:
    """Every token that is a space and then ASCII letters, at least two, by its text in small letters.

    Of several spellings of one word (` The`, ` the`) the one with the smallest id is kept, so that no word can be on
    both sides of a split.
    """
    spelling = Spelling(tokenizer)
    found: dict[str, int] = {}
    for token in range(len(tokenizer)):
        text = "" if token in spelling.special else spelling.word(token)
        if len(text) > 2 and text[0] == " " and text[1:].isascii() and text[1:].isalpha():
            found.setdefault(text[1:].lower(), token)
    return found


def first_letters(tokenizer: Any, *, per_letter: int | None = 200, shots: int = 10, seed: int = 0) -> Labelled:
    """A prompt for each of at most `per_letter` words a letter, drawn with `seed`; four fifths are to learn from.

    The prompt is ` mirth has the first letter: M` for `shots` words to learn from, drawn anew for each, and then the
    word: what the published prompt says after it is not read, as no later token changes an activation. Raises
    `InputError` for a vocabulary with fewer than two letters.
    """
    if shots < 0 or (per_letter is not None and per_letter < 1):
        raise InputError(f"shots = {shots}, words a letter = {per_letter}: give at least 0 and 1")
    rng = random.Random(seed)  # noqa: S311
    known = words(tokenizer)
    drawn = [word for letter in LETTERS for word in _some(known, letter, per_letter, rng)]
    if len({word[0] for word in drawn}) < 2:
        raise InputError(f"the vocabulary has {len(drawn)} words of one token: the first-letter task needs many")
    rng.shuffle(drawn)
    cut = int(_TRAIN * len(drawn))
    learned, prompts = drawn[:cut], []
    after = {letter: _after(tokenizer, letter) for letter in LETTERS}
    for word in drawn:
        shown = rng.sample([one for one in learned if one != word], min(shots, cut - 1))
        # The word itself is one token, whatever the tokenizer would make of the joined text.
        prompts.append([token for one in shown for token in (known[one], *after[one[0]])] + [known[word]])
    return Labelled(
        prompts,
        torch.tensor([LETTERS.index(word[0]) for word in drawn]),
        LETTERS,
        torch.arange(len(drawn)) < cut,
        True,
        f"first letters of {len(drawn):,} words of one token",
        {"task": "first-letter", "words a letter": per_letter, "shots": shots, "seed": seed},
    )


def _some(known: dict[str, int], letter: str, most: int | None, rng: random.Random) -> list[str]:
    own = sorted(word for word in known if word[0] == letter)
    return own if most is None or len(own) <= most else rng.sample(own, most)


def _after(tokenizer: Any, letter: str) -> list[int]:
    """The tokens that follow a word in an example."""
    text = TEMPLATE.format(word="", letter=letter.upper())
    return tokenizer(text, add_special_tokens=False)["input_ids"]
