"""Shapes and types of annotated functions are checked while the tests run, and only then.

`monosem.lm` is left out: what it is given comes from people, and it answers bad input itself.
"""

import os

# Read when huggingface_hub is first imported: no test may look for the network.
os.environ["HF_HUB_OFFLINE"] = "1"

from jaxtyping import install_import_hook

ROOMS = ("kernels.reference", "shapes.exclusion", "sae", "activations", "training", "evaluation", "text")
ROOMS += ("interpret.embedding", "interpret.entropy", "interpret.proxy", "interpret.sentence")
ROOMS += ("flow.candidate", "flow.composition", "flow.cosine", "flow.cut", "flow.direction")
ROOMS += ("flow.firing", "flow.folding", "flow.greatest", "flow.match", "flow.node")
ROOMS += ("flow.own_threshold", "flow.passage", "flow.pearson", "flow.quality")
ROOMS += ("flow.random_of_top", "flow.random_permutation", "flow.skipping", "flow.suite", "flow.threshold")
ROOMS += ("flow.transport",)
ROOMS += ("flow.deactivation", "flow.design", "flow.entering", "flow.group", "flow.identification", "flow.occurrence")
ROOMS += ("flow.outcome", "flow.removal", "flow.rerun", "flow.rotated", "flow.trial")

install_import_hook([f"monosem.{room}" for room in ROOMS], "beartype.beartype")
