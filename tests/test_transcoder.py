"""Transcoders: from one site to another, with or without a linear skip connection (arXiv 2501.18823)."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import run_folder
import tiny
from monosem.evaluation import evaluate, feature_statistics, promoted
from monosem.evaluation.batch import Batch
from monosem.evaluation.per_k import squared_errors
from monosem.evaluation.replacement import replace_kept
from monosem.sae import SAE, BatchTopK, DenseEncoder, JumpReLU, KronEncoder, ReLU, TopK, cost, load, parameters, save
from monosem.shapes import InputError
from monosem.training import TrainConfig, loop, train
from monosem.training.interruption import Interrupted
from monosem.training.job import Job
from monosem.training.log import read
from monosem.training.recipe import REFUSED, make
from monosem.training.run import prepare, run_windows

D, E, F = 12, 20, 24
SMALL = TrainConfig(n_latents=F, k=4, batch=32, tokens=32 * 40, dead_after=32, base=2, extension=3, widths="6,12,24")
CPU = torch.device("cpu")
KINDS = (
    "topk",
    "batch_topk",
    "jumprelu",
    "relu",
    "hierarchical",
    "matryoshka",
    "batch_topk+matryoshka",
    "kron",
    "kron+hierarchical",
    "kron+batch_topk",
)
RULES = {
    "topk": lambda: TopK(F, 4),
    "batch_topk": lambda: BatchTopK(F, 4),
    "jumprelu": lambda: JumpReLU(F, 0.2),
    "relu": lambda: ReLU(F),
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("MONOSEM_PROGRESS", "off")


def batch(seed: int = 0, rows: int = 32, width: int = D) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def skipping(name: str = "topk", skip: bool = True) -> tuple[SAE, object]:
    """A transcoder of D to E whose skip connection is not zero."""
    config = replace(SMALL, site="mlp_in.1", target="mlp_out.1", skip=skip)
    sae, objective = make(name, config, batch(), 50 * batch(1, width=E))
    if sae.W_skip is not None:
        sae.W_skip.data.copy_(batch(2, D, E) / 10)
    return sae, objective


def with_rule(name: str) -> SAE:
    """A transcoder with a skip connection, a threshold above zero, and known bits everywhere."""
    sae = SAE(DenseEncoder(D, F), RULES[name](), d_out=E, skip=True, subtract_b_dec=False)
    sae.initialise(batch(), torch.Generator().manual_seed(0), 50 * batch(1, width=E))
    assert sae.W_skip is not None
    sae.W_skip.data.copy_(batch(2, D, E) / 10)
    sae.encoder.bias.data.copy_(torch.linspace(-0.2, 0.2, F))
    if isinstance(sae.rule, JumpReLU):
        sae.rule.threshold.data.fill_(0.5)
    if isinstance(sae.rule, BatchTopK):
        sae.rule.cut.fill_(0.6)
    return sae.eval()


def weights(saes: dict[str, SAE]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, sae in saes.items() for key, value in sae.state_dict().items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]


# The autoencoder -----------------------------------------------------------------------------------------------------


def test_both_spaces_start_with_a_scale_of_their_own():
    sae, _ = skipping()
    x, y = batch(), 50 * batch(1, width=E)
    assert (sae.scale * x).square().sum(1).mean().item() == pytest.approx(D, rel=1e-5)
    assert (sae.out_scale * y).square().sum(1).mean().item() == pytest.approx(E, rel=1e-5)
    torch.testing.assert_close(sae.b_dec.data, y.mean(0) * sae.out_scale)
    assert (sae.d_in, sae.d_out, sae.code_scale, sae.subtract_b_dec) == (D, E, sae.out_scale, False)
    fresh, _ = make("topk", replace(SMALL, site="mlp_in.1", target="mlp_out.1", skip=True), x, y)
    assert torch.equal(fresh.W_skip, torch.zeros(D, E))


def test_the_prediction_is_latents_and_skip_and_bias_in_raw_units():
    sae, _ = skipping()
    x = batch(3).reshape(4, 8, D)
    by_hand = (sae.encode(x) @ sae.W_dec + sae.scale * x @ sae.W_skip + sae.b_dec) / sae.out_scale
    torch.testing.assert_close(sae(x), by_hand)
    torch.testing.assert_close(sae.decode(sae.encode(x), x), by_hand)
    assert torch.equal(sae.decode(sae.codes(x), x), sae(x))
    torch.testing.assert_close(sae.skipped(x), sae.scale * x @ sae.W_skip / sae.out_scale)
    assert sae(x).shape == (4, 8, E)
    assert sae.skipped(x[0, 0]).shape == (E,)
    with pytest.raises(InputError, match=r"skip connection, which reads the input: use decode\(codes, x\)"):
        sae.decode(sae.codes(x))
    plain, _ = skipping(skip=False)
    assert plain.W_skip is None
    assert plain.skipped(x) is None
    assert torch.equal(plain.decode(plain.codes(x)), plain(x))


def test_a_cut_transcoder_shares_the_skip_connection():
    sae, _ = skipping()
    x = batch(3)
    cut = sae.at(2)
    assert cut.W_skip is sae.W_skip
    assert torch.equal(cut(x), sae.decode(sae.codes(x).at(2), x))
    assert cut.out_scale == sae.out_scale


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("units", ["scaled", "raw"])
def test_folding_keeps_the_function_and_the_stated_units(name, units):
    sae, x = with_rule(name), batch(5)
    folded = sae.fold(units)
    torch.testing.assert_close(folded(x), sae(x), rtol=1e-4, atol=1e-3)
    assert (folded.scale, folded.out_scale) == (1, 1)
    codes = sae.encode(x) if units == "scaled" else sae.encode(x) / sae.out_scale
    torch.testing.assert_close(folded.encode(x), codes, rtol=1e-4, atol=1e-5)
    assert folded.code_scale == (sae.out_scale if units == "scaled" else 1)
    norms = folded.W_dec.norm(dim=1)
    torch.testing.assert_close(norms, torch.full((F,), 1 / sae.out_scale if units == "scaled" else 1.0))
    assert sae.scale != 1, "the original stays as it is"


def test_a_transcoder_comes_back_from_disk_to_the_last_bit(tmp_path):
    sae = with_rule("jumprelu")
    sae.info = {"site": "mlp_in.1", "target": "mlp_out.1"}
    again = load(save(sae, tmp_path / "one"))
    assert_same(weights({"a": again}), weights({"a": sae}))
    assert (again.scale, again.out_scale, again.code_scale) == (sae.scale, sae.out_scale, sae.code_scale)
    assert torch.equal(again(batch(7)), sae(batch(7)))
    described = json.loads((tmp_path / "one" / "config.json").read_text())
    assert (described["skip"], described["out_scale"], described["d_out"]) == (True, sae.out_scale, E)
    folded = sae.fold("raw")
    again = load(save(folded, tmp_path / "folded"))
    assert torch.equal(again(batch(7)), folded(batch(7)))


def test_a_skip_connection_costs_its_weights():
    sae, plain = skipping()[0], skipping(skip=False)[0]
    assert cost(sae).total - cost(plain).total == D * E
    assert parameters(sae)["total"] - parameters(plain)["total"] == parameters(sae)["skip"] == D * E
    assert sum(weight.numel() for weight in sae.parameters()) == parameters(sae)["total"]


def test_every_budget_keeps_what_the_skip_connection_adds():
    sae, _ = skipping()
    x, y = batch(3), 50 * batch(4, width=E)
    errors = squared_errors(sae, Batch.of(sae, x, y))
    by_hand = [(y - sae.at(k)(x)).double().square().sum() for k in (1, 2, 3, 4)]
    torch.testing.assert_close(errors, torch.stack(by_hand), rtol=1e-4, atol=0)


# The loss ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_gradients_are_those_of_the_dense_formula(name):
    """In float64; the nested objectives by their definition, one prefix after the other."""
    sae, objective = skipping(name)
    sae, objective = sae.double().train(), objective.double()
    objective.aux_coefficient = 0.0
    x, y = batch(8).double() * sae.scale, batch(9, width=E).double()
    found = objective(sae, x, None, y)
    params = dict(sae.named_parameters())
    if name == "jumprelu":
        del params["rule.threshold"]
    grads = torch.autograd.grad(found.total, list(params.values()))
    expected = torch.autograd.grad(dense_loss(sae, objective, x, y, found.codes), list(params.values()))
    for key, grad, wanted in zip(params, grads, expected, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-8, atol=1e-11, msg=lambda text, key=key: f"{key}: {text}")
    assert grads[list(params).index("W_skip")].abs().max() > 1e-3


def dense_loss(sae: SAE, objective, x: Tensor, y: Tensor, codes) -> Tensor:
    """The loss without any sparse operation, for the latents that were selected."""
    active = torch.zeros(len(x), F).index_put_((codes.entries()[0], codes.entries()[1]), torch.ones(()))
    acts = sae.encoder.pre_acts(x, None) * active
    rest = y - x @ sae.W_skip - sae.b_dec
    how = objective.nesting.describe()
    if "J" in how:
        order = acts.argsort(dim=1, descending=True, stable=True)
        kept = [acts * (order.argsort(dim=1) < j) for j in how["J"]]
        shares = objective.nesting.weights
    elif "widths" in how:
        kept = [acts * (torch.arange(F) < width) for width in how["widths"]]
        shares = [1 / len(kept)] * len(kept)
    else:
        kept, shares = [acts], [1.0]
    fit = sum(share * (rest - part @ sae.W_dec).square().mean() for share, part in zip(shares, kept, strict=True))
    return fit + objective.penalty(codes, sae.rule, sae.d_out).detach() + l1_slope(objective, acts)


def l1_slope(objective, acts: Tensor) -> Tensor:
    coefficient = getattr(objective.penalty, "coefficient", 0.0)
    return coefficient * acts.sum() / (E * len(acts))


@pytest.mark.parametrize("name", KINDS)
def test_with_the_site_as_target_it_is_an_ordinary_autoencoder(name):
    """Five steps, bit for bit, through scales, losses, gradients, dead latents and the sums of the log."""
    config = replace(SMALL, subtract_b_dec=True, dead_after=1)
    x = batch()
    jobs = [
        Job("plain", *make(name, config, x), config, CPU),
        Job("target", *make(name, config, x, x.clone()), config, CPU),
    ]
    for step in range(1, 6):
        x = batch(step)
        for job, target in zip(jobs, (None, x.clone()), strict=True):
            job.step(x, 1e-3, 32 * step, (x - x.mean(0)).square().sum(), target)
            job.refresh_dead(32 * step)
    assert_same(jobs[1].state(), jobs[0].state())
    assert jobs[0].summary() == jobs[1].summary()


def test_the_log_explains_the_target():
    """The sums of a step give the explained variance that the prediction before it has."""
    sae, objective = skipping()
    config = replace(SMALL, site="mlp_in.1", target="mlp_out.1", skip=True, aux=0.0)
    job = Job("one", sae, objective, config, CPU)
    x, y = batch(3), 50 * batch(4, width=E)
    with torch.no_grad():
        expected = 1 - (y - sae(x)).square().sum() / (y - y.mean(0)).square().sum()
    job.step(x, 1e-3, 32, (y - y.mean(0)).square().sum(), y)
    assert job.summary()["explained_variance"] == pytest.approx(expected.item(), rel=1e-4)


def test_a_linear_map_is_learned_by_the_skip_connection_alone():
    """Beside one active latent of a token, which alone explains little; in two pieces a batch."""
    linear = batch(11, D, E)
    left = {}
    for skip in (True, False):
        config = replace(SMALL, k=1, skip=skip, site="mlp_in.1", target="mlp_out.1", tokens=32 * 160, accumulate=2)
        first = torch.randn(32, D, generator=torch.Generator().manual_seed(99))
        job = Job("one", *make("topk", config, first, first @ linear), config, CPU)
        generator = torch.Generator().manual_seed(5)
        for step in range(160):
            x = torch.randn(32, D, generator=generator)
            y = x @ linear
            job.step(x, 0.05 * min(1.0, (160 - step) / 80), 32 * (step + 1), (y - y.mean(0)).square().sum(), y)
        x = torch.randn(500, D, generator=generator)
        left[skip] = ((job.sae.eval()(x) - x @ linear).square().sum() / (x @ linear).square().sum()).item()
    assert left[True] < 0.005
    assert left[False] > 0.5


# Runs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    settings = run_folder.SETTINGS | {"site": "attn_z.1", "tokens": 1600, "distinct_tokens": 1200}
    return TrainConfig(**settings, **run_folder.inputs(tmp_path), target="attn_out", skip=True)


def test_a_run_trains_evaluates_and_replaces_the_target(config, tmp_path):
    """Heads together are 48 wide, what attention adds is 32 wide and linear in them."""
    saes = train(replace(config, sae=("topk", "hierarchical", "jumprelu")), tmp_path / "run")
    prepared = prepare(config)
    lm, windows = prepared.lm, run_windows(config, prepared.lm, "held_out")
    for name, sae in saes.items():
        assert (sae.d_in, sae.d_out) == (48, 32)
        assert (sae.info["site"], sae.info["target"]) == ("attn_z.1", "attn_out.1")
        again = load(tmp_path / "run" / "saes" / name)
        assert_same(weights({name: again}), weights({name: sae}))
        assert {"attn_z.1", "attn_out.1"} <= sae.info["exclusion"]["max_norm"].keys()
    found = evaluate(saes, lm, windows, batch=4)
    for name, one in found.items():
        assert one.provenance["site"] == "attn_z.1"
        assert one.provenance["target"] == "attn_out.1"
        by_hand = by_forward_passes(saes[name], lm, windows)
        for key, value in by_hand.items():
            assert one.metrics[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key
    assert found["topk"].metrics["l0"] == pytest.approx(4, abs=0.05)
    lines = read(tmp_path / "run" / "metrics.jsonl")
    assert [line for line in lines if line["sae"] == "topk"][-1]["explained_variance"] > 0.1
    statistics = feature_statistics({"topk": saes["topk"]}, lm, windows)["topk"]
    assert statistics.metadata["scale"] == saes["topk"].out_scale
    assert promoted(saes["topk"], lm, [0], 3).top_ids.shape == (1, 3)


@torch.no_grad()
def by_forward_passes(sae: SAE, lm, windows) -> dict[str, float]:
    """Explained variance and losses by hooks of our own, all windows at once."""
    from monosem.activations import Exclusion

    acts = lm.capture(windows.tokens, ["attn_z.1", "attn_out.1"])
    acts = {str(site): act for site, act in acts.items()}
    rule = Exclusion(**sae.info["exclusion"])
    keep = ~rule.mask(windows.special, {lm.site(site): act for site, act in acts.items()})
    x, y = acts["attn_z.1"][keep], acts["attn_out.1"][keep]
    predicted = sae(x)
    mean = y.mean(0)
    source = keep.clone()
    source[:, -1] = False

    def loss(new: Tensor | None) -> float:
        hooks = {} if new is None else {"attn_out.1": lambda act: replace_kept(act, keep, new)}
        with lm.hooks(hooks):
            log_p = lm.logits(windows.tokens)[:, :-1].float().log_softmax(-1)
        chosen = log_p.gather(2, windows.tokens[:, 1:, None].long())[..., 0]
        return -chosen[source[:, :-1]].mean().item()

    clean, zero = loss(None), loss(torch.zeros_like(y))
    ours = loss(predicted)
    return {
        "explained_variance": 1 - ((y - predicted).square().sum() / (y - mean).square().sum()).item(),
        "ce_loss_clean": clean,
        "ce_loss_zero": zero,
        "ce_loss_mean": loss(mean.expand_as(y)),
        "ce_loss_sae": ours,
        "ce_loss_score": (zero - ours) / (zero - clean),
        "frac_dead": 1 - (sae.encode(x) != 0).any(0).float().mean().item(),
    }


@pytest.mark.slow
def test_a_resumed_transcoder_equals_an_uninterrupted_one(config, tmp_path, monkeypatch):
    config = replace(config, sae=("topk", "kron+hierarchical"), base=4, extension=4, activations="live")
    expected = train(config, tmp_path / "whole")
    advance = loop.Loop._advance

    def interrupted(self, *arguments):
        advance(self, *arguments)
        if self.step == 23:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Loop, "_advance", interrupted)
    with pytest.raises(Interrupted):
        train(config, tmp_path / "parts")
    monkeypatch.setattr(loop.Loop, "_advance", advance)
    assert_same(weights(train(config, tmp_path / "parts")), weights(expected))


def test_a_target_that_is_the_site_gives_the_ordinary_run(config, tmp_path):
    config = replace(config, skip=False, tokens=640)
    ordinary = train(replace(config, target=None), tmp_path / "ordinary")
    same = train(replace(config, target="attn_z"), tmp_path / "same")
    assert_same(weights(same), weights(ordinary))
    assert "target" not in same["topk"].info
    assert same["topk"].info["exclusion"] == ordinary["topk"].info["exclusion"]


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"skip": True}, "skip connects a site with another: give the other by target"),
        ({"skip": True, "target": "resid_post.12"}, "skip connects a site with another"),
        ({"target": "mlp_out.13", "subtract_b_dec": True}, "subtract_b_dec takes the target's bias from the input"),
    ],
)
def test_settings_that_no_transcoder_has_are_refused_in_one_line(values, message):
    with pytest.raises(InputError, match=message) as caught:
        TrainConfig(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("resid_pre.1", r"target resid_pre\.1 is computed before attn_z\.1"),
        ("attn_out.0", r"target attn_out\.0 is computed before attn_z\.1"),
        ("attn_out.9", "attn_out.9"),
        ("nowhere", "nowhere"),
    ],
)
def test_a_target_that_comes_earlier_or_is_not_there_is_refused_in_one_line(config, tmp_path, target, message):
    with pytest.raises(InputError, match=message) as caught:
        train(replace(config, target=target), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "run.json").exists()


def test_principal_components_are_refused_and_left_out_of_the_controls(config, tmp_path):
    from monosem.training.recipe import with_controls

    with pytest.raises(InputError, match="'pca' explains the site it reads, and attn_out is another"):
        train(replace(config, sae=("pca",)), tmp_path / "run")
    assert "pca" not in with_controls(replace(config, controls=True)).sae
    assert ("kron", "pca") in REFUSED


def test_transcoders_are_evaluated_with_their_own_kind_alone(config):
    lm = tiny.llama()
    sae, _ = make("topk", replace(config, n_latents=F), batch(0, width=48), batch(1, width=32))
    sae.info = {"site": "attn_z.1", "target": "attn_out.1", "exclusion": {}}
    plain = SAE(DenseEncoder(48, F), TopK(F, 4), info={"site": "attn_z.1", "exclusion": {}})
    windows = run_windows(config, prepare(config).lm, "held_out")
    with pytest.raises(InputError, match=r"predicts attn_out\.1 and plain predicts attn_z\.1"):
        evaluate({"one": sae, "plain": plain}, lm, windows)
    wrong = SAE(DenseEncoder(48, F), TopK(F, 4), info=dict(sae.info))
    with pytest.raises(InputError, match=r"maps width 48 to 48, but attn_z\.1 of tiny-llama has width 48 and attn_out"):
        evaluate({"wrong": wrong}, lm, windows)


def test_kron_between_widths_has_rows_of_the_same_structure():
    sae, _ = skipping("kron")
    assert isinstance(sae.encoder, KronEncoder)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(F))


@pytest.mark.slow
def test_the_command_line_shows_the_target(config, tmp_path):
    wanted = {key: getattr(config, key) for key in ("model", "text", *run_folder.SETTINGS)}
    flags = run_folder.flags(wanted | {"tokens": 640, "target": "attn_out", "run": "run"})
    done = run_folder.monosem(tmp_path, "train", *flags, "--skip", "--json")
    assert done.returncode == 0, done.stderr
    inspected = run_folder.monosem(tmp_path, "inspect", "run/saes/topk")
    assert "target: attn_out.1" in inspected.stdout
    assert "skip: True" in inspected.stdout
    shown = run_folder.monosem(tmp_path, "evaluate", "run", "--windows", "8", "--loss-windows", "4")
    assert "attn_z.1 → attn_out.1" in shown.stdout, shown.stderr
    for command in (["features", "run", "--windows", "8"], ["report", "run", "--windows", "8", "--loss-windows", "4"]):
        done = run_folder.monosem(tmp_path, *command)
        assert done.returncode == 0, done.stderr
    assert "attn_out.1" in (tmp_path / "run" / "report.html").read_text()
