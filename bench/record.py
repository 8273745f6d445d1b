"""What recording costs over the bare forward pass cut off after the same layer, in the same process.

python bench/record.py --layer 12 --windows 128 --json
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import torch

import paired
from monosem.activations import Exclusion, Live, calibrate, record
from monosem.lm import LanguageModel
from monosem.shapes import Site
from monosem.text import load_corpus, windows


class Stop(Exception):  # noqa: N818
    """Ends the bare pass after the wanted layer."""


def main() -> None:
    parser = paired.arguments(__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--text", default="news")
    parser.add_argument("--layer", type=int, default=12)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.set_defaults(repeats=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lm = LanguageModel.load(options.model)
    site = Site("resid_post", options.layer)
    text = windows(load_corpus(options.text), lm.tokenizer, part="train")
    text = text._replace(**{key: getattr(text, key)[: options.windows] for key in ("tokens", "documents", "special")})
    block = lm.model.get_submodule(lm.module_path(site))

    def stop(*_: object) -> None:
        raise Stop

    def bare() -> None:
        handle = block.register_forward_hook(stop)
        with torch.no_grad():
            for start in range(0, len(text.tokens), options.batch):
                with suppress(Stop):
                    lm.model(input_ids=text.tokens[start : start + options.batch].to(lm.device), use_cache=False)
        handle.remove()

    exclusion = calibrate(lm, text, [site], Exclusion())
    live = Live(lm, text, [site], exclusion, batch=options.batch)
    everything = torch.arange(len(text.tokens)).numpy()
    folder = Path(tempfile.mkdtemp())

    def to_disk() -> None:
        shutil.rmtree(folder)
        record(lm, text, [site], folder=folder, batch=options.batch)

    candidates = {"bare_forward": bare, "live": lambda: live.rows(everything), "record": to_disk}
    times = paired.interleaved(candidates, options.repeats)
    shutil.rmtree(folder)
    tokens = text.tokens.numel()
    result = paired.medians(times)
    rates = {f"{name}_tokens_per_s": round(tokens / min(values) * 1e3) for name, values in times.items()}
    overhead = {f"{name}_over_bare": round(paired.ratio(times, name, "bare_forward"), 3) for name in ("live", "record")}
    paired.show(
        {
            "model": lm.name,
            "dtype": str(lm.dtype),
            "site": str(site),
            "tokens": tokens,
            **result,
            **rates,
            **overhead,
        },
        options.json,
    )


if __name__ == "__main__":
    main()
