"""One request to an OpenAI-compatible endpoint: what is sent, and what an answer or an error says."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

_TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
_KEY, _FOR_ALL = {401, 403}, {402, 404, 405, 410}
_OF_QUESTION = re.compile(
    r"content.?(?:filter|policy|management|moderation)|flagged|moderation|safety|context.?(?:length|window|size)"
    r"|too (?:long|large|many tokens)|maximum.{0,20}(?:length|tokens|context)",
    re.IGNORECASE,
)


class Busy(Exception):  # noqa: N818
    """The endpoint may answer later: after `seconds`, where it says so."""

    def __init__(self, said: str, *, seconds: float | None = None, unreachable: bool = False) -> None:
        super().__init__(said)
        self.seconds, self.unreachable = seconds, unreachable


class Refused(Exception):  # noqa: N818
    """It will never answer: `key` for want of a key, `one` because of what this very question says.

    `code` is the HTTP status, and the text what the endpoint said, in one line without the key.
    """

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.code, self.key = code, code in _KEY
        self.one = not self.key and code not in _FOR_ALL and (code == 413 or bool(_OF_QUESTION.search(said)))
        self.may_be_one = not self.key and code not in _FOR_ALL


class Completion(NamedTuple):
    """The text of an answer, "" where it has none; `cut`: it ended for want of tokens."""

    text: str
    cut: bool


def complete(url: str, body: Mapping[str, Any], key: str | None, timeout: float) -> Completion:
    """POST `url`/chat/completions. Raises `Busy` or `Refused`."""
    request = Request(f"{url}/chat/completions", json.dumps(body).encode(), method="POST")  # noqa: S310
    request.add_header("Content-Type", "application/json")
    if key:
        # Unredirected: another address that the endpoint names does not see the key.
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    try:
        with urlopen(request, timeout=timeout) as response:  # noqa: S310
            return _completion(response.read())
    except HTTPError as error:
        with error:
            said = error.read(2000).decode(errors="replace")
        if error.code in _TRANSIENT:
            raise Busy(f"HTTP {error.code}", seconds=_retry_after(error.headers.get("Retry-After"))) from None
        raise Refused(error.code, " ".join(said.replace(key or "\0", "…").split())[:200]) from None
    except (OSError, HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        unreachable = isinstance(error, URLError) and not isinstance(reason, TimeoutError)
        raise Busy(str(reason) or type(error).__name__, unreachable=unreachable) from None


def _completion(raw: bytes) -> Completion:
    """Raises `Busy` for what is not a completion."""
    try:
        (choice, *_) = json.loads(raw)["choices"]
        return Completion(_text(choice["message"].get("content")), choice.get("finish_reason") == "length")
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Busy("what it sent is not a chat completion") from None


def _text(content: Any) -> str:
    """Content is text, or a list of parts of which some are text; anything else says nothing."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        content = "".join(part for part in parts if isinstance(part, str))
    # Half of a surrogate pair is legal in JSON, and in no encoding.
    return content.encode(errors="replace").decode() if isinstance(content, str) else ""


def _retry_after(given: str | None) -> float | None:
    """Seconds, from a number or a date."""
    if not given:
        return None
    try:
        return max(float(given), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(given).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
