"""Activations for training: live from a model or from a store on disk, excluded by one rule, shuffled, resumable."""

from monosem.activations.live import Live, calibrate, rounding_loss
from monosem.activations.recording import recorded
from monosem.activations.store import Store, record, store_bytes, store_folder, store_identity
from monosem.activations.stream import Rows, Source, Stream
from monosem.shapes.exclusion import Exclusion

__all__ = [
    "Exclusion",
    "Live",
    "Rows",
    "Source",
    "Store",
    "Stream",
    "calibrate",
    "record",
    "recorded",
    "rounding_loss",
    "store_bytes",
    "store_folder",
    "store_identity",
]
