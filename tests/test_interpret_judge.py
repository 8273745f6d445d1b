"""Judges: forms of answers, endpoints that fail in every way, local models, and answers that are kept."""

from __future__ import annotations

import socket
import time
from email.utils import formatdate

import pytest
import torch

import planted
import tiny
from monosem.interpret import Cached, EndpointJudge, LocalJudge, Question, named_judge
from monosem.interpret.form import Choice, Marks, Phrase
from monosem.interpret.judge import Constant, ask
from refusal import refused

KEY = "sk-secret-key"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("MONOSEM_API_KEY", KEY)
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    with planted.endpoint() as served:
        served.answer = lambda system, user: user.split()[-1]
        yield served


def judge(server, **settings) -> EndpointJudge:
    return EndpointJudge(server.url, "oracle", **({"pause": 0.01, "timeout": 5.0} | settings))


def questions(n: int, *answers: str) -> list[Question]:
    """Question i is answered with the i-th of `answers`, else Yes."""
    return [Question("system", f"{i} {answers[i] if i < len(answers) else 'Yes'}", Choice()) for i in range(n)]


@pytest.mark.parametrize(
    ("form", "text", "read"),
    [
        (Choice(), "yes", ["Yes"]),
        (Choice(), "**No**, because yes would be wrong", ["No"]),
        (Choice(), "I would say no.", ["No"]),
        (Choice(), "<think>yes? no?</think>\nNo", ["No"]),
        (Choice(), "Notably so", None),
        (Choice(), "Either yes or no", None),
        (Choice(), "", None),
        (Choice(("1", "2")), "Passage 2", ["2"]),
        (Choice(("1", "2")), "12", None),
        (Marks(3), "[1, 0, 1]", ["Yes", "No", "Yes"]),
        (Marks(3), "like [0, 1]: [0,0,1]", ["No", "No", "Yes"]),
        (Marks(3), "[1, 0]", None),
        (Marks(3), "[1 0 1]", None),
        (Marks(3), "101", None),
        (Phrase(), '\n"rivers and lakes."\nmore', ["rivers and lakes"]),
        (Phrase(), "Label: names of rivers", ["names of rivers"]),
        (Phrase(5), "abcdefgh", ["abcde"]),
        (Phrase(), "...\n", None),
    ],
)
def test_answers_are_read_or_missing_but_never_guessed(form, text, read):
    assert form.read(text) == read


@pytest.mark.parametrize("form", [Choice(), Choice(("1", "2")), Marks(4)], ids=["choice", "number", "marks"])
def test_a_constant_says_what_the_form_reads(form):
    option = "Yes" if "Yes" in getattr(form, "options", ("Yes",)) else "1"
    (reply,) = Constant(option).ask([Question("", "", form)])
    assert set(form.read(reply.text)) == {option}


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


@pytest.mark.parametrize(
    "text",
    [
        "endpoint:ftp://host#m",
        "endpoint:http://host",
        "endpoint:http://me:key@host#m",
        "endpoint:#m",
        "nobody",
        "local:",
    ],
)
def test_a_judge_that_is_none_is_refused(text):
    assert "http" in refused(named_judge, text)


def test_silent_judges_label_nothing():
    assert "answers no questions" in refused(named_judge, "embedding")


def test_malformed_answers_are_asked_once_more_then_missing(server):
    server.plan = ["nonsense", "Yes", "nonsense", "nonsense", "No"]
    asked = ask(judge(server, concurrency=1), questions(3))
    assert asked.answers == [None, ["Yes"], ["No"]]
    assert asked.malformed == 2
    assert asked.missing == 1
    assert "one of these alone: Yes, No" in server.requests[-1]["messages"][1]["content"]


def test_answers_are_kept_and_an_interrupted_run_continues(server, tmp_path):
    path = tmp_path / "answers.sqlite"
    first = Cached(judge(server, concurrency=1, tries=1), path)
    server.plan = ["Yes", "No", 500]
    got = []
    said = refused(lambda: got.extend(first.ask(questions(5))))
    assert "answers that were given are kept" in said
    assert [reply.text for reply in got] == ["Yes", "No"]
    assert first.estimate(questions(5)).requests == 3
    again = list(Cached(judge(server), path).ask(questions(5)))
    assert sorted(reply.index for reply in again) == list(range(5))
    assert {reply.index: reply.text for reply in again}[1] == "No"
    assert len(server.requests) == 3 + 3
    list(Cached(judge(server), path).ask(questions(5)))
    assert len(server.requests) == 6


def test_one_failure_does_not_lose_the_answers_beside_it(server, tmp_path):
    server.delay = 0.1
    server.plan = [500]
    cached = Cached(judge(server, concurrency=4, tries=1), tmp_path / "answers.sqlite")
    refused(list, cached.ask(questions(4)))
    assert cached.estimate(questions(4)).requests == 1


def test_answers_belong_to_judge_settings_and_words(server, tmp_path):
    path = tmp_path / "answers.sqlite"
    list(Cached(judge(server), path).ask(questions(1)))
    others = [
        Cached(EndpointJudge(server.url, "other"), path),
        Cached(judge(server, max_tokens=9), path),
    ]
    assert [one.estimate(questions(1)).requests for one in others] == [1, 1]
    same = Cached(judge(server, concurrency=2), path)
    assert same.estimate(questions(1)).requests == 0
    (question,) = questions(1)
    changed = [question.again(), Question("other", question.user, question.form), Question("system", "0 Yes", Marks(1))]
    assert [same.estimate([one]).requests for one in changed] == [1, 1, 1]


def test_the_same_question_is_asked_once(server, tmp_path):
    cached = Cached(judge(server), tmp_path / "answers.sqlite")
    (question,) = questions(1)
    assert len(list(cached.ask([question] * 3))) == 3
    assert len(server.requests) == 1


def test_the_key_is_written_nowhere(server, tmp_path):
    cached = Cached(judge(server), tmp_path / "answers.sqlite")
    list(cached.ask(questions(2)))
    assert KEY.encode() not in (tmp_path / "answers.sqlite").read_bytes()
    assert KEY not in cached.name + str(cached.settings())


def test_cost_is_counted_before_anything_is_asked(server, tmp_path):
    cached = Cached(judge(server), tmp_path / "answers.sqlite")
    found = cached.estimate([Question("s" * 40, "u" * 8, Choice()), Question("", "", Marks(8))], (2.0, 10.0))
    assert found[:4] == (2, 12, 16 + 64, 0)
    assert found.price == pytest.approx((12 * 2 + 80 * 10) / 1e6)
    assert server.requests == []


def test_a_damaged_file_of_answers_is_one_clear_line(server, tmp_path):
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"not a database, but long enough to look like one" * 100)
    assert "move it away" in refused(list, Cached(judge(server), path).ask(questions(1)))
    assert server.requests == []


@pytest.fixture(scope="module", params=[tiny.llama, tiny.gpt2], ids=["llama", "gpt2"])
def local(request) -> LocalJudge:
    return LocalJudge(request.param(), batch=3)


def log_probability(judge: LocalJudge, prompt: list[int], option: list[int]) -> float:
    tokens = torch.tensor([prompt + option])
    logs = judge.lm.logits(tokens).float().log_softmax(-1)[0]
    return sum(float(logs[len(prompt) - 1 + step, token]) for step, token in enumerate(option))


def test_a_local_model_chooses_by_the_sum_of_log_probabilities(local):
    options = [("cat", "seven birds", "rain"), ("mat", "rain"), ("x", "yz", "seven", "seven birds"), ("on", "a")]
    asked = [Question("the cat", "sat " * (3 + 5 * i), Choice(words)) for i, words in enumerate(options)]
    replies = {reply.index: reply for reply in local.ask(asked)}
    assert sorted(replies) == [0, 1, 2, 3]
    encode = local.lm.tokenizer
    for index, question in enumerate(asked):
        prompt = encode(f"the cat\n\n{question.user}\n\nAnswer:")["input_ids"]
        tokens = [encode(f" {word}")["input_ids"] for word in question.form.options]
        sums = [log_probability(local, prompt, own) for own in tokens]
        best = max(range(len(sums)), key=sums.__getitem__)
        assert replies[index].text == question.form.options[best]
        assert replies[index].odds == pytest.approx(sums[0] - max(sums[1:]), abs=1e-3)


def test_a_local_model_writes_the_same_alone_and_in_a_batch(local):
    asked = [Question("the cat", "sat " * (3 + 4 * i), Phrase()) for i in range(2)]
    together = {reply.index: reply.text for reply in local.ask(asked)}
    alone = [next(local.ask([one])).text for one in asked]
    assert [together[0], together[1]] == alone


def test_a_local_model_refuses_what_it_cannot_read(local):
    assert "reads at most 128" in refused(list, local.ask([Question("cat " * 200, "", Choice())]))


def test_a_local_judge_is_known_by_its_weights():
    one, other = (LocalJudge(tiny.llama(seed=seed)) for seed in (0, 1))
    assert one.name == other.name == "local:tiny-llama"
    assert one.settings() != other.settings()
    assert one.count("the cat") == len(tiny.tokenizer()("the cat")["input_ids"])
