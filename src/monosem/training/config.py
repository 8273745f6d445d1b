"""The settings of a training run: one frozen object; flags, TOML keys and help are generated from it."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from monosem.shapes import InputError


def setting(default: Any, help: str) -> Any:
    """A field with the sentence that `--help` shows for it."""
    return field(default=default, metadata={"help": help})


INFINITY, TINY = float("inf"), 1e-12
COUNTS = ("n_latents", "k", "k_aux", "tokens", "distinct_tokens", "dead_after", "batch", "accumulate", "block", "take")
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys((*COUNTS, "heads", "base", "extension"), (1, INFINITY)),
    **dict.fromkeys(("log_every", "checkpoint_every", "keep"), (1, INFINITY)),
    "window": (2, INFINITY),
    "core_k": (1, INFINITY),
    "general_tokens": (2, INFINITY),
    "harm": (0, INFINITY),
    "held_out": (TINY, 1 - TINY),
    "warmup": (0, 1),
    "decay": (0, 1),
    "l1": (0, INFINITY),
    "aux": (0, INFINITY),
    "lr": (TINY, INFINITY),
    "clip": (TINY, INFINITY),
    "bandwidth": (TINY, INFINITY),
    "gate_clamp": (TINY, INFINITY),
    **dict.fromkeys(("seed", "order_seed", "reinit"), (0, 2**63 - 1)),
}
"""Least and greatest value of every number."""
PLAIN: dict[str, Any] = dict.fromkeys(("text_config", "revision", "take", "chat", "tokenised", "token_hash"))
PLAIN |= {"split": "train", "assistant_only": False, "repeat": False}
"""What another text changes beside the text: it is read as plain text, whatever the run was trained on."""
NAMES = {"sae": "names such as topk,jumprelu", "site": "sites such as resid_post.12,mlp_out.*"}
"""Settings that name several things, with commas between them or as a list."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run's result. Token counts are training tokens after exclusion unless said."""

    model: str = setting("smollm2-135m", "hub name, local folder, or the embedded smollm2-135m")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "precision of the model; auto measures which is fast here"
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:1")
    device_map: str | None = setting(
        None, "spread the model over several devices: auto, or a JSON object of module paths and devices"
    )
    reinit: int | None = setting(
        None, "control: give the model random weights, as it would start its own training, by this seed"
    )
    text: str = setting(
        "news",
        "an embedded corpus, a file, a folder, or a dataset of the hub as OWNER/NAME; "
        "NAME:WEIGHT,NAME:WEIGHT mixes several",
    )
    column: str = setting("text", "the key or column that holds the text of .jsonl and .parquet files and datasets")
    text_config: str | None = setting(None, "a dataset's configuration, such as sample-10BT")
    split: str = setting("train", "a dataset's split")
    revision: str | None = setting(None, "a dataset's commit, branch or tag (default: main as it is when first read)")
    take: int | None = setting(None, "tokens to take of a dataset, held-out ones too (default: enough for the run)")
    chat: str | None = setting(
        None, "the key or column that holds conversations, lists of {role, content}, for the tokenizer's chat template"
    )
    assistant_only: bool = setting(False, "of conversations, train and evaluate on what the assistant says alone")
    tokenised: str | None = setting(None, "the key, column or tensor that holds token ids")
    token_hash: str | None = setting(None, "hash of the tokenizer that made the token ids (default: not checked)")
    repeat: bool = setting(False, "parts of a mixture that run out begin anew")
    window: int = setting(256, "tokens a window; the model sees one window at a time")
    bos: bool = setting(False, "start every window with the tokenizer's BOS token")
    separator: bool = setting(True, "put the tokenizer's EOS token between documents")
    held_out: float = setting(0.1, "share of documents kept for evaluation")
    site: str = setting(
        "resid_post.12",
        "where activations are read, such as resid_post.12; several with commas, or a pattern: resid_post.*, "
        "mlp_out.{6,12}. Every autoencoder is trained at every site, in one pass",
    )
    target: str | None = setting(
        None,
        "transcoder: the site that is predicted, one computed after --site: mlp_out.12, or mlp_out for the same layer "
        "(default: the site itself)",
    )
    skip: bool = setting(False, "transcoder: a linear connection from the site to the target beside the latents")
    activations: Literal["store", "live"] = setting(
        "store", "record activations to disk first, or run the model while training"
    )
    store: str | None = setting(
        None, "folder of a recording to read, and to extend where it is too short (default: in the cache, by content)"
    )
    distinct_tokens: int | None = setting(None, "how many tokens of text to use at most (default: as many as --tokens)")
    core: str | None = setting(
        None,
        "a trained autoencoder to train beside, frozen: new ones explain what it leaves and are saved as its sum with "
        "them (see monosem boost); its site and its left-out tokens are used",
    )
    domain: str | None = setting(None, "name of the latents trained beside a core (default: that of the text)")
    general: str | None = setting(
        None, "beside a core: text whose explained variance is watched while training (its held-out part)"
    )
    general_tokens: int = setting(8192, "tokens of general text that are watched, at most")
    harm: float = setting(0.01, "share of the core's explained variance of general text that may be lost")
    on_harm: Literal["warn", "stop"] = setting("warn", "when more is lost: say so once, or end the run")
    core_k: int | None = setting(
        None, "active latents of the core, for baselines (default: its k, or the L0 that its training ended with)"
    )
    sae: tuple[str, ...] = setting(
        ("topk",),
        "autoencoders to train on the same batches, each a rule (topk, batch_topk, jumprelu, relu), an objective "
        "(hierarchical, matryoshka) and an encoder (kron) joined by +, what is missing being the usual: topk, "
        "hierarchical, kron+hierarchical, batch_topk+matryoshka",
    )
    controls: bool = setting(
        False,
        "also train the controls of every autoencoder asked for: untrained, frozen_decoder, soft_frozen_decoder, "
        "frozen_encoder (each of these joins a name by + as well) and, once, pca",
    )
    n_latents: int = setting(8192, "dictionary size")
    k: int = setting(32, "active latents a token: exact for topk, mean for batch_topk, target for jumprelu")
    budgets: str = setting("all", "hierarchical: budgets trained, within 1..k: all, stride:8, pow2, or 8,16,32")
    budget_weights: str = setting("uniform", "hierarchical: weights of the budgets: uniform, 1/j, or a number for each")
    widths: str = setting("pow2", "matryoshka: prefixes of the dictionary: pow2 (F/16 to F), or 512,2048,8192")
    heads: int | None = setting(None, "kron: heads h (default: n_latents / (base·extension))")
    base: int = setting(2, "kron: base rows m of a head; the encoder has (1/m + 1/n) times the rows of a dense one")
    extension: int = setting(4, "kron: extension rows n of a head")
    gate: Literal["mand", "product", "raw", "min"] = setting("mand", "kron: how two pre-latents make a latent")
    gate_clamp: float = setting(100.0, "kron: bound of the root of the ratio of two pre-latents in mand's gradient")
    revival: Literal["soft", "post"] = setting(
        "soft", "kron: dead latents in the auxiliary loss by softplus (reaches both parents) or by the gate itself"
    )
    subtract_b_dec: bool | None = setting(
        None, "whether the encoder sees the input without the decoder's bias (default: yes; transcoders no)"
    )
    unit_decoder: bool = setting(True, "keep decoder rows at unit norm; ranking by activation relies on it")
    l1: float = setting(5.0, "L1 coefficient of relu, as in a loss summed over dimensions")
    bandwidth: float = setting(0.3, "jumprelu: width of the window through which thresholds learn, in scaled units")
    aux: float = setting(1 / 32, "weight of the auxiliary loss that revives dead latents")
    k_aux: int | None = setting(None, "dead latents a token in the auxiliary loss (default: 2k; d_in/2 is the paper's)")
    dead_after: int | None = setting(
        None, "tokens without firing after which a latent is dead (default: min(10M, 10%% of the run))"
    )
    tokens: int = setting(1_000_000, "training tokens in total; more than there are distinct ones repeats them")
    equal: Literal["tokens", "flops"] = setting(
        "tokens", "flops: each encoder sees as many tokens as cost what --tokens cost a dense topk"
    )
    batch: int = setting(2048, "tokens a step")
    accumulate: int = setting(1, "split each step's batch into this many parts to save memory")
    lr: float = setting(1e-3, "peak learning rate of Adam")
    warmup: float = setting(0.05, "share of steps in which the learning rate rises linearly")
    decay: float = setting(0.2, "share of steps, at the end, in which it falls")
    schedule: Literal["linear", "cosine"] = setting("linear", "shape of the fall")
    clip: float = setting(1.0, "largest gradient norm")
    precision: Literal["float32", "bfloat16"] = setting("float32", "encoder product: float32, or bfloat16 autocast")
    calibrate: bool = setting(False, "afterwards set thresholds so that mean L0 is k on training tokens")
    block: int = setting(256, "windows in a shuffle block")
    seed: int = setting(0, "decides initial weights and, without --order-seed, the order of tokens")
    order_seed: int | None = setting(
        None, "decides the order of tokens (default: the seed; the smallest of several, which share one order)"
    )
    log_every: int = setting(20, "steps between lines of metrics.jsonl")
    checkpoint_every: int = setting(500, "steps between checkpoints")
    keep: int = setting(2, "checkpoints kept")

    def __post_init__(self) -> None:
        if isinstance(self.sae, str):
            raise InputError(f"sae = {self.sae!r}: give a tuple of names, such as ({self.sae!r},)")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                above = "" if high == INFINITY else f" and at most {high:g}"
                raise InputError(f"{name} = {value}: expected at least {low:g}{above}")
        if self.k > self.n_latents:
            raise InputError(
                f"k = {self.k} does not fit {self.n_latents} latents: choose k between 1 and {self.n_latents}"
            )
        if self.tokens < self.batch:
            raise InputError(
                f"tokens = {self.tokens} is less than one batch of {self.batch}: raise tokens or lower batch"
            )
        if self.batch % self.accumulate:
            raise InputError(
                f"accumulate = {self.accumulate} does not divide the batch of {self.batch}: choose a divisor"
            )
        if self.accumulate > 1 and any("batch_topk" in name.split("+") for name in self.sae):
            raise InputError("batch_topk selects over the whole batch, so it cannot be accumulated: use accumulate = 1")
        if not self.sae or len(set(self.sae)) < len(self.sae):
            raise InputError(f"sae = {', '.join(self.sae) or 'nothing'}: name each autoencoder once")
        if self.store is not None and self.activations == "live":
            raise InputError(
                f"store = {self.store} is a recording, and activations = live reads none: give one of them"
            )
        if self.skip and not self.transcodes:
            raise InputError("skip connects a site with another: give the other by target, such as mlp_out")
        if self.subtract_b_dec and self.transcodes:
            raise InputError(
                f"subtract_b_dec takes the target's bias from the input, and a transcoder's target {self.target} is "
                "another site: leave it out"
            )
        if self.warmup + self.decay > 1:
            raise InputError(
                f"warmup {self.warmup} and decay {self.decay} are shares of the run: their sum must lie in 0..1"
            )

    @property
    def order(self) -> int:
        """The seed of the order of tokens."""
        return self.seed if self.order_seed is None else self.order_seed

    @property
    def transcodes(self) -> bool:
        """Whether another site than the one read is predicted."""
        return self.target is not None and self.target != self.site

    @property
    def steps(self) -> int:
        return self.tokens // self.batch

    @property
    def dead_tokens(self) -> int:
        """Tokens without firing after which a latent counts as dead."""
        return self.dead_after if self.dead_after is not None else min(10_000_000, self.tokens // 10)

    def with_text(self, text: str) -> TrainConfig:
        """The same settings with another text."""
        return self if text == self.text else dataclasses.replace(self, text=text, **PLAIN)

    def describe(self) -> dict[str, Any]:
        """JSON-able; `TrainConfig.from_dict` gives it back."""
        return dataclasses.asdict(self) | {"sae": list(self.sae)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """Raises `InputError` for an unknown key, a value of the wrong type, or values that do not fit together."""
        return cls(**typed(values))

    @classmethod
    def from_toml(cls, path: Path) -> dict[str, Any]:
        """The keys of a TOML file with checked types, to be overridden by flags before they have to fit together."""
        return typed(read_toml(path))


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file says, unchecked. Raises `InputError` for a file that is not there or is not TOML."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from None


def typed(values: dict[str, Any]) -> dict[str, Any]:
    """The same settings with the types of `TrainConfig`. Raises `InputError`."""
    hints = get_type_hints(TrainConfig)
    for key in values:
        if key not in hints:
            raise InputError(f"unknown setting {key!r}{_closest(key, hints)}: known are {', '.join(hints)}")
    return {key: _typed(key, value, hints[key]) for key, value in values.items()}


def _typed(key: str, value: Any, hint: Any) -> Any:
    if key == "text" and isinstance(value, dict):  # a TOML table of weights
        return ",".join(f"{name}:{weight}" for name, weight in value.items())
    if key in NAMES:
        names = value.split(",") if isinstance(value, str) and key == "sae" else value
        if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
            return tuple(name.strip() for name in names) if key == "sae" else ",".join(names)
        if not isinstance(names, str):
            raise InputError(f"{key} = {value!r}: expected {NAMES[key]}")
    choices = [choice for choice in get_args(hint) if isinstance(choice, str)]
    if choices:
        if value in choices:
            return value
        raise InputError(f"{key} = {value!r}: expected one of {', '.join(choices)}")
    kinds = get_args(hint) or (hint,)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise InputError(f"{key} = {value!r}: expected {expected}")
    return value


def _closest(key: str, known: Any) -> str:
    from difflib import get_close_matches

    match = get_close_matches(key, list(known), 1)
    return f" (did you mean {match[0]!r}?)" if match else ""


def settings() -> list[tuple[str, Any, Any, str]]:
    """Name, type, default and help of every setting, for command-line flags and documentation."""
    hints = get_type_hints(TrainConfig)
    return [(item.name, hints[item.name], item.default, item.metadata["help"]) for item in fields(TrainConfig)]
