"""What a feature adds to a logit: sums are exact, values are what an ablation in the frozen pass changes."""

from __future__ import annotations

import pytest
import torch

import family_model
import tiny
from monosem.interpret import attribute
from monosem.interpret.attribution import beside_random
from monosem.lm import LanguageModel
from monosem.sae import SAE, BatchTopK, DenseEncoder, ReLU, TopK, boosted
from monosem.shapes.exclusion import Exclusion
from refusal import refused

D, F = 32, 48
PROMPT, TARGET, AGAINST = "seven birds sang about", " rain", " river"


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma2", "gpt_neox"])
def lm(request) -> LanguageModel:
    return family_model.make(request.param)


def autoencoder(site="resid_post.1", target=None, rule=None, seed=1, first=1, skip=False, d=D, **exclusion) -> SAE:
    info = {"site": site, "exclusion": Exclusion(first=first, **exclusion).describe()}
    info |= {} if target is None else {"target": target}
    sae = SAE(DenseEncoder(d, F), rule or TopK(F, 6), info=info, skip=skip, subtract_b_dec=target is None)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(256, d, generator=generator) * 3 + 1
    sae.initialise(x, generator, None if target is None else x * 2)
    if isinstance(sae.rule, BatchTopK):
        sae.rule.cut.fill_(1.0)
    if sae.W_skip is not None:
        sae.W_skip.data.normal_(generator=generator)
    return sae.eval()


def ids(lm: LanguageModel, lead: bool = True) -> torch.Tensor:
    return torch.tensor([[1] * lead + lm.tokenizer(PROMPT)["input_ids"]])


def one(lm: LanguageModel, text: str) -> int:
    (token,) = lm.tokenizer(text)["input_ids"]
    return token


def uncapped(lm: LanguageModel, logits: torch.Tensor) -> torch.Tensor:
    cap = getattr(lm.model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * (logits / cap).atanh()


@pytest.mark.parametrize("site", ["embed", "resid_pre.1", "resid_mid.1", "attn_out.2", "mlp_out.0", "resid_post.2"])
@pytest.mark.parametrize("against", [None, AGAINST], ids=["one", "two"])
def test_direct_addends_are_the_logit(lm, site, against):
    if lm.name == "tiny-gpt_neox" and site.startswith("resid_mid"):
        pytest.skip("parallel blocks have no resid_mid")
    found = attribute(autoencoder(site), lm, PROMPT, TARGET, against)
    logits = uncapped(lm, lm.logits(ids(lm))[0, -1])
    expected = logits[one(lm, TARGET)] - (0 if against is None else logits[one(lm, AGAINST)])
    assert found.total == pytest.approx(float(expected), abs=2e-4)
    assert abs(found.rounding) < 1e-4
    assert set(found.positions.tolist()) == {len(found.tokens) - 1}
    assert len(found.values) == 6
    assert found.parts["features"] == pytest.approx(float(found.values.sum()))


def test_a_direct_value_is_what_leaving_the_feature_out_takes_from_the_frozen_norm(lm):
    """At the last site of the stream the logit is the final norm and unembedding of the site, written out here."""
    sae = autoencoder("resid_post.2").requires_grad_(False)
    found = attribute(sae, lm, PROMPT, TARGET, AGAINST)
    case = family_model.CASES[lm.name.removeprefix("tiny-")]
    x = lm.capture(ids(lm), ["resid_post.2"])[lm.site("resid_post.2")][0, -1]
    norm, centred = lm.model.get_submodule(lm.family.norm), lm.family.norms.centred
    spread = (x - x.mean() if centred else x).square().mean().add(case.eps).sqrt()

    def logit(stream: torch.Tensor) -> torch.Tensor:
        unit = (stream - stream.mean() if centred else stream) / spread
        out = lm.model.lm_head(family_model.gained(case, norm, unit))
        return out[one(lm, TARGET)] - out[one(lm, AGAINST)]

    for latent, activation, value in zip(found.latents, found.activations, found.values):
        without = x - activation.float() * sae.W_dec[latent] / sae.out_scale
        assert float(logit(x) - logit(without)) == pytest.approx(float(value), abs=2e-4)


@pytest.mark.parametrize("rule", [TopK(F, 6), BatchTopK(F, 6), ReLU(F)], ids=["fixed", "ragged", "dense"])
def test_gradient_values_are_feature_times_gradient_of_a_splice(lm, rule):
    sae = autoencoder(rule=rule)
    found = attribute(sae, lm, PROMPT, TARGET, AGAINST, method="gradient")
    with lm.splice(sae) as spliced:
        logits = lm.logits(ids(lm))[0, -1]
        (logits[one(lm, TARGET)] - logits[one(lm, AGAINST)]).backward()
    expected, acts = spliced.attribution.dense()[0].detach(), spliced.acts.dense()[0].detach()
    ours, fires = torch.zeros_like(expected), torch.zeros_like(acts)
    ours[found.positions, found.latents] = found.values.float()
    fires[found.positions, found.latents] = found.activations.float()
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fires, acts)
    assert not (found.positions == 0).any(), "the first position is left out"
    assert (found.parts["left out"] != 0) is (lm.name != "tiny-gemma2"), "its windows of 4 do not reach the first token"
    change = float((spliced.output.grad * spliced.output.detach()).sum())
    assert found.total == pytest.approx(change, rel=1e-4)
    assert abs(found.rounding) < 1e-4 * max(1.0, abs(found.total))


@pytest.mark.parametrize("method", ["direct", "gradient"])
@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip"])
def test_a_transcoder_is_taken_apart_at_its_target(lm, method, skip):
    sae = autoencoder("mlp_in.1", "mlp_out.1", skip=skip)
    found = attribute(sae, lm, PROMPT, TARGET, AGAINST, method=method)
    assert str(found.site) == "mlp_out.1"
    assert ("skip" in found.parts) is skip
    assert abs(found.rounding) < 1e-4
    assert found.parts["error"] != 0
    if skip:
        assert found.parts["skip"] != 0


def test_a_composition_has_the_latents_of_its_groups():
    lm = tiny.llama()
    core, extra = autoencoder(), autoencoder(seed=2)
    extra.b_dec.data.zero_()
    extra.subtract_b_dec = False
    found = attribute(boosted(core, {"more": extra}), lm, PROMPT, TARGET, AGAINST)
    alone = attribute(core, lm, PROMPT, TARGET, AGAINST)
    ours = {latent: value for latent, value in zip(found.latents.tolist(), found.values.tolist()) if latent < F}
    assert ours == pytest.approx(dict(zip(alone.latents.tolist(), alone.values.tolist())), abs=1e-5)
    assert any(latent >= F for latent in found.latents.tolist())
    assert abs(found.rounding) < 1e-4


def test_features_come_strongest_first_and_as_json():
    found = attribute(autoencoder(), tiny.llama(), PROMPT, TARGET, method="gradient")
    sizes = found.values.abs().tolist()
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) > 6, "features of all positions"
    written = found.to_json(top=3)
    assert [row["latent"] for row in written["features"]] == found.latents[:3].tolist()
    assert written["n_features"] == len(sizes)
    assert written["target"] == TARGET
    assert written["features"][0]["token"] == found.tokens[found.positions[0]]


@pytest.mark.parametrize("against", [None, AGAINST], ids=["one", "two"])
def test_beside_it_stands_the_same_of_random_tokens(against):
    lm, sae = tiny.llama(), autoencoder()
    found = attribute(sae, lm, PROMPT, TARGET, against)
    beside = beside_random(sae, lm, PROMPT, found, seed=3)
    aim = beside.contrast
    assert (aim.against is None) is (against is None)
    assert {TARGET, AGAINST}.isdisjoint({aim.target, aim.against})
    assert one(lm, aim.target) == aim.target_id
    again = attribute(sae, lm, PROMPT, aim.target, aim.against)
    assert torch.equal(beside.values, again.values)
    assert beside_random(sae, lm, PROMPT, found, seed=3).contrast == aim
    assert len({beside_random(sae, lm, PROMPT, found, seed=seed).contrast.target_id for seed in range(8)}) > 4
    place, latent = int(found.positions[0]), int(found.latents[0])
    assert found.value_of(place, latent) == float(found.values[0])
    assert found.value_of(place, F + 1) == 0.0


def test_a_last_token_that_the_rule_leaves_out_has_no_features():
    found = attribute(autoencoder(first=50), tiny.llama(), PROMPT, TARGET)
    assert len(found.values) == 0
    assert found.parts["left out"] != 0
    assert found.parts["features"] == found.parts["error"] == found.parts["b_dec"] == 0
    assert abs(found.rounding) < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": " mat"}, "give one token"),
        ({"target": ""}, "give one token"),
        ({"against": TARGET}, "give another token"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"method": "exact"}, "give direct or gradient"),
        ({"sae": autoencoder("mlp_in.1")}, "use the gradient method"),
        ({"sae": autoencoder("attn_z.1", d=48)}, "use the gradient method"),
    ],
    ids=["two tokens", "none", "same", "no prompt", "method", "mlp_in", "attn_z"],
)
def test_what_cannot_be_attributed_is_refused(change, message):
    given = {"sae": autoencoder(), "lm": tiny.llama(), "prompt": PROMPT, "target": TARGET} | change
    assert message in refused(attribute, **given)


def test_the_gradient_method_works_where_the_direct_one_does_not():
    for site, width in (("mlp_in.1", D), ("attn_z.1", 48), ("mlp_norm.2", D)):
        found = attribute(autoencoder(site, d=width), tiny.llama(), PROMPT, TARGET, method="gradient")
        assert abs(found.rounding) < 1e-4
        assert len(found.values)
