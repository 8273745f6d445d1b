from __future__ import annotations

import pytest
import torch

from flow_dictionary import A, B, autoencoder, suite, unit
from monosem.flow import Suite
from monosem.sae import SAE, DenseEncoder, TopK, save
from monosem.shapes import InputError, Site

MLP, ATTN = Site("mlp_out", 2), Site("attn_out", 2)


def small() -> Suite:
    return suite(resid_post_2=unit(10, 8), mlp_out_2=unit(12, 8, 1), resid_post_1=unit(14, 8, 2))


def test_parents_and_children_are_those_the_suite_has():
    saes = small()
    assert [str(site) for site in saes] == ["resid_post.1", "mlp_out.2", "resid_post.2"]
    assert saes.before(B) == {"resid": A, "mlp": MLP}
    assert saes.before(A) == {}
    assert saes.before(MLP) == {}
    assert saes.after(A) == B
    assert saes.after(MLP) == B
    assert saes.after(B) is None
    assert saes.layers() == [1, 2]
    assert saes.layers("attn_out") == []
    assert saes.d_model == 8
    assert saes.n_latents(MLP) == 12
    assert B in saes
    assert ATTN not in saes


def test_a_stream_before_a_block_is_the_one_after_the_block_before():
    sae = autoencoder(unit(10, 8), info={"site": "resid_pre.3"})
    assert list(Suite({Site("resid_pre", 3): sae})) == [B]
    assert list(Suite({Site("resid_pre", 0): sae})) == [Site("resid_pre", 0)]


def test_a_suite_on_disk_is_read_when_needed(tmp_path):
    made = small()
    for site, sae in made.items():
        save(sae, tmp_path / "run" / "saes" / str(site) / "topk")
    found = Suite.load(tmp_path / "run")
    assert list(found) == list(made)
    assert not found._loaded
    assert [found.hash(site) for site in found] == [made.hash(site) for site in made]
    assert found.model == made.model
    assert found.n_latents(MLP) == 12
    assert not found._loaded
    torch.testing.assert_close(found.direction(MLP).unit, made.direction(MLP).unit)
    assert list(found._loaded) == [MLP]
    assert found.direction(MLP) is found.direction(MLP)
    found.release(MLP)
    assert not found._loaded
    assert found.folder(MLP) == tmp_path / "run" / "saes" / "mlp_out.2" / "topk"
    assert made.folder(MLP) is None


def test_hashes_differ_with_weights_and_with_scales():
    first = small().hash(A)
    assert suite(resid_post_1=unit(14, 8, 2)).hash(A) == first
    assert suite(resid_post_1=unit(14, 8, 3)).hash(A) != first
    assert suite(resid_post_1=autoencoder(unit(14, 8, 2), info={"note": "a copy"})).hash(A) == first
    assert suite(resid_post_1=autoencoder(unit(14, 8, 2), scale=2.0)).hash(A) != first


def test_several_folders_and_names(tmp_path):
    for seed in (0, 1):
        for site, sae in small().items():
            save(sae, tmp_path / "grid" / "saes" / str(site) / f"topk-seed{seed}")
    save(autoencoder(unit(5, 8), info={"site": "attn_out.2"}), tmp_path / "mine")
    with pytest.raises(InputError, match=r"topk-seed0 and .*topk-seed1 are both at mlp_out\.2"):
        Suite.load(tmp_path / "grid")
    found = Suite.load([tmp_path / "grid", tmp_path / "mine"], sae="*-seed1,mine")
    assert list(found.before(B).values()) == [A, MLP, ATTN]
    assert found.folder(A).name == "topk-seed1"
    with pytest.raises(InputError, match=r"grid is named \*-seed9: there are mlp_out\.2/topk-seed0, "):
        Suite.load(tmp_path / "grid", sae="*-seed9")


def test_other_widths_and_models_are_refused_by_name():
    with pytest.raises(InputError, match=r"resid_post\.1 has d_model 8 and resid_post\.2 9"):
        suite(resid_post_1=unit(10, 8), resid_post_2=unit(10, 9))
    other = autoencoder(unit(10, 8), info={"model": {"fingerprint": "g"}})
    with pytest.raises(InputError, match=r"mlp_out\.2 belong to different models \(fingerprint f and g"):
        suite(resid_post_1=unit(10, 8), mlp_out_2=other)
    unknown = autoencoder(unit(10, 8), info={"model": {}})
    assert suite(resid_post_1=unknown, mlp_out_2=unit(10, 8)).model["fingerprint"] == "f"


def test_sites_outside_the_stream_and_transcoders_are_refused():
    with pytest.raises(InputError, match=r"mlp_in\.2 is at mlp_in\.2, whose vectors are not the residual stream's"):
        suite(mlp_in_2=unit(10, 8))
    crossing = SAE(DenseEncoder(8, 10), TopK(10, 2), info={"site": "mlp_in.2", "target": "mlp_out.2"})
    with pytest.raises(InputError, match=r"a transcoder of mlp_out\.2 to mlp_out\.2"):
        suite(mlp_out_2=crossing)


def test_what_is_not_there_is_said():
    saes = small()
    with pytest.raises(InputError, match=r"at attn_out\.2: it has resid_post\.1, mlp_out\.2, resid_post\.2"):
        saes[ATTN]
    with pytest.raises(InputError, match=r"resid_post\.2/10 does not exist: .* has 10 latents from 0"):
        saes.node("resid_post.2/10")
    with pytest.raises(InputError, match=r"no autoencoder at attn_out\.2"):
        saes.node("attn_out.2/1")
    assert str(saes.node("resid_pre.3/9")) == "resid_post.2/9"


def test_an_autoencoder_has_to_say_its_site(tmp_path):
    save(autoencoder(unit(5, 8)), tmp_path / "one")
    with pytest.raises(InputError, match=r"one does not say its site: set sae\.info"):
        Suite.load(tmp_path / "one")
