"""Feature flow: which latents of other layers a latent comes from and goes to, and steering along the way.

Matching across layers is arXiv 2502.03032 (by cosine) and 2410.07656 (by permutation).
"""

from monosem.flow.along import along_flow
from monosem.flow.applied import steer
from monosem.flow.baseline import differences_in_means, mean_difference, random_direction, random_features
from monosem.flow.classification import Classification, classify
from monosem.flow.coactivation import groups, involved
from monosem.flow.composition import Composition, composition_over
from monosem.flow.cosine import Cosine
from monosem.flow.cut import Cuts, Youden, null_cut, youden
from monosem.flow.deactivating import deactivate, deactivations
from monosem.flow.deactivation import Deactivation
from monosem.flow.design import Design
from monosem.flow.direction import Direction
from monosem.flow.firing import Firing
from monosem.flow.generation import generate
from monosem.flow.graph import Edge, Graph, Span, Vertex, union
from monosem.flow.graph_file import load_graph, save_graph
from monosem.flow.group import Groups, group_name
from monosem.flow.identification import Identification, identify
from monosem.flow.match import Match, Matcher
from monosem.flow.node import Node
from monosem.flow.offline import judge_offline
from monosem.flow.own_threshold import with_own_thresholds
from monosem.flow.pearson import Pearson
from monosem.flow.permutation import Permutation
from monosem.flow.predecessor import Predecessors, followed, origins, predecessors
from monosem.flow.quality import MatchError, Quality, Together, match_error, match_quality, together
from monosem.flow.random_of_top import RandomOfTop
from monosem.flow.random_permutation import RandomPermutation
from monosem.flow.rating import rate
from monosem.flow.removal import Part, Removal
from monosem.flow.rerun import Rerun, clean_pass
from monosem.flow.rotated import RotatedCosine
from monosem.flow.sampling import Sampling
from monosem.flow.schedule import Schedule
from monosem.flow.shortcut import Way
from monosem.flow.skipping import Skipping, skip_layers, skipped
from monosem.flow.steering import Push, Steering
from monosem.flow.strategy import adding, rescaling
from monosem.flow.suite import Suite
from monosem.flow.sweep import Setting, Sweep
from monosem.flow.theme import seeds
from monosem.flow.threshold import thresholds
from monosem.flow.tracing import trace
from monosem.flow.transport import Carried, carried, transcoder
from monosem.flow.weight_cosine import WeightCosine

__all__ = [
    "Carried",
    "Classification",
    "Composition",
    "Cosine",
    "Cuts",
    "Deactivation",
    "Design",
    "Direction",
    "Edge",
    "Firing",
    "Graph",
    "Groups",
    "Identification",
    "Match",
    "MatchError",
    "Matcher",
    "Node",
    "Part",
    "Pearson",
    "Permutation",
    "Predecessors",
    "Push",
    "Quality",
    "RandomOfTop",
    "RandomPermutation",
    "Removal",
    "Rerun",
    "RotatedCosine",
    "Sampling",
    "Schedule",
    "Setting",
    "Skipping",
    "Span",
    "Steering",
    "Suite",
    "Sweep",
    "Together",
    "Vertex",
    "Way",
    "WeightCosine",
    "Youden",
    "adding",
    "along_flow",
    "carried",
    "classify",
    "clean_pass",
    "composition_over",
    "deactivate",
    "deactivations",
    "differences_in_means",
    "followed",
    "generate",
    "group_name",
    "groups",
    "identify",
    "involved",
    "judge_offline",
    "load_graph",
    "match_error",
    "match_quality",
    "mean_difference",
    "null_cut",
    "origins",
    "predecessors",
    "random_direction",
    "random_features",
    "rate",
    "rescaling",
    "save_graph",
    "seeds",
    "skip_layers",
    "skipped",
    "steer",
    "thresholds",
    "together",
    "trace",
    "transcoder",
    "union",
    "with_own_thresholds",
    "youden",
]
