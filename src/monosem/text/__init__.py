"""Text: corpora, their documents, the held-out split, windows of tokens."""

from monosem.lm.tokenizer import tokenizer_hash
from monosem.text.corpus import Corpus, load_corpus
from monosem.text.document import Column
from monosem.text.embedded import EMBEDDED
from monosem.text.encoding import separator_id
from monosem.text.request import Request, enough, read
from monosem.text.split import Split, split
from monosem.text.window import Windows, windows

__all__ = [
    "EMBEDDED",
    "Column",
    "Corpus",
    "Request",
    "Split",
    "Windows",
    "enough",
    "load_corpus",
    "read",
    "separator_id",
    "split",
    "tokenizer_hash",
    "windows",
]
