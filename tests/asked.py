"""Questions and judges that tests of labels and scores share."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch

import planted
from monosem.interpret import Drawn, EndpointJudge, Question, by_decoder, draw
from monosem.interpret.form import NO, YES, Choice
from monosem.interpret.judge import Reply

KEY = "sk-secret-key"
LATENTS = range(16)
_ROWS = torch.randn(18, 8, generator=torch.Generator().manual_seed(0))


def judge(server: planted.Endpoint, **settings: float) -> EndpointJudge:
    """The judge behind a server on this machine, in a hurry."""
    return EndpointJudge(server.url, "oracle", **({"pause": 0.01, "timeout": 5.0} | settings))


def questions(n: int, *answers: str) -> list[Question]:
    """Question i is answered with the i-th of `answers`, else Yes, by who says its last word."""
    return [Question("system", f"{i} {answers[i] if i < len(answers) else 'Yes'}", Choice()) for i in range(n)]


@functools.cache
def features() -> Drawn:
    """The eight planted features and eight that fire as often at random."""
    similar = by_decoder(_ROWS)
    return draw(planted.statistics(), 16, latents=LATENTS, similar=similar, sampling=planted.SAMPLING)


class Oracle:
    """Knows the topics; `lost` of its answers make no sense."""

    def __init__(self, per_question: int = 8, lost: Sequence[int] = ()) -> None:
        self.name, self.per_question, self.lost, self.asked = "oracle", per_question, lost, 0

    def settings(self) -> dict:
        return {}

    def count(self, text: str) -> int:
        return len(text.split())

    def ask(self, questions: Sequence[Question]) -> Iterator[Reply]:
        for index, question in enumerate(questions):
            text = planted.oracle(question.system, question.user)
            nonsense = self.asked in self.lost or question.attempt
            self.asked += 1
            yield Reply(index, "?" if nonsense else text, {YES: 1.0, NO: -1.0}.get(text))
