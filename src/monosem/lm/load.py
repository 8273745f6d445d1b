"""Loading model and tokenizer: the embedded one, a local folder, or a hub name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from monosem.lm import embedded
from monosem.lm.family import FAMILIES
from monosem.lm.precision import fastest_dtype
from monosem.lm.quiet import quiet
from monosem.shapes import InputError

_DTYPES = ("float32", "bfloat16", "float16")


class Loaded(NamedTuple):
    """What `LanguageModel.load` wraps."""

    model: Any
    tokenizer: Any
    name: str
    source: str
    quantisation: str | None


def load(name: str, *, dtype: str, device: str) -> Loaded:
    """Raises `InputError` for an unknown name, family, dtype or device, or for damaged files."""
    place = _device(device)
    kind = _dtype(dtype, place)
    if name in (embedded.NAME, "embedded"):
        model, tokenizer = _read(str(embedded.embedded_folder()), kind)
        return Loaded(model.to(place), tokenizer, embedded.NAME, embedded.SOURCE, embedded.QUANTISATION)
    model, tokenizer = _read(name, kind)
    quantisation = (model.config.to_dict().get("quantization_config") or {}).get("quant_method")
    if Path(name).is_dir():
        short = Path(name).resolve().name
        return Loaded(model.to(place), tokenizer, short, f"Local folder {short}.", quantisation)
    revision = getattr(model.config, "_commit_hash", None) or "unknown"
    source = f"{name} from the Hugging Face hub, revision {revision}."
    return Loaded(model.to(place), tokenizer, name, source, quantisation)


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used ({_line(error)}): try cpu") from None


def _dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        dtype = fastest_dtype(device).dtype
    if dtype not in _DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown: use auto, {', '.join(_DTYPES)}")
    return getattr(torch, dtype)


def _read(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Model and tokenizer by transformers' ordinary ways; code that comes with a model is never run."""
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    advice = f"give {embedded.NAME}, a folder with config.json and safetensors, or a hub name that can be reached"
    try:
        with quiet():
            config = AutoConfig.from_pretrained(name)
            if config.model_type not in FAMILIES:
                known = ", ".join(sorted(FAMILIES))
                raise InputError(f"{name} is a {config.model_type} model: supported families are {known}")
            tokenizer = AutoTokenizer.from_pretrained(name)
            model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, attn_implementation="sdpa")
    except InputError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"cannot load the model {name!r} ({_line(error)}): {advice}") from None
    return model, tokenizer


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
