"""Conversations: the chat template, and which tokens the assistant said."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import run_folder
import tiny
from monosem.activations import Exclusion, Live
from monosem.text import Request, enough, read
from monosem.text.chat import derived, marked, said
from refusal import refused

HEAD = "{% for m in messages %}<|im_start|>{{ m.role }}\n"
TAIL = "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
PLAIN = HEAD + "{{ m.content }}<|im_end|>" + TAIL
MARKED = (
    HEAD
    + "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    + "{% else %}{{ m.content }}<|im_end|>{% endif %}"
    + TAIL
)
# Thoughts are shown in the last message alone, as reasoning models' templates do.
FORGETFUL = HEAD + "{% if loop.last %}<think>\n{% endif %}{{ m.content }}<|im_end|>" + TAIL
WORDS = tiny.TEXT.split()


def tokenizer(template: str | None) -> Any:
    """The tiny tokenizer with the tokens and the template of a chat model."""
    from transformers import PreTrainedTokenizerFast

    core = tiny.tokenizer().backend_tokenizer.__class__.from_str(tiny.tokenizer().backend_tokenizer.to_str())
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = template
    return made


def talk(*contents: str) -> list[dict[str, str]]:
    """Messages of user and assistant in turn."""
    return [{"role": ("user", "assistant")[at % 2], "content": content} for at, content in enumerate(contents)]


TALKS = [
    talk("hi", "a cat"),
    talk("who sat?", "the cat sat", "where", "on a mat "),
    talk("say nothing", ""),
    talk("the cat", "the cat", "the cat"),
    talk("lines", "\none\n\ntwo\n", "more", "naïve café 🐈‍⬛"),
    [{"role": "system", "content": "be brief"}, *talk("hi", "ok")],
    [*talk("a", "b"), {"role": "assistant", "content": "c"}],
    talk("only a question"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("messages", TALKS)
def test_the_templates_marks_and_the_comparison_of_beginnings_agree(messages):
    one, other = marked(messages, tokenizer(MARKED)), derived(messages, tokenizer(MARKED))
    assert np.array_equal(one.ids, other.ids)
    assert np.array_equal(one.assistant, other.assistant)
    assert np.array_equal(derived(messages, tokenizer(PLAIN)).assistant, one.assistant)


@pytest.mark.parametrize("template", [PLAIN, MARKED])
@pytest.mark.parametrize("messages", TALKS)
def test_what_is_marked_is_what_the_assistant_said(messages, template):
    tok = tokenizer(template)
    ids, assistant = said(json.dumps(messages), tok)
    contents = [message["content"] + "<|im_end|>" for message in messages if message["role"] == "assistant"]
    assert tok.decode(ids[assistant]) == "".join(contents)
    assert tok.decode(ids) == tok.apply_chat_template(messages, tokenize=False)


def test_templates_that_mark_are_believed():
    """A template may count less than the whole turn; then that is what counts."""
    less = MARKED.replace("{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}",
                          "{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>")  # fmt: skip
    ids, assistant = said(json.dumps(talk("hi", "a cat")), tokenizer(less))
    assert tokenizer(less).decode(ids[assistant]) == "a cat"


def test_a_template_that_rewrites_earlier_messages_is_refused_where_it_matters():
    tok = tokenizer(FORGETFUL)
    message = refused(said, json.dumps(talk("a", "b", "c", "d")), tok)
    assert "renders the first 2 of 4 messages otherwise" in message
    assert "--assistant-only off" in message


def test_an_assistant_that_speaks_first_needs_marks():
    first = [{"role": "assistant", "content": "welcome"}, *talk("hi", "ok")]
    assert "begins with the assistant" in refused(said, json.dumps(first), tokenizer(PLAIN))
    tok = tokenizer(MARKED)
    ids, assistant = said(json.dumps(first), tok)
    assert tok.decode(ids[assistant]) == "welcome<|im_end|>ok<|im_end|>"


# ---- windows


def conversations(count: int = 60) -> list[list[dict[str, str]]]:
    """Each begins with its number, so that all differ."""
    draw = np.random.default_rng(0)
    return [talk(f"{at} {' '.join(draw.choice(WORDS, 5))}", " ".join(draw.choice(WORDS, 9))) for at in range(count)]


def written(folder: Any, rows: Any = None) -> str:
    lines = [json.dumps({"messages": row}) for row in (conversations() if rows is None else rows)]
    (folder / "chats.jsonl").write_text("\n".join(lines))
    return str(folder / "chats.jsonl")


def asked(where: str, template: str | None = PLAIN, part: str = "train", **settings: Any) -> Any:
    request = Request(text=where, **{"chat": "messages", "window": 16, "wanted": 200, **settings})
    return read(request, tokenizer(template), part)


def test_conversations_are_packed_like_other_text(tmp_path):
    got = asked(written(tmp_path))
    tok = tokenizer(PLAIN)
    rendered = [tok.apply_chat_template(messages, tokenize=False) + "</s>" for messages in conversations()]
    for index in got.documents.unique().tolist()[:-1]:
        assert tok.decode(got.tokens[got.documents == index].tolist()) in rendered
    special = torch.isin(got.tokens, torch.tensor(tok.all_special_ids))
    assert torch.equal(got.special, special), "without assistant_only every token of text counts"


@pytest.mark.parametrize("template", [PLAIN, MARKED])
def test_with_assistant_only_the_rest_is_left_out_like_special_tokens(tmp_path, template):
    got = asked(written(tmp_path), template, assistant_only=True)
    everything = asked(written(tmp_path), template)
    assert torch.equal(got.tokens, everything.tokens)
    tok = tokenizer(template)
    answers = {messages[1]["content"] for messages in conversations()}
    for index in got.documents.unique().tolist()[:-1]:
        assert tok.decode(got.tokens[(got.documents == index) & ~got.special].tolist()) in answers
    assert got.identity["assistant_only"] is True
    assert everything.identity["assistant_only"] is False
    # What training and evaluation read is what the rule keeps of `special`.
    lm = tiny.llama(n_layers=1)
    lm.model.resize_token_embeddings(len(tok), mean_resizing=False)
    rows = Live(lm, got, [lm.site("resid_post.0")], Exclusion()).rows(np.arange(8))
    kept = torch.zeros_like(got.special[:8])
    kept[rows.windows, rows.positions] = True
    assert torch.equal(kept[:, 1:], ~got.special[:8, 1:])


def test_enough_windows_are_those_that_hold_the_tokens(tmp_path):
    got = asked(written(tmp_path), assistant_only=True)
    exactly = int((~got.special[:7, 1:]).sum())
    for tokens in (1, 50, 333, exactly, exactly + 1):
        count = enough(got, tokens)
        kept = [int((~got.special[:windows, 1:]).sum()) for windows in (count - 1, count)]
        assert kept[0] < tokens <= kept[1]
    assert enough(got, 10**9) == len(got.tokens)
    plain = asked(written(tmp_path))
    assert enough(plain, 150) == 10


def test_the_template_is_part_of_the_identity(tmp_path):
    where = written(tmp_path)
    identities = [asked(where, template).identity for template in (PLAIN, MARKED)]
    assert identities[0]["template"] != identities[1]["template"]
    assert {key for key in identities[0] if identities[0][key] != identities[1][key]} == {"template"}


def test_equal_conversations_are_one_document(tmp_path):
    rows = conversations()
    reordered = [{"content": message["content"], "role": message["role"], "name": None} for message in rows[0]]
    assert asked(written(tmp_path, rows)).identity == asked(written(tmp_path, [*rows, reordered])).identity


def test_a_missing_template_is_one_clear_line(tmp_path):
    assert "the tokenizer has no chat template" in refused(asked, written(tmp_path), None)


def test_a_template_that_refuses_a_conversation_is_one_clear_line(tmp_path):
    strict = "{% if messages[0].role != 'user' %}{{ raise_exception('users\nfirst') }}{% endif %}" + PLAIN
    rows = [*conversations(10), [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]]
    message = refused(asked, written(tmp_path, rows), strict, held_out=0.01)
    assert "refuses a conversation of system, user (users first)" in message


def test_conversations_and_plain_text_can_be_mixed(tmp_path):
    (tmp_path / "text.txt").write_text("\n\n".join(tiny.corpus().documents))
    got = asked(f"{written(tmp_path)}:1,{tmp_path / 'text.txt'}:1", assistant_only=True)
    plain = got.special[got.parts == 1]
    assert torch.equal(plain, got.tokens[got.parts == 1] == 1), "plain text counts whole"
    assert enough(got, 100) < len(got.tokens)
    assert [row.get("assistant_only") for row in got.identity["parts"]] == [True, None]


# ---- a whole run


@pytest.mark.slow
def test_training_and_evaluating_on_what_the_assistant_says(tmp_path):
    settings = {**run_folder.SETTINGS, **run_folder.inputs(tmp_path), "tokens": 640, "distinct_tokens": 320}
    lm, tok = tiny.llama(), tokenizer(PLAIN)
    lm.model.resize_token_embeddings(len(tok), mean_resizing=False)
    lm.model.save_pretrained(tmp_path / "model")
    tok.save_pretrained(tmp_path / "model")
    settings["text"] = written(tmp_path)
    flags = [*run_folder.flags(settings), "--chat", "messages", "--assistant-only"]
    done = run_folder.monosem(tmp_path, "train", *flags, "--run", "run", "--json")
    assert done.returncode == 0, done.stderr
    trained = json.loads((tmp_path / "run/saes/topk/config.json").read_text())["info"]
    assert trained["text"]["assistant_only"] is True
    assert trained["training"]["distinct_tokens"] >= 320, "enough windows were read for the tokens asked for"
    done = run_folder.monosem(tmp_path, "evaluate", "run", "--windows", "6", "--loss-windows", "2", "--json")
    assert done.returncode == 0, done.stderr
    own = json.loads(done.stdout)["topk"]
    assert own["n_excluded"] > 0.4 * own["provenance"]["tokens"]["total"]
    done = run_folder.monosem(
        tmp_path, "evaluate", "run", "--windows", "6", "--loss-windows", "0", "--text", "text.txt", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["topk"]["n_excluded"] < own["n_excluded"]
