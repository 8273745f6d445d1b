"""Where dense products overtake sparse rows: decoding and its gradients at several shares of active latents.

python bench/density.py --json
"""

from __future__ import annotations

import torch

import paired
from monosem import kernels
from monosem.sae.function import decode
from monosem.shapes.codes import Codes


def main() -> None:
    parser = paired.arguments(__doc__)
    parser.set_defaults(repeats=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(0)
    rows, n_latents, width = 1024, 8192, 512
    weight = torch.randn(n_latents, width, generator=generator, requires_grad=True)
    pre = torch.rand(rows, n_latents, generator=generator)
    result: dict[str, object] = {}
    for share in (0.01, 0.02, 0.05, 0.1, 0.2):
        chosen = kernels.above(pre, torch.full((n_latents,), 1 - share))
        sparse = Codes(chosen.values.requires_grad_(), chosen.indices, n_latents, chosen.offsets)
        dense = Codes((pre * (pre > 1 - share)).requires_grad_(), None, n_latents)
        both = {"sparse": lambda s=sparse: decode(s, weight).sum().backward()}
        both["dense"] = lambda d=dense: decode(d, weight).sum().backward()
        result[f"sparse over dense at {share:.0%}"] = round(
            paired.ratio(paired.interleaved(both, options.repeats), *both), 3
        )
    paired.show(result, options.json)


if __name__ == "__main__":
    main()
