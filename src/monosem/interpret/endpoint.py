"""A judge behind any OpenAI-compatible endpoint: POST URL/chat/completions."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from monosem.interpret.judge import Question, Reply
from monosem.shapes import InputError

KEYS = ("MONOSEM_API_KEY", "OPENAI_API_KEY")
"""Environment variables a key is taken from, the first that is set; it is written nowhere."""
_LONGEST_WAIT = 120.0
_TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}


class EndpointJudge:
    """A model at `url` (without `/chat/completions`), asked at temperature 0, `concurrency` questions at a time.

    What a busy or failing endpoint does not answer is asked again up to `tries` times, after the time it names or
    twice as long each time. `max_tokens` replaces the few tokens a question asks for, as models that think need.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        concurrency: int = 8,
        per_question: int = 8,
        tries: int = 6,
        timeout: float = 120.0,
        pause: float = 1.0,
        max_tokens: int | None = None,
    ) -> None:
        """`key`: by default from the environment (`KEYS`), none where that is empty. Raises `InputError`."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or not model:
            raise InputError(
                "a judge's endpoint needs an address and a model, such as https://api.openai.com/v1#gpt-4o-mini; "
                f"a key belongs into {KEYS[0]}"
            )
        self.url, self.model, self.name = url.rstrip("/"), model, f"endpoint:{url.rstrip('/')}#{model}"
        self.per_question, self.concurrency, self.tries = per_question, concurrency, tries
        self.timeout, self.pause, self.max_tokens = timeout, pause, max_tokens
        self._key = key or next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        self._stop, self._answered = threading.Event(), False
        self._renamed: dict[str, str | None] = {}

    def settings(self) -> dict[str, Any]:
        return {"temperature": 0, "max_tokens": self.max_tokens}

    def count(self, text: str) -> int:
        """About: four characters a token."""
        return -(-len(text) // 4)

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Raises `InputError` when the endpoint cannot be reached, refuses the key, or fails `tries` times."""
        self._stop.clear()
        failure: InputError | None = None
        with ThreadPoolExecutor(self.concurrency) as pool:
            waiting = {pool.submit(self._answer, question): index for index, question in enumerate(questions)}
            try:
                for future in as_completed(waiting):
                    if future.cancelled():
                        continue
                    try:
                        text = future.result()
                    except InputError as error:
                        failure = failure or error
                        self._end(waiting)
                    else:
                        if text is not None:
                            yield Reply(waiting[future], text)
            finally:
                self._end(waiting)
        if failure is not None:
            raise failure

    def _end(self, waiting: Mapping[Any, int]) -> None:
        """Start no further question; what is on its way is still read."""
        self._stop.set()
        for future in waiting:
            future.cancel()

    def _answer(self, question: Question) -> str | None:
        """None where another question has ended it all."""
        if self._stop.is_set():
            return None
        try:
            text = self._insist(question)
        except InputError:
            self._stop.set()
            raise
        self._answered = True
        return text

    def _insist(self, question: Question) -> str:
        said = ""
        for attempt in range(self.tries):
            try:
                return self._send(question)
            except _Busy as busy:
                said = str(busy)
                if self._hopeless(busy, attempt) or self._stop.wait(self._wait(busy, attempt)):
                    break
        raise InputError(
            f"{self.name} does not answer ({said}): check the address, or wait; answers that were given are kept, "
            "run the same command again to continue"
        )

    def _hopeless(self, busy: _Busy, attempt: int) -> bool:
        """The last attempt; or nobody has answered there yet, and nobody does at the second attempt."""
        return attempt + 1 == self.tries or (busy.unreachable and not self._answered and attempt > 0)

    def _wait(self, busy: _Busy, attempt: int) -> float:
        return min(busy.seconds if busy.seconds is not None else self.pause * 2**attempt, _LONGEST_WAIT)

    def _send(self, question: Question) -> str:
        renamed = dict(self._renamed)
        body = json.dumps(self._body(question, renamed)).encode()
        request = Request(f"{self.url}/chat/completions", body, method="POST")  # noqa: S310
        request.add_header("Content-Type", "application/json")
        if self._key:
            # Unredirected: another address that the endpoint names does not see the key.
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        try:
            with urlopen(request, timeout=self.timeout) as response:  # noqa: S310
                return _content(response.read())
        except HTTPError as error:
            said = self._refused(error)
            if error.code == 400 and (new := _repair(said, renamed)):
                self._renamed |= new
                return self._send(question)
            raise InputError(
                f"{self.name} refuses a question (HTTP {error.code}: {said}): check the address and the model"
            ) from None
        except (OSError, HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            unreachable = isinstance(error, URLError) and not isinstance(reason, TimeoutError)
            raise _Busy(str(reason) or type(error).__name__, unreachable=unreachable) from None

    def _body(self, question: Question, renamed: Mapping[str, str | None]) -> dict[str, Any]:
        optional = {"temperature": 0, "max_tokens": self.max_tokens or question.form.tokens}
        named = {renamed.get(name, name): value for name, value in optional.items()}
        messages = [{"role": "system", "content": question.system}, {"role": "user", "content": question.user}]
        return {"model": self.model, "messages": messages} | {name: value for name, value in named.items() if name}

    def _refused(self, error: HTTPError) -> str:
        """What was said, in one line. Raises `_Busy` for what may pass, `InputError` for a key."""
        with error:
            said = error.read(2000).decode(errors="replace")
        if error.code in _TRANSIENT:
            raise _Busy(f"HTTP {error.code}", seconds=_retry_after(error.headers.get("Retry-After")))
        if error.code in (401, 403):
            given = "no key was given" if self._key is None else "the key that was given is refused"
            raise InputError(f"{self.name}: {given} (HTTP {error.code}): set {KEYS[0]} in the environment")
        return " ".join(said.replace(self._key or "\0", "…").split())[:200]


class _Busy(Exception):  # noqa: N818
    """The endpoint may answer later: after `seconds`, where it says so."""

    def __init__(self, said: str, *, seconds: float | None = None, unreachable: bool = False) -> None:
        super().__init__(said)
        self.seconds, self.unreachable = seconds, unreachable


def _content(raw: bytes) -> str:
    """The text of an answer, "" where it has none. Raises `_Busy` for what is not a completion."""
    try:
        return json.loads(raw)["choices"][0]["message"].get("content") or ""
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _Busy("what it sent is not a chat completion") from None


def _repair(said: str, known: Mapping[str, str | None]) -> dict[str, str | None]:
    """Settings that some models call by another name, or do not take."""
    new: dict[str, str | None] = {}
    if "max_completion_tokens" in said:
        new["max_tokens"] = "max_completion_tokens"
    elif "temperature" in said:
        new["temperature"] = None
    return {name: value for name, value in new.items() if name not in known}


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
