"""What a feature means, and how sure we are."""

from monosem.interpret.absorption_task import Absorption, absorption
from monosem.interpret.attribution import Attribution, attribute, beside_random
from monosem.interpret.cached import Cached, Estimate
from monosem.interpret.caption import captions
from monosem.interpret.embedding import coherence
from monosem.interpret.endpoint import EndpointJudge
from monosem.interpret.example import Drawn, Examples, draw
from monosem.interpret.interval import Mean
from monosem.interpret.judge import Judge, Question, Reply
from monosem.interpret.labelling import label, usable
from monosem.interpret.local import LocalJudge
from monosem.interpret.named import named_judge
from monosem.interpret.planning import METHODS, Plan, plan, plans
from monosem.interpret.probing import Probing, sparse_probing
from monosem.interpret.probing_example import Labelled
from monosem.interpret.probing_file import probings, write_probing
from monosem.interpret.proxy import lexical
from monosem.interpret.sampling import Sampling
from monosem.interpret.scoring import Score, score
from monosem.interpret.sentence import SentenceEncoder
from monosem.interpret.shuffle import MIXED, shuffled
from monosem.interpret.similar import by_decoder, by_firing
from monosem.interpret.store import Label, Scored, labels, scores, summaries, write_labels, write_results, write_scores
from monosem.interpret.untrained import untrained

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
    "beside_random",
    "by_decoder",
    "by_firing",
    "captions",
    "coherence",
    "draw",
    "label",
    "labels",
    "lexical",
    "named_judge",
    "plan",
    "plans",
    "probings",
    "score",
    "scores",
    "shuffled",
    "sparse_probing",
    "summaries",
    "untrained",
    "usable",
    "write_labels",
    "write_probing",
    "write_results",
    "write_scores",
]
