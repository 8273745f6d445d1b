"""A judge in this process: any causal language model. It chooses by log-probability, so a small one can judge too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from jinja2 import TemplateError
from torch import Tensor

from monosem.disk import digest
from monosem.interpret.form import Choice
from monosem.interpret.judge import Question, Reply
from monosem.lm import LanguageModel
from monosem.shapes import InputError


class LocalJudge:
    """Chooses the option with the greatest sum of its tokens' log-probabilities; writes phrases greedily.

    A chat template is used where the tokenizer has one, without thoughts where it offers that. `batch` sequences run at
    a time, the longest first.
    """

    per_question = 1

    def __init__(self, lm: LanguageModel, *, batch: int = 8) -> None:
        self._identity = lm.identity()
        # A folder's name says little: two models of one name, or one in two precisions, are two judges.
        self.lm, self.batch, self.name = lm, batch, f"local:{lm.name}@{digest(self._identity, 8)}"

    @classmethod
    def load(cls, name: str, *, device: str = "auto", batch: int = 8) -> LocalJudge:
        """By hub name or folder. Raises `InputError`."""
        return cls(LanguageModel.load(name, device=device), batch=batch)

    def settings(self) -> dict[str, Any]:
        return {"model": self._identity}

    def count(self, text: str) -> int:
        return len(self.lm.tokenizer(text)["input_ids"])

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        """Raises `InputError` for a question that is longer than the model reads."""
        prompts = [self._prompt(question) for question in questions]
        order = sorted(range(len(questions)), key=lambda index: -len(prompts[index]))
        choosing = [index for index in order if isinstance(questions[index].form, Choice)]
        writing = [index for index in order if not isinstance(questions[index].form, Choice)]
        for part in _parts(choosing, self.batch):
            yield from self._choose(part, questions, prompts)
        for part in _parts(writing, self.batch):
            yield from self._write(part, questions, prompts)

    def _prompt(self, question: Question) -> list[int]:
        tokenizer = self.lm.tokenizer
        if tokenizer.chat_template:
            ids = tokenizer(self._chat(question), add_special_tokens=False)["input_ids"]
        else:
            ids = tokenizer(f"{question.system}\n\n{question.user}\n\nAnswer:")["input_ids"]
        longest = getattr(self.lm.model.config.get_text_config(), "max_position_embeddings", None)
        if longest is not None and len(ids) + question.form.tokens > longest:
            raise InputError(
                f"a question of {len(ids)} tokens and its answer of {question.form.tokens}: {self.lm.name} reads at "
                f"most {longest}: show it fewer or shorter contexts"
            )
        return ids

    def _chat(self, question: Question) -> str:
        """The question as a conversation; in one message where the template knows no system's."""
        system, user = {"role": "system", "content": question.system}, {"role": "user", "content": question.user}
        together = {"role": "user", "content": f"{question.system}\n\n{question.user}"}
        render = partial(
            self.lm.tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        try:
            return render([system, user])
        except TemplateError:
            return render([together])

    def _options(self, question: Question) -> list[list[int]]:
        """The tokens of each option, after the prompt's last one."""
        assert isinstance(question.form, Choice)
        space = "" if self.lm.tokenizer.chat_template else " "
        encode = self.lm.tokenizer
        return [encode(f"{space}{word}", add_special_tokens=False)["input_ids"] for word in question.form.options]

    @torch.no_grad()
    def _choose(
        self, part: Sequence[int], questions: Sequence[Question], prompts: Sequence[list[int]]
    ) -> Iterator[Reply]:
        options = {index: self._options(questions[index]) for index in part}
        # Options that differ in their last token alone are read off one sequence.
        rows = list({(index, *option[:-1]): None for index in part for option in options[index]})
        before = {index: len(prompts[index]) - 1 for index in part}
        ends = {before[index] + step for index in part for option in options[index] for step in range(len(option))}
        logs = self._log_probs([prompts[index] + list(start) for index, *start in rows], sorted(ends))
        column = {place: number for number, place in enumerate(sorted(ends))}
        for index in part:
            sums = []
            for option in options[index]:
                own = logs[rows.index((index, *option[:-1]))]
                steps = enumerate(option, before[index])
                sums.append(sum(float(own[column[place], token]) for place, token in steps))
            best, *others = sorted(range(len(sums)), key=lambda place: -sums[place])
            rival = sums[others[0]] if best == 0 else sums[best]
            form = questions[index].form
            assert isinstance(form, Choice)
            yield Reply(index, form.options[best], sums[0] - rival)

    def _log_probs(self, rows: Sequence[list[int]], places: Sequence[int]) -> Float[Tensor, "B P V"]:
        """Of the token after each of `places`; padding comes behind, where no kept token sees it."""
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = torch.tensor(row)
        keep = torch.tensor([min(place, tokens.shape[1] - 1) for place in places], device=self.lm.device)
        out = self.lm.model(input_ids=tokens.to(self.lm.device), use_cache=False, logits_to_keep=keep).logits
        return out.float().log_softmax(-1)

    @torch.no_grad()
    def _write(
        self, part: Sequence[int], questions: Sequence[Question], prompts: Sequence[list[int]]
    ) -> Iterator[Reply]:
        longest = max(len(prompts[index]) for index in part)
        tokens = torch.zeros(len(part), longest, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for place, index in enumerate(part):
            tokens[place, longest - len(prompts[index]) :] = torch.tensor(prompts[index])
            mask[place, longest - len(prompts[index]) :] = 1
        written = self.lm.model.generate(
            input_ids=tokens.to(self.lm.device),
            attention_mask=mask.to(self.lm.device),
            max_new_tokens=max(questions[index].form.tokens for index in part),
            do_sample=False,
            pad_token_id=self.lm.tokenizer.eos_token_id,
        )
        for index, row in zip(part, written[:, longest:].tolist(), strict=True):
            text = self._opening(prompts[index]) + self.lm.tokenizer.decode(row, skip_special_tokens=True)
            whole = bool(self._ends() & set(row)) or questions[index].form.begun(text)
            yield Reply(index, text if whole else "")

    def _opening(self, prompt: Sequence[int]) -> str:
        """The beginning of a thought, where a template ends with one: what follows is no answer yet."""
        tail = self.lm.tokenizer.decode(prompt[-8:])
        return "<think>" if "<think>" in tail.rpartition("</think>")[2] else ""

    def _ends(self) -> set[int | None]:
        """Tokens that end an answer."""
        stops = self.lm.model.generation_config.eos_token_id
        return {self.lm.tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])}


def _parts(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))
