"""A judge behind any OpenAI-compatible endpoint: POST URL/chat/completions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from monosem.interpret.completion import Busy, Refused, complete
from monosem.interpret.judge import Question, Reply
from monosem.interpret.worker import as_completed
from monosem.progress import remark
from monosem.shapes import InputError

KEYS = ("MONOSEM_API_KEY", "OPENAI_API_KEY")
"""Environment variables a key is taken from, the first that is set; it is written nowhere."""
_LONGEST_WAIT = 120.0
_FEW = 3
"""Questions refused before any was answered that make it the endpoint's fault; more where more are asked at once."""


class EndpointJudge:
    """A model at `url` (without `/chat/completions`), asked at temperature 0, `concurrency` questions at a time.

    What a busy or failing endpoint does not answer is asked again up to `tries` times, after the time it names or
    twice as long each time. A question that it refuses for what the question says has the answer "", which is missing.
    `max_tokens` replaces the few tokens a question asks for, as models that think need.
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
        _check(url, model)
        self.url, self.model, self.name = url.rstrip("/"), model, f"endpoint:{url.rstrip('/')}#{model}"
        self.per_question, self.concurrency, self.tries = per_question, concurrency, tries
        self.timeout, self.pause, self.max_tokens = timeout, pause, max_tokens
        self._key = _key(key)
        self._answered = False
        self._refused: list[Refused] = []
        self._renamed: dict[str, str | None] = {}

    def settings(self) -> dict[str, Any]:
        return {"temperature": 0, "max_tokens": self.max_tokens}

    def count(self, text: str) -> int:
        """About: four characters a token."""
        return -(-len(text) // 4)

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Raises `InputError` when the endpoint cannot be reached, refuses the key or everything, or fails `tries`
        times; that and Ctrl-C only after every answer that was on its way."""
        self._refused = []

        def reply(index: int, stop: Event) -> Reply | None:
            text = self._answer(questions[index], stop)
            return None if text is None else Reply(index, text)

        yield from as_completed(reply, len(questions), self.concurrency)
        if self._refused and not self._answered and not all(one.one for one in self._refused):
            raise self._refusal(self._refused[-1])

    def _answer(self, question: Question, stop: Event) -> str | None:
        """ "" where the question is refused, None where another one has ended it all before."""
        said = ""
        for attempt in range(self.tries):
            try:
                return self._send(question)
            except Refused as refused:
                return self._without(refused)
            except Busy as busy:
                said = str(busy)
                if self._hopeless(busy, attempt):
                    break
                if stop.wait(self._wait(busy, attempt)):
                    return None
        raise InputError(
            f"{self.name} does not answer ({said}): check the address, or wait; answers that were given are kept, "
            "run the same command again to continue"
        )

    def _hopeless(self, busy: Busy, attempt: int) -> bool:
        """The last attempt; or nobody has answered there yet, and nobody does at the second attempt."""
        return attempt + 1 == self.tries or (busy.unreachable and not self._answered and attempt > 0)

    def _wait(self, busy: Busy, attempt: int) -> float:
        return min(busy.seconds if busy.seconds is not None else self.pause * 2**attempt, _LONGEST_WAIT)

    def _send(self, question: Question) -> str:
        renamed = dict(self._renamed)
        try:
            found = complete(self.url, self._body(question, renamed), self._key, self.timeout)
        except Refused as refused:
            if refused.code == 400 and (new := _repair(str(refused), renamed)):
                self._renamed |= new
                return self._send(question)
            raise
        self._answered = True
        return found.text if not found.cut or question.form.begun(found.text) else ""

    def _without(self, refused: Refused) -> str:
        """No answer, where it is the question that is refused. Raises `InputError` where it is everything."""
        self._refused.append(refused)
        alone = refused.one or (
            refused.may_be_one and (self._answered or len(self._refused) < max(_FEW, self.concurrency + 1))
        )
        if not alone:
            raise self._refusal(refused)
        remark(f"{self.name} refuses a question (HTTP {refused.code}: {refused}): its answer is missing")
        return ""

    def _refusal(self, refused: Refused) -> InputError:
        if refused.key:
            given = "no key was given" if self._key is None else "the key that was given is refused"
            return InputError(f"{self.name}: {given} (HTTP {refused.code}): set {KEYS[0]} in the environment")
        todo = "its account has no credit left" if refused.code == 402 else "check the address and the model"
        return InputError(f"{self.name} refuses a question (HTTP {refused.code}: {refused}): {todo}")

    def _body(self, question: Question, renamed: Mapping[str, str | None]) -> dict[str, Any]:
        optional = {"temperature": 0, "max_tokens": self.max_tokens or question.form.tokens}
        named = {renamed.get(name, name): value for name, value in optional.items()}
        messages = [{"role": "system", "content": question.system}, {"role": "user", "content": question.user}]
        return {"model": self.model, "messages": messages} | {name: value for name, value in named.items() if name}


def _check(url: str, model: str) -> None:
    """An address without anything that could be a key: it stands in names and files. It is not repeated here."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
        secret = parts.username or parts.query or parts.fragment
    except ValueError:
        good, secret = False, None
    if not good or secret or not model or any(map(str.isspace, url)):
        raise InputError(
            "a judge's endpoint needs an address and a model, such as https://api.openai.com/v1#gpt-4o-mini, without "
            f"a name, key or query; a key belongs into {KEYS[0]}"
        )


def _key(given: str | None) -> str | None:
    """A key read from a file often ends with a line break."""
    named = {"key": given} if given else {name: os.environ[name] for name in KEYS if os.environ.get(name, "").strip()}
    for name, value in named.items():
        key = value.strip()
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise InputError(f"the key in {name} is not one word of ASCII characters: copy it again")
        return key
    return None


def _repair(said: str, known: Mapping[str, str | None]) -> dict[str, str | None]:
    """Settings that some models call by another name, or do not take."""
    new: dict[str, str | None] = {}
    if "max_completion_tokens" in said:
        new["max_tokens"] = "max_completion_tokens"
    elif "temperature" in said:
        new["temperature"] = None
    return {name: value for name, value in new.items() if name not in known}
