"""A judge behind an endpoint that fails in every way, and is paid for."""

from __future__ import annotations

import json
import socket
import time
from email.utils import formatdate

import pytest

import planted
from asked import KEY, judge, questions
from monosem.interpret import Cached, EndpointJudge, Question
from monosem.interpret.form import Choice, Marks, Phrase
from refusal import refused


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("MONOSEM_API_KEY", KEY)
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    with planted.endpoint() as served:
        served.answer = lambda system, user: user.split()[-1]
        yield served


def test_an_endpoint_is_asked_as_openai_would_be(server):
    found = list(judge(server).ask([Question("be brief", "say Yes", Choice())]))
    assert [tuple(one) for one in found] == [(0, "Yes", None)]
    (body,) = server.requests
    assert body["path"] == "/v1/chat/completions"
    assert body["model"] == "oracle"
    assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "say Yes"}]
    assert (body["temperature"], body["max_tokens"]) == (0, 16)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_without_a_key_none_is_sent(server, monkeypatch):
    monkeypatch.delenv("MONOSEM_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    list(judge(server).ask(questions(1)))
    assert "Authorization" not in server.headers[0]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    list(judge(server).ask(questions(1)))
    assert server.headers[1]["Authorization"] == "Bearer sk-other"


def test_several_questions_are_on_their_way_at_once(server):
    server.delay = 0.2
    assert len(list(judge(server, concurrency=3).ask(questions(6)))) == 6
    assert 2 <= server.most_at_once <= 3
    server.most_at_once = 0
    list(judge(server, concurrency=1).ask(questions(2)))
    assert server.most_at_once == 1


@pytest.mark.parametrize(
    "trouble",
    [429, 500, 503, (200, {}, b"<html>"), (200, {}, b'{"choices": []}'), (200, {}, b"[]")],
    ids=["limit", "error", "overload", "html", "no-choice", "list"],
)
def test_what_may_pass_is_asked_again(server, trouble):
    server.plan = [trouble, trouble]
    assert [reply.text for reply in judge(server, concurrency=1).ask(questions(2))] == ["Yes", "Yes"]
    assert len(server.requests) == 4


def test_the_wait_is_the_one_the_endpoint_names(server):
    server.plan = [(429, {"Retry-After": "0.3"}, b""), (503, {"Retry-After": formatdate(time.time() - 9)}, b"")]
    begin = time.monotonic()
    assert len(list(judge(server, pause=30.0).ask(questions(1)))) == 1
    assert 0.3 <= time.monotonic() - begin < 5


def test_a_slow_endpoint_is_asked_again_and_then_given_up(server):
    server.delay = 0.4
    slow = judge(server, timeout=0.1, tries=2)
    assert "does not answer (timed out)" in refused(list, slow.ask(questions(1)))
    assert len(server.requests) == 2


def test_an_unreachable_endpoint_is_one_clear_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begin = time.monotonic()
    said = refused(list, EndpointJudge(f"http://127.0.0.1:{port}/v1", "m", pause=0.01, tries=50).ask(questions(20)))
    assert "does not answer (" in said
    assert "check the address" in said
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (401, "the key that was given is refused (HTTP 401)"),
        (403, "the key that was given is refused (HTTP 403)"),
        ((404, {}, f"no such model, says {KEY}".encode()), "HTTP 404: no such model, says …"),
    ],
    ids=["401", "403", "404"],
)
def test_what_will_not_pass_is_refused_at_once_and_without_the_key(server, trouble, said):
    server.plan = [trouble]
    found = refused(list, judge(server).ask(questions(1)))
    assert said in found
    assert KEY not in found
    assert len(server.requests) == 1


def test_a_refused_key_that_was_none_says_so(server, monkeypatch):
    monkeypatch.delenv("MONOSEM_API_KEY")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server.plan = [401]
    assert "no key was given" in refused(list, judge(server).ask(questions(1)))


def test_a_redirect_does_not_get_the_key(server):
    with planted.endpoint() as other:
        server.plan = [(302, {"Location": f"{other.url}/chat/completions"}, b"")]
        refused(list, judge(server).ask(questions(1)))
        assert all("Authorization" not in headers for headers in other.headers)
        assert other.headers


def test_settings_a_model_does_not_take_are_left_out(server):
    says = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    server.plan = [(400, {}, says.encode()), (400, {}, b"temperature does not support 0"), "Yes"]
    assert [reply.text for reply in judge(server, concurrency=1).ask(questions(1))] == ["Yes"]
    assert {"max_tokens", "temperature"}.isdisjoint(server.requests[-1])
    assert server.requests[-1]["max_completion_tokens"] == 16
    server.plan = [(400, {}, b"temperature")] * 2
    assert "HTTP 400: temperature" in refused(list, judge(server).ask(questions(1)))
    server.delay, server.plan = 0.1, [(400, {}, b"temperature")] * 3
    assert len(list(judge(server, concurrency=3).ask(questions(3)))) == 3


def completion(content, finish: str = "stop") -> tuple:
    choice = {"message": {"content": content}, "finish_reason": finish}
    return 200, {}, json.dumps({"choices": [choice]}).encode()


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ([{"type": "text", "text": "Ye"}, {"type": "image"}, {"type": "text", "text": "s"}], "Yes"),
        ([{"type": "text", "text": 3}, 4], ""),
        (3, ""),
        (True, ""),
        (None, ""),
        ("\ud83d Yes", "? Yes"),
    ],
    ids=["parts", "no-parts", "number", "bool", "none", "surrogate"],
)
def test_content_that_is_no_text_is_no_answer(server, tmp_path, content, read):
    server.plan = [completion(content)]
    cached = Cached(judge(server), tmp_path / "answers.sqlite")
    assert [reply.text for reply in cached.ask(questions(1))] == [read]


@pytest.mark.parametrize(
    ("form", "said", "read"),
    [
        (Choice(), "Okay, there is no mark", ""),
        (Choice(), "No, because", "No, because"),
        (Marks(2), "such as [1, 0]", ""),
        (Phrase(), "rivers and", "rivers and"),
    ],
)
def test_a_thought_that_was_cut_off_is_no_answer(server, form, said, read):
    server.plan = [completion(said, "length"), completion(said)]
    asked = [Question("system", "user", form)]
    assert [next(judge(server).ask(asked)).text for _ in range(2)] == [read, said]


@pytest.mark.parametrize(
    "url",
    [
        "http://host/v1?api-key=sk-secret-key",
        "http://host/v1#sk-secret-key",
        "http://sk-secret-key:x@host/v1",
        "http://[::1/v1",
        "http://host:nine/v1",
        "http://host:80:80/v1",
        "http://host:99999/v1",
        "http://ho st/v1",
    ],
)
def test_an_address_that_is_none_or_holds_a_key_is_refused(url):
    said = refused(EndpointJudge, url, "m")
    assert "a key belongs into MONOSEM_API_KEY" in said
    assert KEY not in said


@pytest.mark.parametrize("key", ["sk-se\ncret", "sk-“secret”", "sk-é", "sk secret", "sk-\x07secret"])
def test_a_key_that_cannot_be_sent_is_one_line_without_it(server, monkeypatch, key):
    monkeypatch.setenv("MONOSEM_API_KEY", key)
    said = refused(judge, server)
    assert "the key in MONOSEM_API_KEY" in said
    assert "secret" not in said
    assert "the key in key" in refused(judge, server, key=key)


def test_a_key_with_a_line_break_at_its_end_is_the_key(server, monkeypatch):
    monkeypatch.setenv("MONOSEM_API_KEY", f" {KEY}\r\n")
    list(judge(server).ask(questions(1)))
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
