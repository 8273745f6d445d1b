"""A causal language model whose activations can be read and replaced by site."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from monosem.lm.card import model_card
from monosem.lm.family import Point, family_of
from monosem.lm.hook import Hook, install
from monosem.lm.name import resolve
from monosem.lm.probe import probe
from monosem.lm.splice import splice
from monosem.lm.tokenizer import tokenizer_hash
from monosem.shapes import ENDS, KINDS, InputError, Site

_SAMPLES = 4096
# A module's end comes last: what a name means there, such as the stream itself, is written before it is read.
_ORDER = {kind: place for place, kind in enumerate([*KINDS, *ENDS])}


@dataclass(frozen=True)
class Cache:
    """A prompt's tokens (as text), ids [T] and activations; `cache["resid_post.12"]` is [T, D]."""

    tokens: list[str]
    ids: Int[Tensor, " T"]
    acts: dict[Site, Float[Tensor, "T D"]]
    _site: Callable[[str | Site], Site] = field(repr=False)

    def __getitem__(self, site: str | Site) -> Float[Tensor, "T D"]:
        found = self._site(site)
        if found not in self.acts:
            raise InputError(f"{found} was not recorded: ask for it in cache(prompt, sites)")
        return self.acts[found]


class LanguageModel:
    """A frozen Hugging Face causal model in evaluation mode, with its tokenizer and its sites."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str = "model",
        *,
        source: str = "",
        quantisation: str | None = None,
    ) -> None:
        """Wrap a model that is already in memory; its parameters are frozen.

        In a model of a family that `FAMILIES` does not have, sites are given by module path.
        """
        config = model.config.get_text_config()
        self.model: Any = model.eval().requires_grad_(False)
        self.tokenizer, self.name, self.quantisation = tokenizer, name, quantisation
        self.source = source or f"{name}, a {model.config.model_type} model given in memory."
        self.family = family_of(model)
        self.d_model: int = config.hidden_size
        self.n_layers: int = config.num_hidden_layers
        self.vocab_size: int = model.get_output_embeddings().weight.shape[0]
        self._points = self._named()
        self._widths: dict[Site, int] = {}

    @classmethod
    def load(
        cls,
        name: str,
        *,
        dtype: str = "auto",
        device: str = "auto",
        device_map: str | None = None,
        reinit: int | None = None,
    ) -> LanguageModel:
        """Load the embedded model (`smollm2-135m`), a local folder, or a hub name.

        `dtype`: `float32`, `bfloat16`, `float16`, or `auto` for the one this machine is fast in.
        `device`: a torch device, or `auto` for a GPU if there is one.
        `device_map`: instead of one device, `auto` or a JSON object of module paths and devices.
        `reinit`: replace the weights by random ones, drawn with this seed. Raises `InputError`.
        """
        from monosem.lm.load import load
        from monosem.lm.reinit import reinitialised

        loaded = load(name, dtype=dtype, device=device, device_map=device_map)
        loaded = loaded if reinit is None else reinitialised(loaded, reinit)
        return cls(
            loaded.model,
            loaded.tokenizer,
            loaded.name,
            source=loaded.source,
            quantisation=loaded.quantisation,
        )

    @classmethod
    def without_weights(cls, name: str) -> LanguageModel:
        """The model of a name with its sites, their widths and module paths, but nothing that could run.

        Only the configuration is read. Raises `InputError`.
        """
        from monosem.lm.load import skeleton

        return cls(skeleton(name), None, name)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Where tokens go in and recorded activations come out: the device of the token embedding."""
        return self.model.get_input_embeddings().weight.device

    def sites(self) -> list[Site]:
        """Every site that has a name, in the order of computation; none in a family without a row."""
        return list(self._points)

    def site(self, text: str | Site) -> Site:
        """The site a text names: `resid_post.12`, a TransformerLens name, or a module path.

        `model.layers.12` is the module's output, `model.layers.12:in` its input; both are the named site where there
        is one. Raises `InputError` naming the nearest sites the model has, or why its family lacks one.
        """
        site = resolve(text, self._points, self.model, self.family, self.name)
        if site.path is not None:
            self.width(site)
        return site

    def module_path(self, site: Site) -> str:
        """The path of the module at which `site` is read."""
        return self._point(site).path

    def where(self, site: Site) -> str:
        """How `site` is read at its module: `in`, `out`, `stream` or `normed`, as in `Point`."""
        return self._point(site).where

    def width(self, site: str | Site) -> int:
        """Size of the activation at `site`: d_model, all heads together for `attn_z`, as found for a module's end."""
        found = resolve(site, self._points, self.model, self.family, self.name)
        if found.path is not None:
            if found not in self._widths:
                self._widths[found] = probe(self.model, found, self._point(found), self.family.norms, self.device)
            return self._widths[found]
        if found.kind != "attn_z":
            return self.d_model
        config = self.model.config.get_text_config()
        heads = config.num_attention_heads
        return heads * (getattr(config, "head_dim", None) or self.d_model // heads)

    def _named(self) -> dict[Site, Point]:
        """Every named site with its place, the path from the model."""
        family, points = self.family, [(kind, self.family.points[kind]) for kind in KINDS if kind in self.family.points]
        if not points:
            return {}
        return {Site("embed"): Point(family.embed, "out")} | {
            Site(kind, layer): point._replace(path=f"{family.blocks}.{layer}.{point.path}".removesuffix("."))
            for layer in range(self.n_layers)
            for kind, point in points
        }

    def _point(self, site: Site) -> Point:
        if site.path is not None:
            return Point(site.path, "in" if site.kind == "in" else "out")
        return self._points[site]

    @contextmanager
    def hooks(self, fns: Mapping[str, Hook] | Mapping[Site, Hook] | Mapping[str | Site, Hook]) -> Iterator[None]:
        """Inside the block every forward pass calls `fn(act [B, T, D])`; a tensor it returns replaces `act`.

        Works while generating (T is 1 after the prompt) and with gradients. A value written to `resid_mid`
        changes the stream itself, as it does at the other residual sites.
        """
        by_site = {self.site(site): fn for site, fn in fns.items()}
        if len(by_site) < len(fns):
            raise InputError(f"two of the hooks {', '.join(map(str, fns))} name one site: give one function a site")
        with ExitStack() as stack:
            for site in sorted(by_site, key=lambda site: _ORDER[site.kind]):
                point = self._point(site)
                module = self.model.get_submodule(point.path)
                stack.enter_context(install(module, site, point, self.family.norms, by_site[site]))
            yield

    splice = splice
    _repr_html_ = model_card

    def capture(self, tokens: Int[Tensor, "B T"], sites: Iterable[str | Site]) -> dict[Site, Float[Tensor, "B T D"]]:
        """Activations at `sites`, without gradient, in the model's dtype; the pass stops after the last.

        They are on `device`, also where the model is spread over several.
        """
        wanted = list(dict.fromkeys(self.site(site) for site in sites))
        found: dict[Site, Tensor] = {}

        def keep(site: Site) -> Hook:
            def hook(act: Float[Tensor, "B T D"]) -> None:
                found[site] = act.to(self.device)
                if len(found) == len(wanted):
                    raise _Complete

            return hook

        # no_grad, not inference_mode: an inference tensor could not be trained on without another copy.
        with torch.no_grad(), suppress(_Complete), self.hooks({site: keep(site) for site in wanted}):
            if wanted:
                self.model(input_ids=self._batch(tokens), use_cache=False)
        return {site: found[site] for site in wanted}

    def cache(self, prompt: str, sites: Iterable[str | Site]) -> Cache:
        """Tokenise `prompt` as the tokenizer does by default and record it. Raises `InputError`."""
        ids = torch.tensor(self.tokenizer(prompt)["input_ids"], dtype=torch.long)
        if not len(ids):
            raise InputError("the prompt has no tokens: give some text")
        acts = self.capture(ids[None], sites)
        tokens = [self.tokenizer.decode([token]) for token in ids.tolist()]
        return Cache(tokens, ids, {site: act[0] for site, act in acts.items()}, self.site)

    def logits(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Next-token logits in the model's dtype; gradients reach whatever a hook put in."""
        return self.model(input_ids=self._batch(tokens), use_cache=False).logits

    @torch.no_grad()
    def unembed(self, directions: Float[Tensor, "R D"]) -> Float[Tensor, "R V"]:
        """What a direction of the residual stream adds to the logits, through the final norm's gain and W_U.

        The norm's division and centring depend on the whole stream and are left out. Computed in float32.
        """
        if not self._points:
            raise InputError(f"{self.name} is a {self.family.title} model, whose final norm is not known here")
        W = self._weight(self.family.unembed)
        gain = self._weight(self.family.norm).to(W) + self.family.norms.offset
        return (directions.to(W) * gain) @ W.T

    def fingerprint(self) -> str:
        """A hash of the weights that does not depend on the dtype they were loaded in.

        For every parameter its name, its shape and up to 4,096 evenly spaced values, cast to bfloat16.
        """
        hashed = hashlib.sha256()
        for name, weight in sorted(self.model.named_parameters()):
            flat = weight.detach().flatten()
            sample = flat[:: max(1, -(-len(flat) // _SAMPLES))].to("cpu", torch.bfloat16)
            hashed.update(f"{name} {tuple(weight.shape)}".encode())
            hashed.update(sample.view(torch.int16).numpy().tobytes())
        return hashed.hexdigest()

    def identity(self) -> dict[str, str | int | None]:
        """What decides the activations this model gives, as JSON."""
        return {
            "name": self.name,
            "model_type": self.model.config.model_type,
            "fingerprint": self.fingerprint(),
            "tokenizer": tokenizer_hash(self.tokenizer),
            "d_model": self.d_model,
            "n_layers": self.n_layers,
            "dtype": str(self.dtype).removeprefix("torch."),
            "quantisation": self.quantisation,
        }

    def _weight(self, path: str) -> Tensor:
        module: nn.Module = self.model.get_submodule(path)
        return module.get_parameter("weight").float()

    def _batch(self, tokens: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if tokens.ndim != 2 or tokens.is_floating_point() or not tokens.numel():
            raise InputError(f"tokens have shape {tuple(tokens.shape)} and type {tokens.dtype}: give integers [B, T]")
        if longest is not None and tokens.shape[1] > longest:
            raise InputError(f"windows of {tokens.shape[1]} tokens: {self.name} reads at most {longest}")
        return tokens.to(self.device)


class _Complete(Exception):  # noqa: N818
    """Every wanted activation was seen; the rest of the forward pass is not needed."""
