"""An endpoint that refuses single questions, and a run that is interrupted: no answer is lost."""

from __future__ import annotations

import json
import signal
import threading
import time

import pytest

import planted
from asked import KEY, judge, questions
from monosem.interpret import Cached
from monosem.interpret.judge import ask
from refusal import refused

pytestmark = pytest.mark.slow


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("MONOSEM_API_KEY", KEY)
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    with planted.endpoint() as served:
        served.answer = lambda system, user: user.split()[-1]
        yield served


def refusing(server, status: int, said: str, *which: str) -> None:
    """Questions that begin with one of some words are refused for good."""
    reply = server.reply

    def answered(body, headers):
        if body["messages"][1]["content"].split()[0] in which:
            server.requests.append(body)
            return status, {}, json.dumps({"error": {"message": said}}).encode()
        return reply(body, headers)

    server.reply = answered


@pytest.mark.parametrize(
    ("status", "said"),
    [(400, "content_filter"), (413, ""), (422, "no"), (400, "maximum context length is 4096 tokens")],
    ids=["filter", "size", "other", "length"],
)
def test_a_question_that_is_refused_for_good_is_missing_and_ends_nothing(server, tmp_path, status, said):
    refusing(server, status, said, "1")
    asked = ask(Cached(judge(server, concurrency=1), tmp_path / "answers.sqlite"), questions(5))
    assert asked.answers == [["Yes"], None, ["Yes"], ["Yes"], ["Yes"]]
    assert (asked.malformed, asked.missing) == (1, 1)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_an_endpoint_that_refuses_everything_is_asked_a_few_times_only(server, concurrency):
    refusing(server, 422, "model has no chat", *map(str, range(50)))
    said = refused(list, judge(server, concurrency=concurrency).ask(questions(50)))
    assert "HTTP 422: " in said
    assert "check the address and the model" in said
    assert len(server.requests) <= 3 + 2 * concurrency
    assert "HTTP 422" in refused(list, judge(server).ask(questions(1)))


def test_where_every_text_is_filtered_all_is_missing(server):
    refusing(server, 400, "flagged by moderation", *map(str, range(20)))
    assert ask(judge(server), questions(20)).missing == 20


def test_an_account_without_credit_says_so(server):
    server.plan = [402]
    assert "no credit left" in refused(list, judge(server).ask(questions(3)))


@pytest.fixture(autouse=True)
def interruptible(monkeypatch):
    """A process that was started in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(server, served: int) -> None:
    """Ctrl-C as soon as so many requests have come."""

    def wait() -> None:
        while len(server.requests) < served:
            time.sleep(0.005)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def test_an_interrupt_loses_no_answer_that_is_on_its_way(server, tmp_path):
    server.delay = 0.4
    cached = Cached(judge(server, concurrency=4), tmp_path / "answers.sqlite")
    interrupt(server, 6)
    with pytest.raises(KeyboardInterrupt):
        ask(cached, questions(20))
    assert 6 <= len(server.requests) <= 8
    assert cached.estimate(questions(20)).known == len(server.requests)


def test_an_interrupt_of_whoever_takes_the_answers_loses_none(server, tmp_path):
    server.delay = 0.2
    cached = Cached(judge(server, concurrency=4), tmp_path / "answers.sqlite")
    replies = cached.ask(questions(20))
    next(replies)
    replies.close()
    assert 4 <= len(server.requests) <= 8
    assert cached.estimate(questions(20)).known == len(server.requests)


def test_a_second_interrupt_waits_for_nothing(server):
    server.delay = 1.5
    interrupt(server, 2)
    threading.Timer(0.4, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(judge(server, concurrency=2).ask(questions(9)))
    assert time.monotonic() - begin < 1.4
