"""Loading model and tokenizer: the embedded one, a local folder, or a hub name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from monosem.lm import embedded
from monosem.lm.precision import fastest_dtype
from monosem.lm.quiet import quiet
from monosem.shapes import InputError

_DTYPES = ("float32", "bfloat16", "float16")
_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


class Loaded(NamedTuple):
    """What `LanguageModel.load` wraps."""

    model: Any
    tokenizer: Any
    name: str
    source: str
    quantisation: str | None


def load(name: str, *, dtype: str, device: str, device_map: str | None = None) -> Loaded:
    """Raises `InputError` for an unknown name, dtype, device or device map, or for damaged files."""
    place, spread = _device(device), _spread(device_map)
    kind = _dtype(dtype, place)
    if name in (embedded.NAME, "embedded"):
        model, tokenizer = _read(str(embedded.embedded_folder()), kind, place, spread)
        return Loaded(model, tokenizer, embedded.NAME, embedded.SOURCE, embedded.QUANTISATION)
    model, tokenizer = _read(name, kind, place, spread)
    quantisation = (model.config.to_dict().get("quantization_config") or {}).get("quant_method")
    if Path(name).is_dir():
        short = Path(name).resolve().name
        return Loaded(model, tokenizer, short, f"Local folder {short}.", quantisation)
    revision = getattr(model.config, "_commit_hash", None) or "unknown"
    source = f"{name} from the Hugging Face hub, revision {revision}."
    return Loaded(model, tokenizer, name, source, quantisation)


def skeleton(name: str) -> Any:
    """The model of a name on torch's meta device: modules and shapes, no weights. Raises `InputError`."""
    if name in (embedded.NAME, "embedded"):
        name = str(embedded.config_folder())
    with _reading(name):
        config, kind = _architecture(name)
        with torch.device("meta"):
            return kind.from_config(config)


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used ({_line(error)}): try cpu") from None


def _spread(device_map: str | None) -> str | dict[str, Any] | None:
    """What transformers takes: a word, or devices by module path."""
    if device_map is None:
        return None
    if find_spec("accelerate") is None:
        raise InputError(f"device map {device_map} needs the package accelerate: pip install accelerate")
    if device_map in _MAPS:
        return device_map
    try:
        places = json.loads(device_map)
    except json.JSONDecodeError:
        places = None
    if not isinstance(places, dict):
        raise InputError(
            f"device map {device_map!r} is unknown: give {', '.join(_MAPS)}, or a JSON object of module paths and "
            'devices such as {"model.embed_tokens": 0, "model.layers": 1, "model.norm": 1, "lm_head": 1}'
        )
    for place in places.values():
        _device(f"cuda:{place}" if isinstance(place, int) else str(place))
    return places


def _dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        dtype = fastest_dtype(device).dtype
    if dtype not in _DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown: use auto, {', '.join(_DTYPES)}")
    return getattr(torch, dtype)


def _read(name: str, dtype: torch.dtype, device: torch.device, spread: Any) -> tuple[Any, Any]:
    """Model and tokenizer by transformers' ordinary ways; code that comes with a model is never run."""
    from transformers import AutoTokenizer

    with _reading(name):
        _, kind = _architecture(name)
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = kind.from_pretrained(name, dtype=dtype, device_map=spread)
    if spread is None:
        return model.to(device), tokenizer
    if waiting := [path for path, weight in model.named_parameters() if weight.is_meta]:
        raise InputError(
            f"device map {spread} leaves {len(waiting)} of the weights of {name} on disk or beside a GPU that would "
            f"fetch them for each pass ({waiting[0]}): give devices that hold all of them"
        )
    return model, tokenizer


def _architecture(name: str) -> tuple[Any, Any]:
    """The configuration, and the class of models it belongs to: causal, or with images beside the text."""
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    config = AutoConfig.from_pretrained(name)
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return config, AutoModelForCausalLM
    return config, AutoModelForImageTextToText


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Quiet; what transformers raises inside becomes one line."""
    from safetensors import SafetensorError

    advice = f"give {embedded.NAME}, a folder with config.json and safetensors, or a hub name that can be reached"
    try:
        with quiet():
            yield
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"cannot load the model {name!r} ({_line(error)}): {advice}") from None


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
