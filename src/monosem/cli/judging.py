"""What labelling and scoring share: flags, the judge, the features drawn, and the cost before the first question."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from monosem.cli import flag, subject
from monosem.cli.output import say
from monosem.shapes import InputError

if TYPE_CHECKING:
    from monosem.evaluation import FeatureStatistics
    from monosem.interpret import Cached, Drawn, Question
    from monosem.sae import SAE

WINDOWS = 512
"""A feature that fires once in a thousand tokens does so about a hundred times in as many windows of 256."""
JUDGES = """judges:
  endpoint:URL#MODEL   any OpenAI-compatible endpoint; the key is taken from MONOSEM_API_KEY or OPENAI_API_KEY
  local:NAME           a causal language model by hub name or folder, in this process"""


def arguments(parser: argparse.ArgumentParser, judges: str, more: str = "") -> None:
    subject.arguments(parser, windows=WINDOWS)
    subject.choosing(parser)
    parser.epilog = f"{JUDGES}\n{more}\n{parser.epilog}"
    parser.add_argument("--judge", required=True, help=judges)
    parser.add_argument("--features", type=int, default=50, metavar="N", help="features drawn at random (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="draws the features (default: 0)")
    parser.add_argument(
        "--examples",
        type=int,
        default=64,
        metavar="N",
        help="contexts in which a feature fires, and as many in which it is silent (default: 64 of each)",
    )
    parser.add_argument(
        "--width", type=int, default=15, metavar="N", help="tokens on either side of a context (default: 15)"
    )
    parser.add_argument(
        "--least", type=int, default=16, metavar="N", help="features with fewer of either are skipped (default: 16)"
    )
    parser.add_argument(
        "--hard",
        choices=["decoder", "firing", "none"],
        default="decoder",
        help="half of the silent contexts are such that a similar feature fires: one with a similar decoder row, or "
        "one that fires on the same tokens (default: decoder)",
    )
    parser.add_argument("--price", metavar="IN,OUT", help="price of a million tokens, for the estimate")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="tokens of an answer, for endpoints that think")
    parser.add_argument(
        "--concurrency", type=int, default=8, metavar="N", help="questions at a time, endpoints (default: 8)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what it would cost, and ask nothing")
    flag.shared(parser)


def price(text: str | None) -> tuple[float, float] | None:
    """Two numbers, such as 0.15,0.6. Raises `InputError` for anything else."""
    try:
        first, second = (float(part) for part in (text or "0,0").split(","))
    except ValueError:
        first = second = math.nan
    if not (0 <= first < math.inf and 0 <= second < math.inf):
        raise InputError(f"--price {text}: give what a million tokens sent and answered cost, such as 0.15,0.6")
    return None if text is None else (first, second)


def open_judge(parsed: argparse.Namespace) -> Cached:
    """Raises `InputError` for a judge that is unknown or answers no questions."""
    from monosem.interpret import Cached, named_judge

    price(parsed.price)
    if parsed.concurrency < 1 or (parsed.max_tokens is not None and parsed.max_tokens < 1):
        raise InputError("--concurrency and --max-tokens: give at least 1")
    return Cached(
        named_judge(
            parsed.judge,
            concurrency=parsed.concurrency,
            max_tokens=parsed.max_tokens,
            device=parsed.device or "auto",
        )
    )


def drawn(
    parsed: argparse.Namespace,
    sae: SAE,
    statistics: FeatureStatistics,
    latents: Sequence[int] | None = None,
    judged: bool = True,
) -> Drawn:
    """The features of one autoencoder with their contexts. Raises `InputError` when none has enough."""
    from monosem.interpret import Sampling, by_decoder, by_firing, draw

    similar = {"decoder": lambda: by_decoder(sae.W_dec), "firing": lambda: by_firing(statistics), "none": lambda: None}
    sizes = {"positives": parsed.examples, "negatives": parsed.examples, "least": parsed.least}
    return draw(
        statistics,
        parsed.features,
        seed=parsed.seed,
        similar=similar[parsed.hard](),
        hard_by=parsed.hard,
        sampling=Sampling(width=parsed.width, **sizes),
        latents=latents,
        judged=judged,
    )


def announce(parsed: argparse.Namespace, judge: Cached, questions: Sequence[Question]) -> tuple[dict[str, Any], str]:
    """Say what asking will cost: the estimate, JSON-able, and a line that a dry run prints as its result."""
    found = judge.estimate(questions, price(parsed.price))
    cost = (
        "" if found.price is None else f", about {found.price:,.2f} by --price and up to twice that if little is read"
    )
    line = (
        f"{judge.name}: {found.requests:,} questions, about {found.tokens_in:,} tokens to read and at most "
        f"{found.tokens_out:,} to write{cost}; {found.known:,} answers are known already"
    )
    if parsed.json or not parsed.dry_run:
        say(line)
    return found._asdict(), line


def remark(opened: subject.Subject) -> None:
    """Say where results are not stored, before anything is paid for."""
    if not opened.own:
        say(f"note: results are printed, not stored: {' and '.join(opened.differing)} differ from training")


def origin(name: str, one: Drawn, judged: bool = True) -> str:
    """One line on which features were drawn, and by which contexts they are judged."""
    how = "named" if one.seed is None else f"drawn with seed {one.seed}"
    contexts = f"; {_contexts(one)}" if judged else ""
    return (
        f"{name}: {len(one.features)} of {one.alive:,} features that fire in {one.tokens:,} tokens, {how}; passed over:"
        f" {one.few} that fire too seldom, {one.dense} too often{contexts}"
    )


def _contexts(one: Drawn) -> str:
    """How many contexts a feature is judged by, and how far they are from the mix that was asked for."""
    hard = "" if math.isnan(one.hard) or one.hard_by == "none" else f", {one.hard:.0%} of the silent ones hard"
    return f"{one.positives:.0f} positives a feature, {one.strong:.0%} from its stronger half{hard}"
