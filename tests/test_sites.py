"""monosem sites: what a model has, without its weights."""

import json

import pytest
from transformers import CLIPVisionConfig, GPTJConfig, LlamaConfig, LlavaConfig

import tiny
from family_model import CASES, GROUPED, VISION, configuration
from monosem.cli import main
from monosem.lm import FAMILIES


@pytest.fixture
def folder(tmp_path):
    """A folder with the configuration of a family alone."""

    def make(name):
        configuration(name).save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return make


@pytest.mark.parametrize("name", list(CASES))
def test_every_family_lists_its_sites_from_the_configuration(folder, name, capsys):
    assert main(["sites", folder(name), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    case = CASES[name]
    assert (found["layers"], found["d_model"], found["vocabulary"]) == (3, 32, len(tiny.tokenizer()))
    assert found["family"] in [family.title for family in FAMILIES.values()]
    rows = {row["site"]: row for row in found["sites"]}
    assert len(rows) == 1 + 3 * (8 - len(found["lacks"]))
    assert rows["resid_post.2"] == {
        "site": "resid_post.2",
        "layer": 2,
        "width": 32,
        "module_path": f"{case.blocks}.2",
        "where": "out",
        "transformer_lens": "blocks.2.hook_resid_post",
        "meaning": "residual stream after a block",
    }
    assert rows["embed"]["module_path"] == case.embed
    assert rows["attn_z.1"]["module_path"] == f"{case.blocks}.1.{case.block.attn}.{case.block.map}"
    assert rows["attn_z.1"]["width"] == (48 if "head_dim" in case.settings else 32)
    out = f"{case.block.mlp}" if not case.block.after_mlp else case.block.after_mlp
    assert rows["mlp_out.0"]["module_path"] == f"{case.blocks}.0.{out}"


def test_the_table_shows_one_block_for_all_or_the_one_asked_for(folder, capsys):
    path = folder("gpt_neox")
    assert main(["sites", path]) == 0
    first = capsys.readouterr().out
    assert "GPT-NeoX (Pythia) (gpt_neox), 3 layers, d_model 32" in first.splitlines()[0]
    words = [line.split()[:3] for line in first.splitlines()]
    assert ["attn_z.0", "32", "gpt_neox.layers.0.attention.dense:in"] in words
    assert ["attn_out.0", "32", "gpt_neox.layers.0.attention.dense"] in words
    assert "resid_post.1" not in first
    assert "… and so on to layer 2" in first
    assert "no resid_mid: attention and MLP of a block read the same stream" in first
    assert main(["sites", path, "--layer", "2"]) == 0
    second = capsys.readouterr().out
    assert "resid_post.2" in second
    assert "embed " not in second
    assert "so on" not in second


def test_the_text_part_of_a_multimodal_model_has_the_sites_of_its_family(tmp_path, capsys):
    text, vision = LlamaConfig(**GROUPED), CLIPVisionConfig(**VISION)
    LlavaConfig(text_config=text, vision_config=vision).save_pretrained(tmp_path)
    assert main(["sites", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model_type"], found["family"], found["layers"]) == ("llava", "Llama", 3)
    paths = {row["site"]: row["module_path"] for row in found["sites"]}
    assert paths["mlp_out.2"] == "model.language_model.layers.2.mlp"
    assert paths["embed"] == "model.language_model.embed_tokens"


def test_another_family_lists_module_paths(tmp_path, capsys):
    GPTJConfig(
        vocab_size=32, n_embd=16, n_layer=2, n_head=2, rotary_dim=4, bos_token_id=0, eos_token_id=1
    ).save_pretrained(tmp_path)
    assert main(["sites", str(tmp_path), "--layer", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Give module paths" in lines[2]
    assert lines[3] == "transformer.h.1"
    assert "transformer.h.1.mlp.fc_out" in lines


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--layer", "3"], "give one from 0 to 2"), ([], "cannot load the model")]
)
def test_bad_input_is_one_line(folder, tmp_path, arguments, words, capsys):
    assert main(["sites", folder("gpt2") if arguments else str(tmp_path / "none"), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
