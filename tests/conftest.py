"""Shapes and types of annotated functions are checked while the tests run, and only then.

`monosem.lm` is left out: what it is given comes from people, and it answers bad input itself.
"""

import os

# Read when huggingface_hub is first imported: no test may look for the network.
os.environ["HF_HUB_OFFLINE"] = "1"

from jaxtyping import install_import_hook

ROOMS = ("kernels.reference", "shapes.exclusion", "sae", "activations", "training", "evaluation", "text")
ROOMS += ("interpret.coherence", "interpret.entropy", "interpret.lexical", "interpret.sentence")

install_import_hook([f"monosem.{room}" for room in ROOMS], "beartype.beartype")
