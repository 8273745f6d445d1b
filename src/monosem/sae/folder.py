"""An autoencoder on disk: `config.json` and `weights.safetensors`, bound by a checksum. No pickles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from monosem.disk import read_json, read_sealed, save_tensors, sealed, sha256, whole_folder, write_json
from monosem.sae.autoencoder import SAE
from monosem.sae.dense import DenseEncoder
from monosem.sae.encoder import ENCODERS
from monosem.sae.grouped import GroupedEncoder, GroupRule
from monosem.sae.kron import KronEncoder
from monosem.sae.rule import RULES, Rule
from monosem.shapes import InputError

FORMAT, VERSION = "monosem.sae", 1
_KEYS = {
    "format",
    "version",
    "d_in",
    "d_out",
    "groups",
    "scale",
    "code_scale",
    "out_scale",
    "skip",
    "space",
    "subtract_b_dec",
    "info",
    "sha256",
}
_FILES = {"config.json", "weights.safetensors", "evaluation.json", "features.safetensors", "labels.sqlite"}
_FILES |= {"probing.json"}
_GROUP_KEYS = {"encoder", "rule", "n_latents"}


def describe(sae: SAE) -> dict[str, Any]:
    """The configuration that rebuilds an autoencoder: constructor keywords of each axis."""
    encoders = list(sae.encoder) if isinstance(sae.encoder, GroupedEncoder) else [sae.encoder]
    groups = [
        {
            "n_latents": encoder.n_latents,
            "encoder": {"name": _name(ENCODERS, encoder), **encoder.config()},
            "rule": {"name": _name(RULES, rule), **rule.config()},
        }
        for encoder, rule in zip(encoders, sae.rules, strict=True)
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "d_in": sae.d_in,
        "d_out": sae.d_out,
        "groups": groups,
        "scale": sae.scale,
        "code_scale": sae.code_scale,
        "out_scale": sae.out_scale,
        "skip": sae.W_skip is not None,
        "space": sae.space,
        "subtract_b_dec": sae.subtract_b_dec,
        "info": sae.info,
    }


def build(config: dict[str, Any]) -> SAE:
    """An autoencoder with the parts a configuration names, its weights zero. Raises `InputError`."""
    _check_keys(config, _KEYS, "configuration")
    if config.get("format") != FORMAT or config.get("version") != VERSION:
        raise InputError(
            f"format {config.get('format')!r} version {config.get('version')!r}: expected {FORMAT!r} {VERSION}"
        )
    groups = [_group(group, config["d_in"]) for group in config["groups"]]
    if not groups:
        raise InputError("the configuration has no group of latents: expected at least one")
    encoder, rule = groups[0] if len(groups) == 1 else _grouped(groups)
    return SAE(
        encoder,
        rule,
        d_out=config["d_out"],
        scale=config["scale"],
        code_scale=config["code_scale"],
        # What was written before there were transcoders has neither key.
        out_scale=config.get("out_scale"),
        skip=config.get("skip", False),
        subtract_b_dec=config["subtract_b_dec"],
        info=config["info"],
    )


def save(sae: SAE, folder: str | Path) -> Path:
    """Write the folder whole or not at all; `load` gives back every bit.

    An autoencoder that is there is replaced. Raises `InputError` for a folder that holds anything else.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and {file.name for file in folder.iterdir()} <= _FILES):
        raise InputError(f"{folder} holds other files than an autoencoder's: choose a new or empty folder")
    with whole_folder(folder) as temporary:
        save_tensors(sae.state_dict(), temporary / "weights.safetensors")
        described = {**describe(sae), "sha256": sha256(temporary / "weights.safetensors")}
        write_json(temporary / "config.json", sealed(described))
    return folder


def find(where: str | Path) -> dict[str, Path]:
    """The autoencoders of a folder by name: that folder itself, or all of a run. Raises `InputError`."""
    where = Path(where)
    if where.suffix in {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"}:
        raise InputError(
            f"{where} is a pickle, which can run code when opened: "
            "give a folder with config.json and weights.safetensors"
        )
    if (where / "config.json").is_file():
        return {_name_of(where): where}
    folders = sorted(
        path.parent for pattern in ("saes/**", "*") for path in where.glob(f"{pattern}/weights.safetensors")
    )
    found = {_name_of(folder): folder for folder in folders if not folder.name.startswith(".")}
    if found:
        return {name: found[name] for name in sorted(found, key=_order(where, list(found)))}
    if (where / "run.json").is_file():
        raise InputError(f"the run in {where} is not finished: continue it with monosem train --resume {where}")
    raise InputError(
        f"{where} holds no autoencoder: give a run folder, or a folder with config.json and weights.safetensors"
    )


def _name_of(folder: Path) -> str:
    """Its place under the `saes` of a run, such as `topk` or `resid_post.12/topk-k16`; else the folder's own name."""
    parts = folder.resolve().parts
    inside = len(parts) - 1 - parts[::-1].index("saes") if "saes" in parts[-3:-1] else len(parts) - 2
    return "/".join(parts[inside + 1 :])


def _order(where: Path, names: list[str]) -> Callable[[str], int]:
    """That in which the run trained them, where it says so."""
    run = read_json(where / "run.json") if (where / "run.json").is_file() else {}
    order = [*run.get("saes", []), *names]
    return order.index


def load(where: str | Path) -> SAE:
    """Read an autoencoder, in evaluation mode on the CPU: its folder, or a run that has one.

    Raises `InputError` for anything altered or unknown.
    """
    found = find(where)
    if len(found) > 1:
        raise InputError(f"{where} holds {', '.join(found)}: give one of them, such as {next(iter(found.values()))}")
    (folder,) = found.values()
    config = read_sealed(folder / "config.json")
    weights = folder / "weights.safetensors"
    if not weights.is_file():
        raise InputError(f"{weights} does not exist: the folder is incomplete, copy it again")
    if sha256(weights) != config.get("sha256"):
        raise InputError(
            f"{weights} does not match the checksum in config.json: it is truncated or altered, restore it"
        )
    try:
        sae = build(config)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'config.json'} is not a complete configuration ({error}): restore it") from None
    tensors = load_file(weights)
    expected = {name: tuple(tensor.shape) for name, tensor in sae.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        raise InputError(f"{weights} holds {found}, its configuration describes {expected}")
    sae.load_state_dict(tensors)
    return sae.eval()


def _name(table: dict[str, type], part: object) -> str:
    return next(name for name, kind in table.items() if type(part) is kind)


def _group(config: dict[str, Any], d_in: int) -> tuple[DenseEncoder | KronEncoder, Rule]:
    _check_keys(config, _GROUP_KEYS, "group")
    encoder = _part(ENCODERS, "encoder", config["encoder"], d_in=d_in, n_latents=config["n_latents"])
    return encoder, _part(RULES, "rule", config["rule"], n_latents=config["n_latents"])


def _grouped(groups: list[tuple[DenseEncoder | KronEncoder, Rule]]) -> tuple[GroupedEncoder, GroupRule]:
    return GroupedEncoder([encoder for encoder, _ in groups]), GroupRule([rule for _, rule in groups])


def _part(table: dict[str, Any], axis: str, config: dict[str, Any], **sizes: int) -> Any:
    options = dict(config)
    name = options.pop("name", None)
    if name not in table:
        raise InputError(f"unknown {axis} {name!r}: this version knows {', '.join(table)}")
    try:
        return table[name](**sizes, **options)
    except TypeError:
        raise InputError(f"{axis} {name!r} does not take the keys {sorted(options)}") from None


def _check_keys(config: dict[str, Any], known: set[str], what: str) -> None:
    if unknown := set(config) - known:
        raise InputError(f"unknown {what} key {sorted(unknown)[0]!r}: this version knows {', '.join(sorted(known))}")
