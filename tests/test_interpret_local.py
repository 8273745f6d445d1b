"""A judge in this process, by the log-probabilities of a language model."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import planted
import tiny
from monosem.interpret import METHODS, LocalJudge, Question, draw, label, plan, score
from monosem.interpret.form import Choice, Marks, Phrase
from monosem.interpret.interval import auc
from monosem.lm import LanguageModel
from refusal import refused

pytestmark = pytest.mark.slow


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
    assert one.name.startswith("local:tiny-llama@")
    assert one.name != other.name
    assert one.name == LocalJudge(tiny.llama(seed=0)).name
    assert one.settings() != other.settings()
    assert one.count("the cat") == len(tiny.tokenizer()("the cat")["input_ids"])


TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking is not false %}<think>{% endif %}{% endif %}"
)
ALONE = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE


@pytest.mark.parametrize("template", [TEMPLATE, ALONE], ids=["system", "no-system"])
def test_a_chat_template_is_used_whole(template, monkeypatch):
    local = LocalJudge(tiny.llama())
    monkeypatch.setattr(local.lm.tokenizer, "chat_template", template)
    question = Question("the cat", "sat on", Choice(("mat", "a mat")))
    wanted = "<system>the cat<user>sat on<assistant>" if template == TEMPLATE else "<user>the cat\n\nsat on<assistant>"
    (reply,) = local.ask([question])
    encode = local.lm.tokenizer
    prompt = encode(wanted, add_special_tokens=False)["input_ids"]
    # What the assistant says begins at once, without a space.
    sums = [
        log_probability(local, prompt, encode(word, add_special_tokens=False)["input_ids"]) for word in ("mat", "a mat")
    ]
    assert reply.odds == pytest.approx(sums[0] - sums[1], abs=1e-3)
    assert reply.text == ("mat" if sums[0] > sums[1] else "a mat")


def test_a_thought_that_the_template_opens_is_no_answer(monkeypatch):
    local = LocalJudge(tiny.llama())
    monkeypatch.setattr(local.lm.tokenizer, "chat_template", TEMPLATE.replace("is not false", "is false"))
    written = next(local.ask([Question("the cat", "sat", Phrase())])).text
    assert written.startswith("<think>")
    assert Phrase().read(written) is None


@pytest.mark.parametrize(("said", "kept"), [("such as [1, 0]", False), ("[1, 0]", True)])
def test_a_written_answer_that_was_cut_off_is_none_unless_it_begins_as_one(monkeypatch, said, kept):
    local = LocalJudge(tiny.llama())
    tokens = local.lm.tokenizer(said)["input_ids"]

    def generate(input_ids, **_):
        return torch.cat([input_ids, torch.tensor([tokens])], dim=1)

    monkeypatch.setattr(local.lm.model, "generate", generate)
    assert next(local.ask([Question("", "the", Marks(2))])).text == (said if kept else "")
    tokens.append(local.lm.tokenizer.eos_token_id)
    assert next(local.ask([Question("", "the", Marks(2))])).text == said


class Automaton(torch.nn.Module):
    """A causal model that writes on, token by token, what somebody answers who knows the planted words."""

    def __init__(self, inner: LanguageModel) -> None:
        super().__init__()
        self.lm, self.config, self.generation_config = inner, inner.model.config, inner.model.generation_config
        self.get_input_embeddings = inner.model.get_input_embeddings

    def forward(self, input_ids, use_cache, logits_to_keep):
        rows = [[self.next(row[: place + 1].tolist()) for place in logits_to_keep.tolist()] for row in input_ids]
        return SimpleNamespace(logits=8 * torch.nn.functional.one_hot(torch.tensor(rows), self.lm.vocab_size).float())

    def next(self, tokens: list[int]) -> int:
        asked, _, said = self.lm.tokenizer.decode(tokens).partition("\n\nAnswer:")
        answer = f" {planted.oracle(*asked.split(chr(10) * 2, 1))}"
        over = answer == said or not answer.startswith(said)
        rest = [] if over else self.lm.tokenizer(answer.removeprefix(said))["input_ids"]
        return rest[0] if rest else self.lm.tokenizer.eos_token_id

    def generate(self, input_ids, attention_mask, max_new_tokens, **_):
        rows = [row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)]
        written: list[list[int]] = [[] for _ in rows]
        for row, new in zip(rows, written, strict=True):
            while len(new) < max_new_tokens:
                new.append(self.next(row + new))
        return torch.cat([input_ids, torch.tensor(written)], dim=1)


@pytest.fixture(scope="module")
def reader() -> LocalJudge:
    """A local judge that is able: the path from words to scores is the one of every local model."""
    lm = tiny.llama()
    lm.model.config.max_position_embeddings = 100_000
    judge = LocalJudge(lm)
    lm.model = Automaton(lm)
    return judge


def test_a_local_judge_that_reads_ranks_planted_above_shuffled(reader, monkeypatch):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")
    sampling = replace(planted.SAMPLING, positives=12, negatives=12)
    drawn = draw(planted.statistics(), 8, latents=[0, 3, 5, 7, 8, 11, 13, 15], sampling=sampling)
    labels = {one.latent: one.text for one in label(reader, drawn.features, planted.spelling()).labels}
    assert [labels[i] for i in (0, 3, 5, 7)] == [f"about {list(planted.TOPICS)[i]}" for i in (0, 3, 5, 7)]
    for method in METHODS:
        settings = {"labels": labels, "per_question": reader.per_question}
        own, mixed = (
            score(reader, plan(method, drawn, planted.spelling(), control=control, **settings))
            for control in (None, "shuffled")
        )
        values = [one.value for one in own.features]
        assert auc(values[:4], values[4:]) >= 0.9
        assert own.judge.startswith("local:tiny-llama@")
        assert mixed.mean.value < min(values[:4])
