"""Autoencoders: gradients against dense autograd, selection against the dense oracle, folding, disk."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from monosem import kernels
from monosem.disk import read_sealed, sealed, sha256, write_json
from monosem.sae import ENCODERS, SAE, BatchTopK, DenseEncoder, JumpReLU, KronEncoder, ReLU, TopK, load, save
from monosem.sae import RULES as ALL_RULES
from monosem.sae.function import count_active
from monosem.sae.objective import Objective
from monosem.sae.penalty import L1, NoPenalty, TargetL0
from monosem.shapes import InputError
from monosem.shapes.codes import Codes

D, F, B = 12, 40, 25
RULES = {
    "topk": lambda: TopK(F, 5),
    "batch_topk": lambda: BatchTopK(F, 5),
    "jumprelu": lambda: JumpReLU(F, 0.4),
    "relu": lambda: ReLU(F),
}
MADE = {
    "dense": lambda: DenseEncoder(D, F),
    "kron": lambda: KronEncoder(D, F, heads=5, base=2, extension=4),
    "kron product": lambda: KronEncoder(D, F, heads=5, base=2, extension=4, gate="product"),
}
WITHOUT_THRESHOLDS = ("topk", "batch_topk")
PAIRS = [(name, rule) for name in MADE for rule in (RULES if name == "dense" else WITHOUT_THRESHOLDS)]
every_pair = pytest.mark.parametrize(("encoder", "rule"), PAIRS)


def make(rule: str, dtype: torch.dtype = torch.float64, encoder: str = "dense") -> tuple[SAE, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(B, D, generator=generator) * 3 + 1
    sae = SAE(MADE[encoder](), RULES[rule](), info={"site": "resid_post.1"})
    sae.initialise(x, generator)
    with torch.no_grad():
        if encoder != "dense":
            sae.encoder.weight.mul_(4)  # at the start codes are some tenths of a dense encoder's
        sae.encoder.bias.normal_(0, 0.1, generator=generator)
        if rule == "jumprelu":
            sae.rule.threshold.fill_(0.8).add_(torch.rand(F, generator=generator) * 0.2)
    return sae.to(dtype), x.to(dtype)


def dense_codes(sae: SAE, x: torch.Tensor) -> torch.Tensor:
    """The same function by dense autograd, the selection as a constant mask."""
    pre = functional.linear(x * sae.scale - sae.b_dec, sae.encoder.weight, sae.encoder.bias)
    acts = pre.relu()
    if isinstance(sae.rule, TopK):
        kept = torch.zeros_like(pre).scatter_(1, acts.topk(sae.rule.k).indices, 1.0)
    elif isinstance(sae.rule, BatchTopK):
        kept = torch.zeros(pre.numel(), dtype=pre.dtype)
        kept = kept.scatter_(0, acts.flatten().topk(sae.rule.k * len(x)).indices, 1.0).view_as(pre)
    elif isinstance(sae.rule, JumpReLU):
        kept = (pre > sae.rule.threshold).to(pre.dtype).detach()
    else:
        kept = torch.ones_like(pre)
    return acts * kept


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("rule", RULES)
def test_values_and_gradients_equal_dense_autograd(rule, backend):
    sae, x = make(rule)
    x.requires_grad_()
    sae.train()
    target = torch.randn(B, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    parameters = [x, sae.encoder.weight, sae.encoder.bias, sae.W_dec, sae.b_dec]
    expected = (dense_codes(sae, x) @ sae.W_dec + sae.b_dec) / sae.scale
    expected_grads = torch.autograd.grad((expected - target).square().sum(), parameters)
    with kernels.backend(backend):
        recon = sae(x)
        grads = torch.autograd.grad((recon - target).square().sum(), parameters)
    torch.testing.assert_close(recon, expected, rtol=1e-10, atol=1e-10)
    for found, wanted in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_the_dense_path_of_relu_and_its_sparse_path_agree(monkeypatch):
    sae, x = make("relu")
    assert sae.codes(x).indices is None, "about half of all latents are positive here"
    dense = torch.autograd.grad(sae(x).square().sum(), list(sae.parameters()))
    monkeypatch.setattr("monosem.sae.rule.DENSE_ABOVE", 1.0)
    assert sae.codes(x).indices is not None
    sparse = torch.autograd.grad(sae(x).square().sum(), list(sae.parameters()))
    for found, wanted in zip(sparse, dense, strict=True):
        torch.testing.assert_close(found, wanted)


def test_threshold_gradients_are_the_rectangle_estimator():
    """arXiv 2407.14435: −θ/ε·g through the value and −1/ε through L0, for |pre − θ| < ε/2."""
    sae, x = make("jumprelu")
    sae.train()
    pre = sae.pre_acts(x).detach()
    theta, epsilon = sae.rule.threshold, sae.rule.bandwidth
    window = ((pre - theta).abs() < epsilon / 2).double()
    assert 10 < window.sum() < window.numel() / 2
    upstream = torch.randn(B, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (found,) = torch.autograd.grad((sae(x) * upstream).sum(), theta)
    to_codes = (upstream / sae.scale) @ sae.W_dec.T
    expected = (-theta / epsilon * window * to_codes).sum(0)
    torch.testing.assert_close(found, expected.detach())
    (found,) = torch.autograd.grad(count_active(sae.codes(x), theta, epsilon), theta)
    torch.testing.assert_close(found, -window.sum(0) / epsilon / B)


def test_every_encoder_and_rule_is_in_these_tests():
    assert {type(made()) for made in MADE.values()} == set(ENCODERS.values())
    assert set(RULES) == set(ALL_RULES)


@every_pair
def test_codes_agree_with_the_dense_oracle(encoder, rule):
    sae, x = make(rule, torch.float32, encoder)
    sae.train()
    sae.codes(x)
    sae.eval()
    dense = sae.encode(x)
    pre = sae.pre_acts(x)
    active = dense != 0
    torch.testing.assert_close(dense[active], pre[active])
    if rule == "topk":
        torch.testing.assert_close(dense, torch.zeros_like(pre).scatter(1, *pre.relu().topk(5)[::-1]))
    limit = {"batch_topk": lambda: sae.rule.cut, "jumprelu": lambda: sae.rule.threshold, "relu": lambda: 0}
    if rule in limit:
        assert torch.equal(active, pre > limit[rule]())
    codes = sae.codes(x.reshape(5, 5, D))
    assert codes.dense().shape == codes.shape == (5, 5, F)
    assert torch.equal(codes.l0(), active.sum(1))
    rows, latents, values = codes.entries()
    assert torch.equal(torch.zeros(B, F).index_put((rows, latents), values), dense)
    torch.testing.assert_close(sae.decode(codes).reshape(B, D), sae.decode(dense))


def test_fixed_codes_are_sorted_and_can_be_cut():
    sae, x = make("topk")
    codes = sae.codes(x)
    assert (codes.values.diff(dim=1) <= 0).all()
    assert torch.equal(codes.at(2).values, sae.at(2).codes(x).values)
    assert torch.equal(codes.at(2).indices, sae.at(2).codes(x).indices)


@pytest.mark.parametrize("rule", RULES)
def test_second_derivatives_are_refused(rule):
    """Of the selection and of the decoder: their gradients are no graph."""
    sae, x = make(rule)
    sae.train()
    # Dense codes are multiplied by torch itself.
    weights = [sae.encoder.weight] if rule == "relu" else [sae.encoder.weight, sae.W_dec]
    for weight in weights:
        with pytest.raises(RuntimeError, match="differentiated once"):
            torch.autograd.grad(sae(x).square().sum(), weight, create_graph=True)


def test_counting_active_latents_cannot_be_differentiated_twice():
    sae, x = make("jumprelu")
    count = count_active(sae.train().codes(x), sae.rule.threshold, sae.rule.bandwidth)
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(count, sae.rule.threshold, create_graph=True)


def test_dense_of_repeated_and_stored_zero_entries():
    codes = Codes(torch.tensor([[2.0, 3.0, 0.0]]), torch.tensor([[1, 1, 0]]), 3)
    assert codes.dense().tolist() == [[0.0, 5.0, 0.0]]
    assert codes.l0().tolist() == [2]


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_auxiliary_loss_reaches_encoder_and_decoder_of_dead_latents_only(backend):
    sae, x = make("topk")
    sae.train()
    dead = torch.tensor([3, 7, 21, 30])
    xs = x * sae.scale
    objective = Objective(NoPenalty(), aux_coefficient=1.0, k_aux=2)
    with kernels.backend(backend):
        loss = objective(sae, xs, dead)
        loss.total.backward()
    with_aux = [weight.grad.clone() for weight in sae.parameters()]
    sae.zero_grad()
    with kernels.backend(backend):
        objective(sae, xs).total.backward()
    without = [weight.grad for weight in sae.parameters()]
    sae.zero_grad()

    pre = functional.linear(xs - sae.b_dec, sae.encoder.weight[dead], sae.encoder.bias[dead]).relu()
    kept = torch.zeros_like(pre).scatter_(1, pre.topk(2).indices, 1.0)
    residual = xs - (sae.codes(x).dense() @ sae.W_dec + sae.b_dec)
    aux = (residual.detach() - (pre * kept) @ sae.W_dec[dead]).square().mean()
    aux.backward()
    torch.testing.assert_close(loss.aux, aux.detach())
    for one, other, weight in zip(with_aux, without, sae.parameters(), strict=True):
        torch.testing.assert_close(one - other, torch.zeros_like(one) if weight.grad is None else weight.grad)
    alive = torch.ones(F, dtype=torch.bool)
    alive[dead] = False
    assert sae.encoder.weight.grad[dead].abs().sum() > 0
    assert sae.encoder.weight.grad[alive].abs().sum() == 0


def test_the_auxiliary_loss_is_nothing_while_no_latent_is_dead():
    sae, x = make("topk")
    loss = Objective(NoPenalty())(sae.train(), x * sae.scale, torch.empty(0, dtype=torch.int64))
    assert float(loss.aux) == 0


def test_l1_has_the_weight_of_a_loss_summed_over_dimensions():
    sae, x = make("relu")
    loss = Objective(L1(5.0), aux_coefficient=0.0)(sae, x * sae.scale)
    codes = sae.encode(x)
    error = (sae(x) - x) * sae.scale
    summed = error.square().sum(1).mean() + 5.0 * codes.sum(1).mean()
    torch.testing.assert_close(loss.total * D, summed)


def test_target_l0_pushes_thresholds_towards_the_target():
    sae, x = make("jumprelu")
    sae.train()
    codes = sae.codes(x)
    l0 = float(codes.l0().double().mean())
    for target, sign in [(l0 / 2, -1), (l0 * 2, 1)]:
        penalty = TargetL0(target).double()
        penalty.initialise(sae.rule.threshold, D)
        penalty.advance(codes.l0().double().mean())
        (grad,) = torch.autograd.grad(penalty(codes, sae.rule, D), sae.rule.threshold)
        assert (grad * sign >= 0).all(), "too many active latents raise thresholds, too few lower them"
        assert grad.abs().sum() > 0


def test_initial_scale_makes_the_mean_squared_norm_the_width():
    sae, x = make("topk")
    torch.testing.assert_close((x * sae.scale).square().sum(1).mean().item(), float(D), rtol=1e-5, atol=0)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(F, dtype=torch.float64))
    torch.testing.assert_close(sae.b_dec, x.mean(0) * sae.scale)


@pytest.mark.parametrize("units", ["scaled", "raw"])
@every_pair
def test_folding_changes_nothing_but_units(encoder, rule, units):
    sae, x = make(rule, encoder=encoder)
    sae.train()
    sae.codes(x * 1.01)  # gives batch_topk a threshold that no value of x is equal to
    sae.eval()
    folded = sae.fold(units)
    assert folded.scale == 1
    assert folded.space == ("scaled" if units == "scaled" else "raw")
    torch.testing.assert_close(folded(x), sae(x), rtol=1e-10, atol=1e-10)
    factor = 1 if units == "scaled" else sae.scale
    torch.testing.assert_close(folded.encode(x) * factor, sae.encode(x), rtol=1e-10, atol=1e-10)
    norm = 1 / sae.scale if units == "scaled" else 1.0
    torch.testing.assert_close(folded.W_dec.norm(dim=1), torch.full((F,), norm, dtype=torch.float64))


@every_pair
def test_save_and_load_give_back_every_bit(encoder, rule, tmp_path):
    sae, x = make(rule, torch.float32, encoder)
    sae.train()
    sae.codes(x)
    sae.eval()
    again = load(save(sae, tmp_path / "one"))
    assert not again.training
    assert (again.scale, again.info) == (sae.scale, sae.info)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in sae.state_dict().items())
    assert torch.equal(again(x), sae(x))


def altered(folder, change):
    """A change that someone sealed again: only its meaning is wrong."""
    config = read_sealed(folder / "config.json")
    change(config)
    write_json(folder / "config.json", sealed(config))


CHANGES = {
    "unknown configuration key 'colour'": lambda folder: altered(folder, lambda c: c.update(colour="red")),
    "unknown rule 'softmax'": lambda folder: altered(folder, lambda c: c["groups"][0]["rule"].update(name="softmax")),
    "does not take the keys": lambda folder: altered(folder, lambda c: c["groups"][0]["rule"].update(kk=3)),
    "k = 99 does not fit": lambda folder: altered(folder, lambda c: c["groups"][0]["rule"].update(k=99)),
    "expected 'monosem.sae' 1": lambda folder: altered(folder, lambda c: c.update(version=2)),
    "not a complete configuration": lambda folder: altered(folder, lambda c: c.pop("scale")),
    "describes": lambda folder: altered(folder, lambda c: c.update(d_in=13, d_out=13)),
    "truncated or altered": lambda folder: (folder / "weights.safetensors").write_bytes(
        (folder / "weights.safetensors").read_bytes()[:-3]
    ),
    "does not match its own checksum": lambda folder: (folder / "config.json").write_text(
        (folder / "config.json").read_text().replace('"scale": 0.', '"scale": 1.')
    ),
    "not readable JSON": lambda folder: (folder / "config.json").write_text("{"),
    "incomplete": lambda folder: (folder / "weights.safetensors").unlink(),
}


@pytest.mark.parametrize("message", CHANGES)
def test_an_altered_folder_is_refused_in_one_line(message, tmp_path):
    folder = save(make("topk", torch.float32)[0], tmp_path / "one")
    CHANGES[message](folder)
    with pytest.raises(InputError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_wrong_tensor_is_refused_even_with_a_right_checksum(tmp_path):
    folder = save(make("topk", torch.float32)[0], tmp_path / "one")
    tensors = load_file(folder / "weights.safetensors")
    tensors["extra"] = torch.zeros(1)
    save_file(tensors, folder / "weights.safetensors")
    altered(folder, lambda c: c.update(sha256=sha256(folder / "weights.safetensors")))
    with pytest.raises(InputError, match="extra"):
        load(folder)


def test_saving_replaces_an_autoencoder_and_nothing_else(tmp_path):
    sae, _ = make("topk", torch.float32)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds other files"):
        save(sae, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    save(sae, tmp_path / "new")
    sae.info["site"] = "resid_post.2"
    assert load(save(sae, tmp_path / "new")).info["site"] == "resid_post.2"


def test_a_single_token_keeps_its_shape():
    sae, x = make("topk")
    assert sae.encode(x[0]).shape == sae.pre_acts(x[0]).shape == (F,)
    assert sae(x[0]).shape == (D,)
    torch.testing.assert_close(sae(x[0]), sae(x)[0])


def test_pickles_are_refused_unopened(tmp_path):
    (tmp_path / "ae.pt").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(InputError, match="pickle"):
        load(tmp_path / "ae.pt")


def test_bad_shapes_are_said():
    sae, _ = make("topk")
    with pytest.raises(InputError, match=r"width 13 .* d_in 12"):
        sae.codes(torch.zeros(2, 13))
    with pytest.raises(InputError, match="k = 41 does not fit 40 latents"):
        TopK(F, 41)
    with pytest.raises(InputError, match="no threshold"):
        SAE(DenseEncoder(D, F), BatchTopK(F, 5)).eval().codes(torch.zeros(2, D))
