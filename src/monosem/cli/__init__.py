"""The command line: one thin file a command. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import signal
import sys
from importlib import import_module
from types import FrameType

from monosem import __version__

COMMANDS = {
    "demo": "train, measure and read three autoencoders of a real model, from nothing, in minutes",
    "train": "train autoencoders on a model's activations; continues where it stopped",
    "boost": "teach a trained autoencoder new domains, and measure what that costs elsewhere",
    "sites": "where a model's activations can be read and replaced",
    "record": "record activations to disk for later training",
    "evaluate": "measure autoencoders on held-out text",
    "features": "what single features fire on, promote and suppress; what fires on a prompt; features of a word",
    "label": "a short phrase for what features stand for, by a judge that reads their contexts",
    "score": "how far features can be told from others: by judges, sentence embeddings, or tokens alone",
    "attribute": "what features add to the logit of a token after a prompt, and what is left over",
    "probe": "sparse probing of labelled text, and absorption in the first-letter task",
    "flow": "follow a latent through the layers: where it came from, how it changed, where it goes",
    "deactivate": "remove what a feature is said to come from, and see what is left of it, beside controls",
    "skip": "carry features over a layer instead of computing it: what a match between layers explains",
    "steer": "write while latents are added or rescaled: plain and steered text side by side, scored",
    "compare": "two or more autoencoders on the same tokens: paired differences, shared features",
    "report": "write one HTML page about a run",
    "reproduce": "re-test the claims of a paper, with a verdict for each",
    "inspect": "say what a folder or file is: a run, an autoencoder, a store, feature statistics",
}

AGAIN = "run the same command again to continue"
EPILOG = """first steps:
  monosem demo                                            everything at once, into runs/demo
  monosem train --site resid_post.12 --run runs/first     one TopK autoencoder on the embedded model
  monosem evaluate runs/first                             explained variance, cross-entropy recovered, …
  monosem features runs/first 17                          contexts and tokens of feature 17
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; bad input is one line on standard error and exit status 2."""
    parsed = parse(sys.argv[1:] if arguments is None else arguments)
    return _run(import_module(f"monosem.cli.{parsed.command}"), parsed)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read a command line; only the command that is named is imported."""
    parser = argparse.ArgumentParser(
        "monosem",
        description="Learn, measure and read the sparse features of language models.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"monosem {__version__}")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name in arguments[:1]:
            module = import_module(f"monosem.cli.{name}")
            subparser.description = module.__doc__
            module.arguments(subparser)
    return parser.parse_args(arguments)


def _run(module: object, parsed: argparse.Namespace) -> int:
    from monosem.shapes import InputError
    from monosem.training.interruption import Interrupted

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        module.run(parsed)  # type: ignore[attr-defined]
    except InputError as error:
        return _fail(str(error), 2)
    except Interrupted as stop:
        how = f"continue with monosem train --resume {parsed.run}" if parsed.command == "train" else AGAIN
        return _fail(f"{stop}: a checkpoint is written, {how}", 128 + stop.signal_number)
    except KeyboardInterrupt:
        return _fail(f"stopped: what was finished is kept, {AGAIN}", 130)
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:
        return _fail(str(error), 2)
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a command as Ctrl-C does; training has a handler of its own while it runs."""
    raise KeyboardInterrupt


def _fail(message: str, status: int) -> int:
    print(f"monosem: {' '.join(message.split())}", file=sys.stderr)
    return status
