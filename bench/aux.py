"""What the auxiliary loss for dead latents costs: a TopK step with a share of latents dead, over one with none dead.

python bench/aux.py --n-latents 16384 --k 64 --json
"""

from __future__ import annotations

import torch

import paired
from step import make_job, step_arguments


def main() -> None:
    parser = step_arguments(__doc__)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    x, sst = torch.randn(options.batch, options.d_model), torch.tensor(1.0)
    shares = {"none": 0.0, "1%": 0.01, "10%": 0.1, "50%": 0.5}
    candidates = {}
    for label, share in shares.items():
        job = make_job("topk", options, x)
        job.dead = torch.randperm(options.n_latents)[: int(share * options.n_latents)].sort().values
        candidates[label] = lambda job=job: job.step(x, 1e-4, 1, sst)
    wide = make_job("topk", options, x)
    wide.objective.k_aux = options.d_model // 2
    wide.dead = torch.randperm(options.n_latents)[: options.n_latents // 10].sort().values
    candidates["10%, k_aux d/2"] = lambda: wide.step(x, 1e-4, 1, sst)
    times = paired.interleaved(candidates, options.repeats)
    result: dict[str, object] = dict(paired.medians(times))
    result |= {
        f"{label} over none": round(paired.ratio(times, label, "none"), 3) for label in candidates if label != "none"
    }
    paired.show({"n_latents": options.n_latents, "k": options.k, "k_aux": 2 * options.k, **result}, options.json)


if __name__ == "__main__":
    main()
