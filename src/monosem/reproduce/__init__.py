"""Published claims, re-tested: one study a paper, its claims as experiments with a verdict."""

from __future__ import annotations

STUDIES = {
    "interpretability": "what papers say of it, by judges and by proxies (arXiv 2505.24473, 2505.22255)",
    "hierarchical": "HierarchicalTopK, one autoencoder for every sparsity (arXiv 2505.24473)",
    "boost": "SAE Boost, a domain added to a frozen core (arXiv 2507.12990)",
    "ground_truth": "recovery of known features beside explained variance (after arXiv 2602.14111)",
    "kronsae": "KronSAE, a Kronecker-factorised encoder (arXiv 2505.22255)",
}
"""What can be reproduced: the module of this room that holds each name's `STUDY`, and what it is about."""
