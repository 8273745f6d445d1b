"""What a feature means, and how sure we are."""

from monosem.interpret.absorption_task import Absorption, absorption
from monosem.interpret.attribution import Attribution, attribute
from monosem.interpret.cached import Cached, Estimate
from monosem.interpret.coherence import coherence
from monosem.interpret.endpoint import EndpointJudge
from monosem.interpret.example import MIXED, Drawn, Examples, Sampling, draw, shuffled
from monosem.interpret.interval import Mean
from monosem.interpret.judge import Judge, Question, Reply
from monosem.interpret.label import label
from monosem.interpret.lexical import lexical
from monosem.interpret.local import LocalJudge
from monosem.interpret.named import named_judge
from monosem.interpret.probing import Probing, sparse_probing
from monosem.interpret.probing_example import Labelled
from monosem.interpret.score import METHODS, Plan, Score, plan, score
from monosem.interpret.sentence import SentenceEncoder
from monosem.interpret.similar import by_decoder, by_firing
from monosem.interpret.store import Label, Scored, labels, scores, write_labels, write_scores

__all__ = [
    "METHODS",
    "MIXED",
    "Absorption",
    "Attribution",
    "Cached",
    "Drawn",
    "EndpointJudge",
    "Estimate",
    "Examples",
    "Judge",
    "Label",
    "Labelled",
    "LocalJudge",
    "Mean",
    "Plan",
    "Probing",
    "Question",
    "Reply",
    "Sampling",
    "Score",
    "Scored",
    "SentenceEncoder",
    "absorption",
    "attribute",
    "by_decoder",
    "by_firing",
    "coherence",
    "draw",
    "label",
    "labels",
    "lexical",
    "named_judge",
    "plan",
    "score",
    "scores",
    "shuffled",
    "sparse_probing",
    "write_labels",
    "write_scores",
]
