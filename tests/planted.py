"""Feature statistics of a text whose features are known, and a judge that knows the words of each topic."""

from __future__ import annotations

import functools
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import Tokenizer, models
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from monosem.evaluation import FeatureStatistics
from monosem.interpret import Sampling
from monosem.lm.spelling import Spelling

TOPICS = {
    "water": "river lake rain stream flood brook",
    "money": "bank loan debt credit profit price",
    "music": "song piano drum choir melody violin",
    "food": "bread soup cheese butter pepper rice",
    "war": "army battle soldier siege cannon troops",
    "law": "court judge jury verdict lawyer appeal",
    "sky": "moon star comet planet orbit eclipse",
    "farm": "cow barn plough harvest sheep tractor",
}
_FILLER = "the a of and to in it was for on with as by at from that this had not are but they one all"
FILLER = _FILLER.split()
WORDS = {name: words.split() for name, words in TOPICS.items()}
TOPIC_OF = {word: name for name, words in WORDS.items() for word in words}
N, T = 160, 80
PLANTED = len(TOPICS)
"""Latents 0 to 7 fire on the words of a topic, 8 to 15 as often on random tokens, 16 on almost all, 17 on five."""
SAMPLING = Sampling(width=5, groups=4, shown=8, positives=24, negatives=24, least=12)


@functools.cache
def tokenizer() -> Any:
    words = ["<s>", "</s>", *(f"▁{word}" for word in [*FILLER, *TOPIC_OF])]
    core = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<s>"))
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


@functools.cache
def spelling() -> Spelling:
    return Spelling(tokenizer())


@functools.cache
def statistics(seed: int = 0) -> FeatureStatistics:
    """N windows of filler with three phrases of three words of one topic each; strengths are random."""
    rng, generator = random.Random(seed), np.random.default_rng(seed)
    windows = []
    for _ in range(N):
        words = rng.choices(FILLER, k=T)
        for start in (8, 34, 60):
            words[start : start + 3] = rng.sample(rng.choice(list(WORDS.values())), 3)
        windows.append(["<s>", *(f"▁{word}" for word in words[1:])])
    ids = np.array([tokenizer().convert_tokens_to_ids(words) for words in windows], dtype=np.int32)
    topics = np.array([[TOPIC_OF.get(word.lstrip("▁"), "") for word in words] for words in windows]).reshape(-1)
    kept = np.flatnonzero(np.arange(N * T) % T)
    fires = [np.flatnonzero(topics == name) for name in TOPICS]
    fires += [np.sort(generator.choice(kept, len(own), replace=False)) for own in fires]
    fires += [kept[kept % 10 != 0], kept[:5]]
    return build(ids, fires, generator)


def build(ids: np.ndarray, fires: list[np.ndarray], generator: np.random.Generator) -> FeatureStatistics:
    """Statistics of features that fire on given flat positions; the first token of a window is left out."""
    excluded = np.zeros(ids.shape, dtype=bool)
    excluded[:, 0] = True
    values = [generator.uniform(0.5, 2, len(own)).astype(np.float32) for own in fires]
    counts = np.array([len(own) for own in fires])
    arrays = {
        "starts": np.concatenate([[0], counts.cumsum()]),
        "tokens": np.concatenate(fires).astype(np.int32),
        "values": np.concatenate(values),
        "window_tokens": ids,
        "excluded": excluded,
        "density": counts / (~excluded).sum(),
        "mean": np.array([own.mean() for own in values]),
        "max": np.array([own.max() for own in values]),
    }
    return FeatureStatistics(arrays, {"n_latents": len(fires), "n_tokens": int((~excluded).sum())})


def bag_of_words(texts: list[str]) -> Float[Tensor, "N E"]:
    """Unit vectors of word counts: what a sentence encoder would say, for words alone."""
    known = {word: place for place, word in enumerate([*FILLER, *TOPIC_OF])}
    rows = torch.zeros(len(texts), len(known))
    for row, text in zip(rows, texts):
        for word in text.split():
            if word in known:
                row[known[word]] += 1
    return functional.normalize(rows, dim=1)


def oracle(system: str, user: str) -> str:
    """What somebody answers who knows the topics: by the words that are there, and nothing else."""
    passages = [line.split(". ", 1)[1] for line in user.splitlines() if re.match(r"\d+\. ", line)]
    passages = passages or re.findall(r"Passage: (.*)", user)
    marks = [TOPIC_OF.get(word, "") for text in passages for part in _marked(text) for word in part.split()]
    label = (re.findall(r"Description: (.*)", user) or [""])[0]
    words = WORDS.get(label.removeprefix("about "), [])
    if "what a feature of a language model stands for" in system:
        return f"about {Counter(marks).most_common(1)[0][0] or 'nothing'}"
    if "does not belong" in system:
        own = [Counter(TOPIC_OF.get(word, "") for part in _marked(one) for word in part.split()) for one in passages]
        common = Counter(topic for one in own for topic in one if topic).most_common(1)
        odd = [place for place, one in enumerate(own, 1) if not common or common[0][0] not in one]
        return str(odd[0] if odd else 1)
    if "marks are right" in system:
        said = [
            bool(_marked(one)) and all(w in words for part in _marked(one) for w in part.split()) for one in passages
        ]
    else:
        said = [any(word in words for word in one.split()) for one in passages]
    if "list of" in system:
        return json.dumps([int(one) for one in said])
    return "Yes" if said[0] else "No"


def _marked(text: str) -> list[str]:
    return re.findall(r"<<(.*?)>>", text)


class Endpoint:
    """A server on this machine: `plan` holds statuses or bodies for the next requests, then the oracle answers."""

    def __init__(self) -> None:
        self.plan: list[Any] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.delay, self.answer = 0.0, oracle
        self.running = self.most_at_once = 0
        self.url = ""
        self.lock = threading.Lock()

    def reply(self, body: dict[str, Any], headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        with self.lock:
            self.requests.append(body)
            self.headers.append(headers)
            planned = self.plan.pop(0) if self.plan else None
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
        time.sleep(self.delay)
        with self.lock:
            self.running -= 1
        if isinstance(planned, tuple):
            return planned
        if isinstance(planned, int):
            return planned, {}, b'{"error": {"message": "as planned"}}'
        texts = [message["content"] for message in body["messages"]]
        content = planned if isinstance(planned, str) else self.answer(*texts)
        return 200, {}, json.dumps({"choices": [{"message": {"content": content}}]}).encode()


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    """A running endpoint; its `url` ends in /v1."""
    served = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, headers, content = served.reply(body | {"path": self.path}, dict(self.headers))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):  # a caller that has given up
                self.wfile.write(content)

        def do_GET(self) -> None:
            with served.lock:
                served.headers.append(dict(self.headers))
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
