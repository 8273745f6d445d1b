from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

import tiny
from monosem.evaluation import Context, FeatureStatistics, feature, feature_statistics, promoted
from monosem.lm import LanguageModel
from monosem.sae import SAE, DenseEncoder, JumpReLU, ReLU, Rule, TopK
from monosem.shapes import InputError
from monosem.shapes.exclusion import Exclusion
from monosem.text import Windows

D, F = 32, 48
SITE = "resid_post.1"
RULES = {"topk": TopK(F, 4), "jump": JumpReLU(F), "relu": ReLU(F)}


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny.llama()


def text(count: int = 12, length: int = 10) -> Windows:
    tokens = torch.randint(0, 300, (count, length), generator=torch.Generator().manual_seed(0)).int()
    tokens[:, 4] = 1
    return Windows(tokens, torch.zeros_like(tokens), tokens < 2, {"corpus": "random"})


def autoencoder(rule: Rule) -> SAE:
    info = {"site": SITE, "exclusion": Exclusion().describe()}
    sae = SAE(DenseEncoder(D, F), rule, info=info)
    generator = torch.Generator().manual_seed(1)
    sae.initialise(torch.randn(256, D, generator=generator) * 3 + 1, generator)
    sae.encoder.bias.data[7] = -1e6  # a dead latent
    return sae.eval()


def dense(sae: SAE, lm: LanguageModel, windows: Windows) -> tuple[Tensor, Tensor]:
    """Every latent on every token [N, T, F], 0 where the token is left out; and what is kept [N, T]."""
    act = lm.capture(windows.tokens, [SITE])[lm.site(SITE)]
    keep = ~windows.special
    keep[:, 0] = False
    with torch.no_grad():
        return sae.encode(act) * keep[..., None], keep


@pytest.fixture(scope="module", params=list(RULES))
def case(request, lm, tmp_path_factory) -> tuple[FeatureStatistics, Tensor, Tensor]:
    """Statistics as read from a file, against every activation computed at once."""
    sae = autoencoder(RULES[request.param])
    found = feature_statistics({"sae": sae}, lm, text(), batch=5, command="test")["sae"]
    path = found.save(tmp_path_factory.mktemp("features") / "features.safetensors")
    return FeatureStatistics.load(path), *dense(sae, lm, text())


def test_every_activation_is_kept_in_order(case):
    found, acts, keep = case
    flat = acts.flatten(0, 1)
    assert (found.n_windows, found.length, found.n_latents) == (12, 10, F)
    assert found.n_tokens == keep.sum()
    for latent in range(F):
        tokens, values = found.activations(latent)
        assert tokens.tolist() == flat[:, latent].nonzero().flatten().tolist()
        np.testing.assert_allclose(values, flat[tokens.astype(np.int64), latent], rtol=1e-5)
    assert int(found.starts[-1]) == (flat != 0).sum()


def test_density_mean_and_maximum(case):
    found, acts, keep = case
    flat = acts.flatten(0, 1).double()
    count = (flat != 0).sum(0)
    np.testing.assert_allclose(found.densities, count.double() / keep.sum(), rtol=1e-12)
    np.testing.assert_allclose(found.means, flat.sum(0) / count.clamp_min(1), rtol=1e-5)
    np.testing.assert_allclose(found.maxima, flat.amax(0), rtol=1e-5)
    assert (found.density(7), found.mean(7), found.max(7)) == (0, 0, 0)
    assert found.density(3) == found.densities[3]
    assert (found.mean(3), found.max(3)) == (found.means[3], found.maxima[3])


def test_the_text_is_kept_with_what_was_left_out(case):
    found, _, keep = case
    for index, tokens in enumerate(text().tokens):
        assert found.window(index).tolist() == tokens.tolist()
        assert found.excluded(index).tolist() == (~keep[index]).tolist()


def test_top_contexts_are_the_strongest_of_their_windows(case):
    found, acts, _ = case
    for latent in range(F):
        peaks = acts[:, :, latent].amax(1)
        contexts = found.top(latent, n=5, width=2)
        expected = peaks[peaks > 0].sort(descending=True).values[:5]
        assert [one.value for one in contexts] == pytest.approx(expected.tolist(), rel=1e-5)
        assert len({one.window for one in contexts}) == len(contexts)
        for one in contexts:
            check(one, acts, latent, width=2)
    assert found.top(7) == found.quantiles(7) == []


def check(one: Context, acts: Tensor, latent: int, width: int) -> None:
    start, stop = max(0, one.position - width), min(10, one.position + width + 1)
    assert one.start == start
    assert one.tokens == text().tokens[one.window, start:stop].tolist()
    own = acts[one.window, start:stop, latent].tolist()
    assert one.values == pytest.approx(own, rel=1e-5, abs=1e-7)
    assert one.value == one.values[one.position - start] > 0


def test_quantile_samples_come_from_their_share_and_stay_apart(case):
    found, acts, _ = case
    latent = int(found.densities.argmax())
    values = np.sort(found.activations(latent).values)[::-1]
    bounds = [(part.min(), part.max()) for part in np.array_split(values, 3)]
    contexts = found.quantiles(latent, n=4, groups=3, seed=1, width=1)
    assert {one.group for one in contexts} == {0, 1, 2}
    for one in contexts:
        assert one.group is not None
        assert bounds[one.group][0] <= one.value <= bounds[one.group][1]
        check(one, acts, latent, width=1)
    places = [(one.window, one.start + offset) for one in contexts for offset in range(len(one.tokens))]
    assert len(places) == len(set(places))
    assert contexts == found.quantiles(latent, n=4, groups=3, seed=1, width=1)
    assert contexts != found.quantiles(latent, n=4, groups=3, seed=2, width=1)


def test_a_file_gives_back_what_was_saved(lm, tmp_path):
    found = feature_statistics({"sae": autoencoder(TopK(F, 4))}, lm, text(), command="a command")["sae"]
    once = FeatureStatistics.load(found.save(tmp_path / "a"))
    again = FeatureStatistics.load(once.save(tmp_path / "b"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert again.metadata == json.loads(json.dumps(found.metadata))
    origin = again.metadata["provenance"]
    assert (origin["command"], origin["site"], origin["model"]) == ("a command", SITE, lm.identity())
    assert again.metadata["space"] == "scaled"
    for latent in range(F):
        for one, other in zip(found.activations(latent), again.activations(latent)):
            np.testing.assert_array_equal(one, other)


def test_large_arrays_are_read_a_slice_at_a_time(case, monkeypatch, tmp_path):
    path = case[0].save(tmp_path / "features")
    read: list[str] = []

    class Spy:
        def __init__(self, *args: object) -> None:
            self.file = safe_open(*args)

        def metadata(self) -> dict[str, str]:
            return self.file.metadata()

        def get_tensor(self, name: str) -> np.ndarray:
            read.append(name)
            return self.file.get_tensor(name)

        def get_slice(self, name: str) -> object:
            return self.file.get_slice(name)

    monkeypatch.setattr("monosem.evaluation.feature_file.safe_open", Spy)
    FeatureStatistics.load(path).top(3)
    assert sorted(read) == ["density", "max", "mean", "starts"]


def test_many_autoencoders_in_one_reading_equal_each_alone(lm):
    saes = {name: autoencoder(rule) for name, rule in RULES.items()}
    together = feature_statistics(saes, lm, text(), batch=5)
    for name, sae in saes.items():
        alone = feature_statistics({name: sae}, lm, text(), batch=5)[name]
        for latent in range(F):
            for one, other in zip(alone.activations(latent), together[name].activations(latent)):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_refused(case, tmp_path, share):
    path = case[0].save(tmp_path / "features")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="truncated or damaged"):
        FeatureStatistics.load(path)


def test_other_files_are_refused(case, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        FeatureStatistics.load(tmp_path / "none")
    save_file({"values": np.zeros(3)}, tmp_path / "other")
    with pytest.raises(InputError, match=r"not a monosem\.features file"):
        FeatureStatistics.load(tmp_path / "other")
    found = case[0]
    found = FeatureStatistics({**found._arrays, "values": np.zeros(3, np.float32)}, found.metadata)
    with pytest.raises(InputError, match="do not fit each other"):
        FeatureStatistics.load(found.save(tmp_path / "unequal"))


def test_an_unfinished_file_is_never_seen(case, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("monosem.evaluation.feature_file.save_file", full)
    with pytest.raises(InputError, match="disk is full"):
        case[0].save(tmp_path / "features")
    assert list(tmp_path.iterdir()) == []


def test_too_many_entries_are_refused_with_what_to_lower(lm):
    with pytest.raises(InputError, match=r"200 active entries after 5 of 12 windows, max_entries is 190"):
        feature_statistics({"sae": everywhere()}, lm, text(), batch=5, max_entries=190)
    assert feature_statistics({"sae": everywhere()}, lm, text(), batch=5, max_entries=480)["sae"]


def everywhere() -> SAE:
    """Five active latents on each of the eight or fewer kept tokens of a window."""
    sae = autoencoder(TopK(F, 5))
    sae.encoder.weight.data.zero_()
    sae.encoder.bias.data.copy_(torch.arange(F) + 1.0)
    return sae


def test_a_text_without_kept_tokens_is_refused(lm):
    windows = text()
    windows.special[:] = True
    with pytest.raises(InputError, match="no token is left"):
        feature_statistics({"sae": autoencoder(TopK(F, 4))}, lm, windows)


@pytest.mark.parametrize("latent", [-1, F])
def test_a_latent_that_does_not_exist_is_refused(case, lm, latent):
    with pytest.raises(InputError, match=f"latent {latent} does not exist"):
        case[0].top(latent)
    with pytest.raises(InputError, match=f"latent {latent} does not exist"):
        promoted(autoencoder(TopK(F, 4)), lm, [latent])


def test_positions_grow_to_64_bits_for_long_texts():
    keep = torch.tensor([[False, True], [True, True]])
    assert feature._positions(keep, 10, 2**31 - 1).dtype == torch.int32
    wide = feature._positions(keep, 2**31, 2**33)
    assert wide.tolist() == [2**32 + 1, 2**32 + 2, 2**32 + 3]


def test_promoted_tokens_are_the_extremes_of_the_centred_logits(lm):
    sae = autoencoder(TopK(F, 4))
    latents = list(range(5, F))
    found = promoted(sae, lm, latents, n=6)
    model = lm.model
    logits = (sae.W_dec[latents] * model.model.norm.weight) @ model.lm_head.weight.T
    logits = (logits - logits.mean(1, keepdim=True)).detach()
    order = logits.sort(1, descending=True)
    torch.testing.assert_close(found.top_values, order.values[:, :6])
    torch.testing.assert_close(found.bottom_values, order.values[:, -6:].flip(1))
    torch.testing.assert_close(logits.gather(1, found.top_ids), found.top_values)
    torch.testing.assert_close(logits.gather(1, found.bottom_ids), found.bottom_values)


def test_promoted_works_in_parts_and_refuses_what_has_no_direction(lm, monkeypatch):
    sae = autoencoder(TopK(F, 4))
    whole = promoted(sae, lm, range(F), n=3)
    monkeypatch.setattr("monosem.evaluation.promotion._ROWS", 5)
    for one, other in zip(whole, promoted(sae, lm, range(F), n=3)):
        torch.testing.assert_close(one, other)
    wide = SAE(DenseEncoder(48, F), TopK(F, 4))
    with pytest.raises(InputError, match="decoder rows of width 48"):
        promoted(wide, lm, [0])
    with pytest.raises(InputError, match="0 tokens were asked for"):
        promoted(sae, lm, [0], n=0)
