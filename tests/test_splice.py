from __future__ import annotations

import functools
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tiny
from monosem.evaluation import evaluate
from monosem.lm import LanguageModel, edit
from monosem.sae import SAE, BatchTopK, DenseEncoder, JumpReLU, KronEncoder, ReLU, Rule, TopK
from monosem.shapes import InputError, Site
from monosem.shapes.codes import Codes
from monosem.shapes.exclusion import Exclusion
from monosem.text import Windows

D, F, K = 32, 64, 5
SITE = "resid_post.1"
KINDS = ("topk", "batch_topk", "jumprelu", "relu", "relu_dense", "kron", "cut")
RAGGED = ("batch_topk", "jumprelu", "relu")


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny.llama()


def ids(rows: int = 2, length: int = 9, seed: int = 1) -> Tensor:
    return torch.randint(2, 300, (rows, length), generator=torch.Generator().manual_seed(seed))


@functools.cache
def activations(site: str) -> Tensor:
    return tiny.llama().capture(ids(32, seed=9), [site])[Site.parse(site)][:, 1:].reshape(-1, D)


def autoencoder(kind: str = "topk", site: str = SITE, seed: int = 0, **exclusion) -> SAE:
    generator = torch.Generator().manual_seed(seed)
    encoder = KronEncoder(D, F, heads=8, base=2, extension=4) if kind == "kron" else DenseEncoder(D, F)
    rules = {"batch_topk": BatchTopK(F, K), "jumprelu": JumpReLU(F), "relu": ReLU(F), "relu_dense": ReLU(F)}
    rule: Rule = rules.get(kind, TopK(F, 2 * K if kind == "cut" else K))
    sae = SAE(encoder, rule, info={"site": site, "exclusion": Exclusion(**exclusion).describe()})
    sae.initialise(activations(site), generator)
    with torch.no_grad():
        sae.encoder.bias.copy_(torch.randn(sae.encoder.bias.shape, generator=generator) * 0.1)
        if isinstance(rule, BatchTopK):
            rule.cut.fill_(0.8)
        if isinstance(rule, JumpReLU):
            rule.threshold.copy_(torch.rand(F, generator=generator) + 0.4)
        if kind == "relu":
            sae.encoder.bias.sub_(1.5)
    return (sae.at(K) if kind == "cut" else sae).eval()


def transcoder(skip: bool = False) -> SAE:
    """From the normed input of an MLP to its output."""
    generator = torch.Generator().manual_seed(3)
    info = {"site": "mlp_in.1", "target": "mlp_out.1", "exclusion": Exclusion().describe()}
    sae = SAE(DenseEncoder(D, F), TopK(F, K), d_out=D, subtract_b_dec=False, skip=skip, info=info)
    x, y = (torch.randn(256, D, generator=generator) * size for size in (2, 0.5))
    sae.initialise(x, generator, y)
    if skip:
        torch.nn.init.normal_(sae.W_skip, generator=generator)
    return sae.eval()


def dense_features(sae: SAE, x: Tensor) -> Tensor:
    """Features from weights alone, every latent of every token, differentiable in x; none of the package's kernels."""
    z = x * sae.scale - (sae.b_dec if sae.subtract_b_dec else 0)
    pre = z @ sae.encoder.weight.T + sae.encoder.bias
    if isinstance(sae.encoder, KronEncoder):
        base, extension = pre.unflatten(-1, (8, 6)).split([2, 4], -1)
        u, v = base[..., :, None].relu(), extension[..., None, :].relu()
        pre = ((u * v).clamp_min(1e-30).sqrt() * (u * v > 0)).flatten(-3)
    rule = sae.rule
    if isinstance(rule, TopK):
        best = pre.relu().topk(rule.k, -1)
        return torch.zeros_like(pre).scatter(-1, best.indices, best.values)
    low = {BatchTopK: getattr(rule, "cut", None), JumpReLU: getattr(rule, "threshold", None)}.get(type(rule), 0.0)
    return pre * (pre > low)


def decoded(sae: SAE, f: Tensor) -> Tensor:
    return (f @ sae.W_dec + sae.b_dec) / sae.scale


def kept_of(tokens: Tensor) -> Tensor:
    """All but the first position: no id of `ids` is special."""
    kept = torch.ones_like(tokens, dtype=torch.bool)
    kept[:, 0] = False
    return kept


def by_hand(lm: LanguageModel, sae: SAE, tokens: Tensor, site: str = SITE, *, error: bool = True, change=None):
    """Logits and dense features of a splice written as one would without the package's."""
    held = []

    def hook(x: Tensor) -> Tensor:
        f = dense_features(sae, x)
        held.append(f.detach().requires_grad_())
        used = held[0] if change is None else change(held[0])
        recon = decoded(sae, used)
        left = (x - decoded(sae, held[0])).detach() if error else 0
        return torch.where(kept_of(tokens)[..., None], recon + left, x)

    with lm.hooks({site: hook}):
        return lm.logits(tokens), held[0]


# ---- the model as it is


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_with_its_error_term_an_autoencoder_changes_no_logit(kind, dtype):
    lm, tokens = tiny.llama(), ids()
    lm.model.to(dtype)
    clean = lm.logits(tokens)
    sae = autoencoder(kind)
    with lm.splice(sae, SITE, error=True) as spliced:
        torch.testing.assert_close(lm.logits(tokens), clean, rtol=0, atol=0)
        assert spliced.acts.batch_shape == (2, 9)
        assert int(spliced.acts.l0().sum()) > 10
    assert float(spliced.error.norm()) > 0.1 * float(lm.capture(tokens, [SITE])[Site.parse(SITE)].float().norm())


@pytest.mark.parametrize("kind", KINDS)
def test_without_it_the_model_goes_on_from_the_reconstruction(lm, kind):
    tokens, sae = ids(), autoencoder(kind)
    want, _ = by_hand(lm, sae, tokens, error=False)
    with lm.splice(sae, error=False) as spliced:
        found = lm.logits(tokens)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, lm.logits(tokens), atol=0.05)
    x = lm.capture(tokens, [SITE])[Site.parse(SITE)]
    torch.testing.assert_close(spliced.output[:, 1:], sae(x)[:, 1:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(spliced.output[:, 0], x[:, 0], rtol=0, atol=0)


def test_the_loss_is_the_one_that_evaluation_reports(lm):
    tokens = ids(4, 10).int()
    tokens[:, 4] = 1
    windows = Windows(tokens, torch.zeros_like(tokens), tokens < 2, {"corpus": "random"})
    acts = lm.capture(tokens, [SITE])[Site.parse(SITE)]
    norms = acts[:, 1:].norm(dim=-1).flatten().sort().values
    sae = autoencoder(max_norm={SITE: float(norms[-3])})
    figures = evaluate({"one": sae}, lm, windows)["one"]
    with torch.no_grad(), lm.splice(sae, error=False) as spliced:
        log = lm.logits(tokens).float().log_softmax(-1)
    losses = -log[:, :-1].gather(2, tokens[:, 1:, None].long()).squeeze(2)
    counted = spliced.kept[:, :-1]
    assert int((~spliced.kept).sum()) == 4 + 4 + 2 == figures.n_excluded
    assert float(losses[counted].mean()) == pytest.approx(figures.metrics["ce_loss_sae"], rel=1e-6)


# ---- features and their gradients


@pytest.mark.parametrize("kind", KINDS)
def test_features_and_their_gradients_are_those_of_a_dense_implementation(lm, kind):
    tokens, sae = ids(), autoencoder(kind)
    logits, f = by_hand(lm, sae, tokens)
    logits[1, -1, 7].backward()
    with lm.splice(sae) as spliced:
        lm.logits(tokens)[1, -1, 7].backward()
    acts = spliced.acts
    assert (acts.indices is None, acts.offsets is not None) == (kind == "relu_dense", kind in RAGGED)
    kept = kept_of(tokens)[..., None]
    torch.testing.assert_close(acts.dense(), f * kept, rtol=1e-4, atol=1e-5)
    found = replace(acts, values=torch.where(acts.active, acts.values.grad, 0.0)).dense()
    torch.testing.assert_close(found, f.grad * (acts.dense() != 0), rtol=1e-3, atol=1e-6)
    assert int((found != 0).sum()) > 20
    attribution = spliced.attribution
    torch.testing.assert_close(attribution.dense(), f.detach() * f.grad * kept, rtol=1e-3, atol=1e-6)
    assert attribution.batch_shape == (2, 9)


def test_a_dense_edit_gives_gradients_of_features_that_do_not_fire(lm):
    tokens, sae = ids(), autoencoder()
    logits, f = by_hand(lm, sae, tokens)
    logits[0, -1, 3].backward()
    with lm.splice(sae, edit=lambda codes: codes.dense()) as spliced:
        lm.logits(tokens)[0, -1, 3].backward()
    found = spliced.edited.values.grad.reshape(2, 9, F)
    torch.testing.assert_close(found[:, 1:], f.grad[:, 1:], rtol=1e-3, atol=1e-6)
    assert not found[:, 0].any()
    assert spliced.edited.batch_shape == (2, 9)


@pytest.mark.parametrize("error", [True, False])
@pytest.mark.parametrize("kind", ["topk", "relu", "jumprelu"])
def test_gradients_upstream_pass_through_the_autoencoder(lm, kind, error):
    tokens, sae = ids(), autoencoder(kind)
    grads = []
    for spliced in (True, False):
        start = torch.zeros(2, 9, D, requires_grad=True)

        def hook(x: Tensor) -> Tensor:
            recon = decoded(sae, dense_features(sae, x))
            return torch.where(kept_of(tokens)[..., None], recon + ((x - recon).detach() if error else 0), x)

        ways = lm.splice(sae, error=error) if spliced else lm.hooks({SITE: hook})
        with lm.hooks({"embed": lambda act, start=start: act + start}), ways:
            lm.logits(tokens)[0, -1, 3].backward()
        grads.append(start.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-6)
    assert float(grads[0].norm()) > 1e-3


@pytest.mark.parametrize("error", [True, False])
def test_gradients_past_the_autoencoder_are_those_behind_it(lm, error):
    """With the error term those of the unchanged model, as in attribution over many autoencoders at once."""
    tokens, sae = ids(), autoencoder()
    start = torch.zeros(2, 9, D, requires_grad=True)
    with lm.hooks({SITE: lambda act: act + start}), lm.splice(sae, error=error, gradient="past") as spliced:
        lm.logits(tokens)[0, -1, 3].backward()
    torch.testing.assert_close(start.grad, spliced.output.grad, rtol=1e-5, atol=1e-8)
    dense = (spliced.output.grad @ sae.W_dec.T / sae.scale).reshape(18, F)
    want = dense.gather(1, spliced.acts.indices)
    torch.testing.assert_close(spliced.acts.values.grad.reshape(2, 9, -1)[:, 1:], want.reshape(2, 9, -1)[:, 1:])
    if error:
        clean = torch.zeros(2, 9, D, requires_grad=True)
        with lm.hooks({SITE: lambda act: act + clean}):
            lm.logits(tokens)[0, -1, 3].backward()
        torch.testing.assert_close(start.grad, clean.grad, rtol=1e-4, atol=1e-7)


def test_weights_get_gradients_unless_they_are_frozen(lm):
    sae = autoencoder()
    for trained in (True, False):
        sae.requires_grad_(trained).zero_grad()
        with lm.splice(sae, error=False) as spliced:
            lm.logits(ids())[0, -1, 3].backward()
        assert (sae.W_dec.grad is not None) == trained
        assert float(spliced.acts.values.grad.norm()) > 0


def test_no_graph_is_kept_without_gradients(lm):
    with torch.no_grad(), lm.splice(autoencoder()) as spliced:
        lm.logits(ids())
    assert not spliced.acts.values.requires_grad
    assert not spliced.output.requires_grad


# ---- edits


@st.composite
def codes(draw) -> Codes:
    """Codes of 3 tokens over 6 latents in any layout, some stored values zero."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    dense = torch.rand(3, 6, generator=generator, dtype=torch.float64) + 0.1
    dense = dense * (torch.rand(3, 6, generator=generator) < draw(st.sampled_from([0.0, 0.4, 1.0])))
    layout = draw(st.sampled_from(["fixed", "ragged", "dense"]))
    if layout == "dense":
        return Codes(dense, None, 6, None, (3,))
    if layout == "fixed":
        best = dense.topk(6, 1)
        return Codes(best.values, best.indices, 6, None, (3,))
    stored = (dense != 0) | (torch.rand(3, 6, generator=generator) < 0.2)
    rows, latents = stored.nonzero(as_tuple=True)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), stored.sum(1).cumsum(0)])
    return Codes(dense[rows, latents], latents, 6, offsets, (3,))


EDITS = {
    "scale": (lambda c: edit.scale(c, [1, 4], 2.5), lambda d, at: torch.where(at, 2.5 * d, d)),
    "ablate": (lambda c: edit.ablate(c, [1, 4]), lambda d, at: torch.where(at, 0.0, d)),
    "put": (lambda c: edit.put(c, [1, 4], 3.0), lambda d, at: torch.where(at, 3.0, d)),
    "add": (lambda c: edit.add(c, [1, 4], 0.75), lambda d, at: torch.where(at, d + 0.75, d)),
    "put each": (
        lambda c: edit.put(c, torch.tensor([1, 4]), torch.tensor([1.0, 2.0, 3.0])),
        lambda d, at: torch.where(at, torch.tensor([[1.0], [2.0], [3.0]], dtype=d.dtype), d),
    ),
    "add each": (
        lambda c: edit.add(c, (1, 4), torch.tensor([1.0, 0.0, -3.0])),
        lambda d, at: torch.where(at, d + torch.tensor([[1.0], [0.0], [-3.0]], dtype=d.dtype), d),
    ),
}


@settings(max_examples=60, deadline=None)
@given(codes=codes(), name=st.sampled_from(list(EDITS)))
def test_edits_of_sparse_codes_are_those_of_dense_ones(codes, name):
    sparse, dense = EDITS[name]
    at = torch.zeros(6, dtype=torch.bool)
    at[[1, 4]] = True
    before = codes.dense().clone()
    found = sparse(codes)
    want = dense(before, at)
    torch.testing.assert_close(found.dense(), want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.l0(), (want != 0).sum(1))
    torch.testing.assert_close(codes.dense(), before, rtol=0, atol=0)
    assert (found.rows, found.leading) == (3, (3,))
    if found.indices is not None and found.offsets is None:
        assert (found.values.diff(dim=1) <= 0).all()


@pytest.mark.parametrize(
    "latents", [3, np.int64(3), torch.tensor(3), [3], (3, 3), torch.tensor([3]), {3}, np.array([3])]
)
def test_latents_may_be_given_as_any_integers(latents):
    codes = Codes(torch.ones(2, 1), torch.tensor([[3], [1]]), 5)
    assert edit.ablate(codes, latents).l0().tolist() == [0, 1]
    assert edit.add(codes, latents, 1.0).dense()[:, 3].tolist() == [2.0, 1.0]


def test_gradients_pass_through_edits():
    values = torch.tensor([[3.0, 2.0], [1.0, 0.0]], requires_grad=True)
    start = Codes(values, torch.tensor([[2, 0], [1, 3]]), 5)
    changed = edit.add(edit.scale(edit.put(start, 4, 9.0), 0, 3.0), [1, 2], 1.0)
    weights = torch.arange(10.0).reshape(2, 5)
    (changed.dense() * weights).sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([[2.0, 0.0], [6.0, 8.0]]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [True, False])
def test_features_can_be_set_where_they_do_not_fire(lm, kind, error):
    tokens, sae = ids(), autoencoder(kind)

    def change(f: Tensor) -> Tensor:
        f = f.clone()
        f[..., 7] = 4.0
        f[..., 20] = f[..., 20] + 1.5
        f[..., 3] = 0.0
        return f

    want, _ = by_hand(lm, sae, tokens, error=error, change=change)
    with lm.splice(sae, error=error) as spliced:
        plain = lm.logits(tokens)
        spliced.set(7, 4.0).add(20, 1.5).ablate(3)
        found = lm.logits(tokens)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-2)
    assert (spliced.edited.dense()[:, 1:, 7] == 4).all()
    assert (spliced.acts.dense()[:, 1:, 7] != 4).all()
    assert not spliced.edited.dense()[:, 0].any()


def test_an_edit_moves_the_activation_by_the_decoder_row(lm):
    tokens, sae = ids(), autoencoder()
    x = lm.capture(tokens, [SITE])[Site.parse(SITE)]
    with lm.splice(sae, edit=lambda codes: edit.add(codes, 11, 2.0)) as spliced:
        lm.logits(tokens)
    moved = torch.zeros_like(x)
    moved[:, 1:] = 2.0 * sae.W_dec[11].detach() / sae.scale
    torch.testing.assert_close(spliced.output - x, moved, rtol=1e-4, atol=1e-5)


def test_features_of_another_prompt_can_be_patched_in(lm):
    first, second, sae = ids(seed=1), ids(seed=2), autoencoder()
    with torch.no_grad(), lm.splice(sae) as spliced:
        lm.logits(first)
        other = spliced.acts.dense()[..., 7].clone()
        spliced.set(7, other)
        lm.logits(second)
        torch.testing.assert_close(spliced.edited.dense()[..., 7], other, rtol=0, atol=0)
        spliced.reset()
        torch.testing.assert_close(lm.logits(second), lm.logits(second), rtol=0, atol=0)
        assert spliced.edited is spliced.acts


def test_an_edit_that_writes_in_place_leaves_what_was_read(lm):
    def clear(codes: Codes) -> Codes:
        codes.values[:] = 0
        return codes

    for kind in ("topk", "relu_dense"):
        with torch.no_grad(), lm.splice(autoencoder(kind), edit=clear) as spliced:
            lm.logits(ids())
        assert not spliced.edited.dense().any()
        assert spliced.acts.dense().any()


# ---- which tokens


def test_left_out_tokens_keep_their_activation(lm):
    tokens = ids()
    tokens[0, 3], tokens[1, 5] = 0, 1
    x = lm.capture(tokens, [SITE])[Site.parse(SITE)]
    norms = x.norm(dim=-1)
    norms[:, 0] = norms[0, 3] = norms[1, 5] = 0
    row, column = divmod(int(norms.argmax()), 9)
    limit = float(norms.flatten().topk(2).values.mean())
    sae = autoencoder(max_norm={SITE: limit, "resid_post.2": 0.0})
    with torch.no_grad(), lm.splice(sae, error=False) as spliced:
        lm.logits(tokens)
        out = torch.zeros(2, 9, dtype=torch.bool)
        out[:, 0] = out[0, 3] = out[1, 5] = out[row, column] = True
        assert torch.equal(~spliced.kept, out)
        torch.testing.assert_close(spliced.output[out], x[out], rtol=0, atol=0)
        assert not torch.isclose(spliced.output[~out], x[~out]).all(-1).any()
        assert (spliced.acts.l0().reshape(2, 9) == 0)[out].all()
        assert not spliced.error[out].any()
    with torch.no_grad(), lm.splice(sae, error=False, exclude=False) as spliced:
        lm.logits(tokens)
        assert spliced.kept.all()
    keep = torch.zeros(2, 9, dtype=torch.bool)
    keep[0, 4] = keep[1, 0] = True
    with torch.no_grad(), lm.splice(sae, error=False, keep=keep) as spliced:
        lm.logits(tokens)
        assert torch.equal(spliced.kept, keep)


def test_without_a_stored_rule_nothing_is_left_out(lm):
    sae = autoencoder()
    sae.info = {}
    with torch.no_grad(), lm.splice(sae, SITE) as spliced:
        lm.logits(ids())
    assert spliced.kept.all()


def test_padding_is_left_out_and_positions_count_from_the_first_token(lm):
    tokens = ids(2, 7)
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    mask[1, 5:] = 0
    with torch.no_grad(), lm.splice(autoencoder()) as spliced:
        lm.model(input_ids=tokens, attention_mask=mask)
    want = mask.bool()
    want[0, 3] = want[1, 0] = False
    assert torch.equal(spliced.kept, want)
    with torch.no_grad(), lm.splice(autoencoder(), exclude=False) as spliced:
        lm.model(input_ids=tokens, attention_mask=mask)
    assert torch.equal(spliced.kept, mask.bool())


def test_embeddings_can_be_given(lm):
    tokens = ids()
    embeds = lm.model.get_input_embeddings()(tokens)
    with torch.no_grad(), lm.splice(autoencoder(), error=False) as spliced:
        want = lm.logits(tokens)
        torch.testing.assert_close(lm.model(inputs_embeds=embeds).logits, want, rtol=1e-5, atol=1e-5)
    assert torch.equal(spliced.kept, kept_of(tokens))
    assert spliced.tokens.ids is None
    assert "token 3" in spliced._repr_html_()


# ---- generating


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
@pytest.mark.parametrize("kind", ["topk", "batch_topk", "kron"])
def test_generation_with_a_cache_is_generation_without(make, kind):
    lm, tokens, sae = make(), ids(2, 5), autoencoder(kind)

    def steered(codes: Codes) -> Codes:
        return edit.add(codes, 7, 6.0)

    with torch.no_grad(), lm.splice(sae, error=False, edit=steered) as spliced:
        found = lm.model.generate(tokens, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=1)
        assert spliced.acts.batch_shape == (2, 1)
        assert spliced.tokens.positions.tolist() == [[9], [9]]
        assert spliced.kept.all()
        grown = tokens
        for _ in range(6):
            grown = torch.cat([grown, lm.logits(grown)[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(found, grown)
    plain = lm.model.generate(tokens, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=1)
    assert not torch.equal(found, plain)


def test_padded_prompts_generate_as_they_do_alone(lm):
    sae = autoencoder("topk")
    short, long = ids(1, 4, seed=3), ids(1, 7, seed=4)
    batch = torch.cat([torch.cat([torch.ones(1, 3, dtype=torch.int64), short], 1), long])
    mask = torch.ones_like(batch)
    mask[0, :3] = 0
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    with lm.splice(sae, error=False) as spliced:
        spliced.set(9, 5.0)
        together = lm.model.generate(batch, attention_mask=mask, **options)
        alone = [lm.model.generate(one, attention_mask=torch.ones_like(one), **options) for one in (short, long)]
    assert torch.equal(together[0, 7:], alone[0][0, 4:])
    assert torch.equal(together[1, 7:], alone[1][0, 7:])


def test_special_tokens_are_left_out_while_generating(lm):
    with torch.no_grad(), lm.splice(autoencoder()) as spliced:
        first = lm.model(input_ids=ids(1, 4), use_cache=True)
        lm.model(input_ids=torch.tensor([[1]]), past_key_values=first.past_key_values)
        assert not spliced.kept.any()
        lm.model(input_ids=torch.tensor([[5]]), past_key_values=first.past_key_values)
        assert spliced.kept.all()


# ---- several


def test_several_are_spliced_in_the_order_of_computation(lm):
    tokens = ids()
    early, late = autoencoder(site="resid_mid.0", seed=1), autoencoder("jumprelu", site="resid_post.1", seed=2)
    held = {}

    def hook(name: str, sae: SAE):
        def fn(x: Tensor) -> Tensor:
            held[name] = dense_features(sae, x) * kept_of(tokens)[..., None]
            return torch.where(kept_of(tokens)[..., None], decoded(sae, dense_features(sae, x)), x)

        return fn

    with torch.no_grad(), lm.hooks({"resid_mid.0": hook("early", early), "resid_post.1": hook("late", late)}):
        want = lm.logits(tokens)
    for given_ in ([late, early], {"resid_post.1": late, "blocks.0.hook_resid_mid": early}):
        with torch.no_grad(), lm.splice(given_, error=False) as spliced:
            torch.testing.assert_close(lm.logits(tokens), want, rtol=1e-4, atol=1e-4)
        assert list(map(str, spliced)) == ["resid_mid.0", "resid_post.1"]
        torch.testing.assert_close(spliced["resid_mid.0"].acts.dense(), held["early"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(spliced["resid_post.1"].acts.dense(), held["late"], rtol=1e-4, atol=1e-5)
    with torch.no_grad(), lm.splice(late, error=False), lm.splice(early, error=False):
        torch.testing.assert_close(lm.logits(tokens), want, rtol=1e-4, atol=1e-4)


def test_a_later_autoencoder_sees_an_earlier_edit_and_gradients_join_them(lm):
    tokens = ids()
    saes = [autoencoder(site="resid_post.0", seed=1), autoencoder(site="resid_post.1", seed=2)]
    with lm.splice(saes) as spliced:
        torch.testing.assert_close(lm.logits(tokens), lm.logits(tokens), rtol=0, atol=0)
        before = spliced["resid_post.1"].acts.dense().detach()
        spliced["resid_post.0"].set(5, 6.0)
        lm.logits(tokens)
        late = spliced["resid_post.1"].acts
        assert not torch.allclose(late.dense(), before, atol=1e-2)
        late.values.sum().backward()
    assert float(spliced["resid_post.0"].acts.values.grad.norm()) > 1e-3


def test_two_at_one_site_are_nested(lm):
    tokens = ids()
    first, second = autoencoder(seed=1), autoencoder(seed=2)
    x = lm.capture(tokens, [SITE])[Site.parse(SITE)]
    with torch.no_grad(), lm.splice(first, error=False), lm.splice(second, error=False) as inner:
        lm.logits(tokens)
        torch.testing.assert_close(inner.output[:, 1:], second(first(x))[:, 1:], rtol=1e-4, atol=1e-5)


# ---- transcoders


@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_reads_at_one_site_and_writes_at_another(lm, skip):
    tokens, sae = ids(), transcoder(skip)
    clean = lm.logits(tokens)
    x, y = (lm.capture(tokens, [site])[Site.parse(site)] for site in ("mlp_in.1", "mlp_out.1"))
    with lm.splice(sae) as spliced:
        torch.testing.assert_close(lm.logits(tokens), clean, rtol=0, atol=0)
        spliced.set(7, 3.0)
        lm.logits(tokens)
    rows = (3.0 - spliced.acts.dense()[..., 7:8]) * sae.W_dec[7] / sae.out_scale * kept_of(tokens)[..., None]
    torch.testing.assert_close(spliced.output - y, rows, rtol=1e-3, atol=1e-5)
    kept = kept_of(tokens)[..., None]
    with lm.splice(sae, error=False) as spliced:
        found = lm.logits(tokens)
        found[0, -1, 3].backward()
    with torch.no_grad(), lm.hooks({"mlp_out.1": lambda act: torch.where(kept, sae(x), act)}):
        torch.testing.assert_close(found, lm.logits(tokens), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(spliced.error, ((y - sae(x)) * kept).detach(), rtol=1e-4, atol=1e-5)
    assert (str(spliced.site), str(spliced.target)) == ("mlp_in.1", "mlp_out.1")
    assert float(spliced.acts.values.grad.norm()) > 0


@pytest.mark.parametrize("gradient", ["through", "past"])
def test_gradients_of_a_transcoder_pass_it_or_the_mlp(lm, gradient):
    tokens, sae = ids(), transcoder(skip=True)
    kept = kept_of(tokens)[..., None]
    grads = []
    for spliced in (True, False):
        start = torch.zeros(2, 9, D, requires_grad=True)
        held: list[Tensor] = []

        def hook(y: Tensor, held: list[Tensor] = held) -> Tensor:
            x = held[0]
            new = sae.decode(dense_features(sae, x), x)
            return torch.where(kept, new + (y - new).detach(), y) if gradient == "through" else y

        hooks = lm.hooks({"mlp_in.1": held.append, "mlp_out.1": hook})
        ways = lm.splice(sae, gradient=gradient) if spliced else hooks
        with lm.hooks({"resid_mid.1": lambda act, start=start: act + start}), ways:
            lm.logits(tokens)[0, -1, 3].backward()
        grads.append(start.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-6)


# ---- the rest


def test_everything_is_as_before_afterwards(lm):
    sae, clean = autoencoder().train(), lm.logits(ids())
    before = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.model.modules()]
    with suppress(ZeroDivisionError), lm.splice({SITE: sae}, error=False) as spliced:
        assert not sae.training
        lm.logits(ids())
        _ = 1 / 0
    assert sae.training
    assert before == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.model.modules()]
    torch.testing.assert_close(lm.logits(ids()), clean, rtol=0, atol=0)
    assert spliced[SITE].acts.batch_shape == (2, 9)


def test_reading_a_site_inside_a_splice_sees_what_it_changed(lm):
    sae = autoencoder()
    x = lm.capture(ids(), ["resid_pre.2"])[Site.parse("resid_pre.2")]
    with lm.splice(sae, error=False) as spliced:
        found = lm.capture(ids(), ["resid_pre.2"])[Site.parse("resid_pre.2")]
        torch.testing.assert_close(found, spliced.output, rtol=0, atol=0)
    assert not torch.allclose(found, x, atol=0.05)


def test_bad_input_is_said_in_one_line(lm):
    nowhere = autoencoder()
    nowhere.info = {}
    other = autoencoder()
    other.info = {"site": SITE, "exclusion": {"first_token": 1}}
    cases = [
        (lambda: lm.splice(nowhere), "does not say its site: give one"),
        (lambda: lm.splice(autoencoder(), "resid_post.9"), "has no site 'resid_post.9'"),
        (
            lambda: lm.splice(autoencoder(), "attn_z.1"),
            "width 32, attn_z.1 of tiny-llama has width 48",
        ),
        (lambda: lm.splice([]), "no autoencoder was given"),
        (lambda: lm.splice([autoencoder(), autoencoder()]), "two autoencoders read at resid_post.1"),
        (lambda: lm.splice([autoencoder()], site=SITE), "belong to one autoencoder"),
        (lambda: lm.splice(autoencoder(), gradient="around"), "give through or past"),
        (lambda: lm.splice(other), "expected the keys first, special, ratio, max_norm"),
    ]
    for call, said in cases:
        with pytest.raises(InputError) as caught:
            call()
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda lm, spliced: spliced.acts, "no forward pass has reached resid_post.1"),
        (lambda lm, spliced: (lm.logits(ids()), spliced.attribution), "no gradient has come back to resid_post.1"),
        (lambda lm, spliced: lm.model.model(input_ids=ids()), "a part of the model was run by itself"),
        (
            lambda lm, spliced: (lm.logits(ids()), lm.model.model(input_ids=ids())),
            "a part of the model was run by itself",
        ),
        (lambda lm, spliced: (spliced.edit(lambda codes: 3), lm.logits(ids())), "returned int: return Codes"),
        (lambda lm, spliced: (spliced.edit(lambda codes: codes.dense()[0]), lm.logits(ids())), "(2, 9, 64)"),
        (
            lambda lm, spliced: (spliced.set(64, 1.0), lm.logits(ids())),
            "latent 64 does not exist: give one from 0",
        ),
        (lambda lm, spliced: (spliced.set(3, torch.ones(4)), lm.logits(ids())), "amounts of shape (4,)"),
    ],
)
def test_bad_use_is_said_in_one_line(lm, use, said):
    with pytest.raises(InputError) as caught, lm.splice(autoencoder()) as spliced:
        use(lm, spliced)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mask_that_does_not_fit_is_refused(lm):
    keep = torch.ones(2, 4, dtype=torch.bool)
    with lm.splice(autoencoder(), keep=keep), pytest.raises(InputError, match="give booleans of that shape"):
        lm.logits(ids())


def test_a_site_without_a_splice_is_refused(lm):
    with lm.splice([autoencoder()]) as spliced, pytest.raises(InputError, match=r"at resid_post\.2, only at"):
        _ = spliced["resid_post.2"]
    assert len(spliced) == 1
