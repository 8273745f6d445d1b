"""Judges by name, and answers that are kept."""

from __future__ import annotations

import pytest

import planted
from asked import KEY, judge, questions
from monosem.interpret import Cached, EndpointJudge, Question, named_judge
from monosem.interpret.form import Choice, Marks
from monosem.interpret.judge import ask
from refusal import refused


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("MONOSEM_API_KEY", KEY)
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    with planted.endpoint() as served:
        served.answer = lambda system, user: user.split()[-1]
        yield served


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


def test_an_unreadable_answer_is_asked_for_again_in_the_next_run(server, tmp_path):
    path = tmp_path / "answers.sqlite"
    server.plan = ["nonsense", "nonsense"]
    assert ask(Cached(judge(server), path), questions(1)).missing == 1
    cached = Cached(judge(server), path)
    assert cached.estimate(questions(1)).requests == 1
    again = ask(cached, questions(1))
    assert (again.missing, again.malformed, len(server.requests)) == (0, 0, 3)


def test_an_unreadable_answer_whose_repetition_was_read_is_known(server, tmp_path):
    path = tmp_path / "answers.sqlite"
    server.plan = ["nonsense", "No"]
    first = ask(Cached(judge(server), path), questions(1))
    again = ask(Cached(judge(server), path), questions(1))
    assert first == again
    assert (again.answers, again.malformed, len(server.requests)) == ([["No"]], 1, 2)


def test_answers_are_recalled_without_asking(server, tmp_path):
    cached = Cached(judge(server, concurrency=1), tmp_path / "answers.sqlite")
    server.plan = ["nonsense", "Yes", "nonsense", "No", "nonsense"]
    ask(cached, questions(3))
    asked = len(server.requests)
    assert cached.recall(questions(4)) == [["No"], ["Yes"], None, None]
    assert len(server.requests) == asked


def test_the_estimate_knows_how_long_answers_may_be(server, tmp_path):
    cached = Cached(judge(server, max_tokens=1000), tmp_path / "answers.sqlite")
    assert cached.estimate(questions(3)).tokens_out == 3000


def test_max_tokens_are_not_for_local_judges():
    assert "--max-tokens is for endpoints" in refused(named_judge, "local:nowhere", max_tokens=9)
    assert "embedding and lexical" in refused(named_judge, "embeding")
