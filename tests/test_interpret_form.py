"""Answers in free words: read, or missing, but never guessed."""

from __future__ import annotations

import pytest

from monosem.interpret import Question
from monosem.interpret.form import Choice, Marks, Phrase, Ratings
from monosem.interpret.judge import Constant


@pytest.mark.parametrize(
    ("form", "text", "read"),
    [
        (Choice(), "yes", ["Yes"]),
        (Choice(), "**No**, because yes would be wrong", ["No"]),
        (Choice(), "I would say no.", ["No"]),
        (Choice(), "<think>yes? no?</think>\nNo", ["No"]),
        (Choice(), "Notably so", None),
        (Choice(), "Either yes or no", None),
        (Choice(), "", None),
        (Choice(("1", "2")), "Passage 2", ["2"]),
        (Choice(("1", "2")), "12", None),
        (Marks(3), "[1, 0, 1]", ["Yes", "No", "Yes"]),
        (Marks(3), "like [0, 1]: [0,0,1]", ["No", "No", "Yes"]),
        (Marks(3), "[1, 0]", None),
        (Marks(3), "[1 0 1]", None),
        (Marks(3), "101", None),
        (Phrase(), '\n"rivers and lakes."\nmore', ["rivers and lakes"]),
        (Phrase(), "Label: names of rivers", ["names of rivers"]),
        (Phrase(5), "abcdefgh", ["abcde"]),
        (Phrase(), "...\n", None),
        (Phrase(), "1. **rivers and lakes**", ["rivers and lakes"]),
        (Phrase(), "2001: a space odyssey", ["2001: a space odyssey"]),
        (Phrase(), "\x1b[31mred\x07 rivers\x9b", ["red rivers"]),
        (Choice(), "<think>\nOkay, there is no mark here, so", None),
        (Choice(), "No <think> is it?", None),
        (Choice(("1", "2")), "<think>the 2nd, I think", None),
        (Marks(4), "<think>\nA list such as [1, 0, 1, 0]. First", None),
        (Marks(2), "<think>[1, 0]</think> [0, 1]", ["No", "Yes"]),
        (Phrase(), "<think>\nOkay, let me look at the passages", None),
        (Ratings(), '<think>{"coherence": 1, "behavioral": 1}', None),
    ],
)
def test_answers_are_read_or_missing_but_never_guessed(form, text, read):
    assert form.read(text) == read


@pytest.mark.parametrize("form", [Choice(), Choice(("1", "2")), Marks(4)], ids=["choice", "number", "marks"])
def test_a_constant_says_what_the_form_reads(form):
    option = "Yes" if "Yes" in getattr(form, "options", ("Yes",)) else "1"
    (reply,) = Constant(option).ask([Question("", "", form)])
    assert set(form.read(reply.text)) == {option}


@pytest.mark.parametrize(
    ("form", "text", "begun"),
    [
        (Choice(), "Yes, because the passage", True),
        (Choice(), "Okay, there is no mark here", False),
        (Choice(), "", False),
        (Marks(2), "[1, 0] because", True),
        (Marks(2), "A list such as [1, 0]. First", False),
        (Ratings(), '{"coherence": 1, "behavioral": 1} as', True),
        (Ratings(), 'Such as {"coherence": 1, "behavioral": 1}', False),
        (Phrase(), "rivers and lakes and", True),
    ],
)
def test_an_answer_that_was_cut_off_counts_where_it_begins_with_one(form, text, begun):
    assert form.begun(text) is begun
