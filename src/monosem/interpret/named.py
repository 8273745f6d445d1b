"""A judge by the text a person writes: `endpoint:URL#model` or `local:NAME`."""

from __future__ import annotations

from monosem.interpret.endpoint import EndpointJudge
from monosem.interpret.judge import Judge
from monosem.interpret.local import LocalJudge
from monosem.shapes import InputError

SILENT = ("embedding", "lexical")
"""Judges that answer no questions: they score features, and label nothing."""


def named_judge(
    text: str, *, concurrency: int = 8, batch: int = 8, max_tokens: int | None = None, device: str = "auto"
) -> Judge:
    """Raises `InputError` for any other text, a model that cannot be loaded, an address that is none, or `max_tokens`
    for a local model, which has no use for it."""
    kind, _, rest = text.partition(":")
    if kind == "endpoint":
        url, _, model = rest.rpartition("#")
        return EndpointJudge(url, model, concurrency=concurrency, max_tokens=max_tokens)
    if kind == "local" and rest:
        if max_tokens is not None:
            raise InputError("--max-tokens is for endpoints: a local model writes no more than a question needs")
        return LocalJudge.load(rest, batch=batch, device=device)
    said = " answers no questions" if text in SILENT else " is unknown"
    raise InputError(
        f"judge {text!r}{said}: give endpoint:URL#MODEL, such as endpoint:http://localhost:8000/v1#qwen3, "
        "or local:NAME, a hub name or folder; monosem score alone knows embedding and lexical too"
    )
