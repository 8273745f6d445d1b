"""Text: corpora, their documents, the held-out split, windows of tokens."""

from monosem.lm.tokenizer import tokenizer_hash
from monosem.text.corpus import EMBEDDED, Corpus, load_corpus
from monosem.text.split import Split, split
from monosem.text.window import Windows, separator_id, windows

__all__ = [
    "EMBEDDED",
    "Corpus",
    "Split",
    "Windows",
    "load_corpus",
    "separator_id",
    "split",
    "tokenizer_hash",
    "windows",
]
