"""Steering: schedules, edits of a running model, generation, files and controls of equal norm."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import tiny
from flow_steer_suite import F, ids, lm, suite
from monosem.flow import Node
from monosem.flow.applied import steer
from monosem.flow.baseline import differences_in_means, mean_difference, random_direction, random_features
from monosem.flow.generation import generate, losses
from monosem.flow.sampling import Sampling, draw, nucleus
from monosem.flow.schedule import Schedule, Span
from monosem.flow.steering import Push, Steering
from monosem.flow.strategy import adding, chosen, rescaling
from monosem.sae import SAE, DenseEncoder, JumpReLU
from monosem.shapes import InputError, Site
from refusal import refused

pytestmark = pytest.mark.slow

RESID = Site("resid_post", 1)
NODES = [Node(RESID, 3), Node(RESID, 17), Node(Site("mlp_out", 1), 5), Node(Site("resid_post", 0), 9)]
SHARP = Sampling(new_tokens=8, temperature=0.8, top_p=0.9)


def prompts() -> list[torch.Tensor]:
    return [ids(1, 4, seed=3)[0], ids(1, 7, seed=4)[0]]


def logits(tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return lm().logits(tokens)


def firing(site: Site = RESID, count: int = 2, tokens: torch.Tensor | None = None) -> list[int]:
    """Latents that are active on some counted tokens, the most frequent first."""
    tokens = ids() if tokens is None else tokens
    with torch.no_grad():
        codes = suite()[site].encode(lm().capture(tokens, [site])[site][:, 1:].float())
    return (codes > 0).sum((0, 1)).argsort(descending=True)[:count].tolist()


# ---- schedules (arXiv 2502.03032, appendix B.2)


def test_schedules_have_the_published_values():
    falling, straight = Schedule("exponential", alpha=-0.05), Schedule("linear", end=1.0)
    span = Span(6, 18)
    assert [falling.at(layer, 8.0, span) for layer in (0, 12, 20)] == pytest.approx([8, 4.3905, 2.9430], abs=5e-5)
    assert [straight.at(layer, 8.0, span) for layer in (6, 12, 18)] == pytest.approx([8, 4.5, 1])
    assert straight.at(9, 8.0, Span(9, 9)) == 8.0
    assert Schedule().at(11, 8.0, span) == 8.0
    relative = Schedule("exponential", alpha=-0.05, relative=True)
    assert relative.at(18, 8.0, span) == pytest.approx(4.3905, abs=5e-5)


def test_a_rising_linear_schedule_is_said():
    assert "rises" in Schedule("linear", end=2.0).note(1.0)
    assert Schedule("linear", end=2.0).note(2.0) is None
    assert Schedule("exponential").note(0.1) is None
    assert "schedule 'cosine' is unknown: give constant, exponential, linear" in refused(Schedule, "cosine")


# ---- which latents, how strong


def test_layers_are_cumulative_or_single_and_each_latent_comes_once():
    at_one = [Node(Site("mlp_out", 1), 5), Node(RESID, 3), Node(RESID, 17)]
    assert chosen([*NODES, NODES[0]]) == [NODES[3], *at_one]
    assert chosen(NODES, "single", 1) == at_one
    assert chosen(NODES, "cumulative", 0) == [NODES[3]]
    assert chosen(NODES, "cumulative", 7) == chosen(NODES)
    with pytest.raises(InputError, match="no latent is at layer 2: they are at layers 0 to 1"):
        chosen(NODES, "single", 2)
    with pytest.raises(InputError, match="nothing is to be steered"):
        chosen([])
    with pytest.raises(InputError, match=f"resid_post.1/{F} does not exist"):
        rescaling(suite(), [Node(RESID, F)], 0.0)


def test_a_folded_strength_of_one_is_the_latent_at_its_threshold():
    sae = suite()[RESID]
    steering = adding(suite(), NODES[:2], 2.0)
    (push,) = steering.pushes.values()
    rows = sae.W_dec[push.latents] / sae.out_scale * sae.rule.threshold[push.latents, None]
    torch.testing.assert_close(push.vectors, rows, rtol=1e-5, atol=1e-7)
    assert push.strengths.tolist() == [2.0, 2.0]
    raw = adding(suite(), NODES[:2], 2, scale="raw").pushes[RESID].vectors
    torch.testing.assert_close(raw, sae.W_dec[push.latents] / sae.out_scale, rtol=1e-5, atol=1e-7)
    unit = adding(suite(), NODES[:2], 2.0, scale="unit").pushes[RESID].vectors
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(2))


def test_folding_needs_thresholds_and_takes_pseudo_ones():
    with pytest.raises(InputError, match="TopK autoencoders have no thresholds"):
        adding(suite("topk"), NODES, 1.0)
    given = {site: torch.full((F,), 0.5) for site in suite("topk")}
    steering = adding(suite("topk"), NODES, 1.0, pseudo=given)
    raw = adding(suite("topk"), NODES, 1.0, scale="raw")
    torch.testing.assert_close(steering.pushes[RESID].vectors, raw.pushes[RESID].vectors / 2)


def test_strengths_follow_the_schedule_over_the_span_of_all_latents():
    steering = adding(suite(), NODES, 4.0, schedule=Schedule("linear", end=1.0), layer=0)
    assert list(steering.pushes) == [Site("resid_post", 0)]
    assert steering.pushes[Site("resid_post", 0)].strengths.tolist() == [4.0]
    whole = adding(suite(), NODES, 4.0, schedule=Schedule("linear", end=1.0))
    assert {str(site): push.strengths.tolist() for site, push in whole.pushes.items()} == {
        "resid_post.0": [4.0],
        "mlp_out.1": [1.0],
        "resid_post.1": [1.0, 1.0],
    }


# ---- a running model


def idle() -> list[Steering]:
    return [
        Steering("add", {}),
        Steering("rescale", {}),
        adding(suite(), NODES, 0.0),
        rescaling(suite(), [Node(RESID, latent) for latent in firing(count=8)], 1.0),
    ]


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_strength_changes_no_bit(place, dtype):
    model, tokens, steering = tiny.llama(), ids(), idle()[place]
    model.model.to(dtype)
    clean = model.logits(tokens)
    with steer(model, steering, suite()):
        assert torch.equal(model.logits(tokens), clean)
    plain = generate(model, prompts(), SHARP, samples=2)
    steered = generate(model, prompts(), SHARP, samples=2, steering=steering, suite=suite())
    assert [one.ids for one in steered.texts] == [one.ids for one in plain.texts]
    assert steered.norms == {}


def test_adding_adds_the_sum_of_directions_to_every_token():
    steering = adding(suite(), NODES, 3.0)
    added = {site: (push.strengths[:, None] * push.vectors).sum(0) for site, push in steering.pushes.items()}
    with lm().hooks({site: lambda x, one=one: x + one for site, one in added.items()}):
        want = logits(ids())
    with steer(lm(), steering) as applied:
        found = logits(ids())
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, logits(ids()), atol=0.05)
    for site, one in added.items():
        assert applied.norms[site].added == pytest.approx(float(one.norm()), rel=1e-5)
        assert steering.norms()[site] == pytest.approx(float(one.norm()), rel=1e-5)


@pytest.mark.parametrize("r", [0.0, -2.0, 0.5])
def test_rescaling_scales_the_part_of_active_latents(r):
    """The features of one site together, from one reading of it; the first position is left out, as in training."""
    latents, sae = firing(count=6), suite()[RESID]

    def hook(x: torch.Tensor) -> torch.Tensor:
        part = sae.encode(x)[..., latents] @ sae.W_dec[latents] / sae.out_scale
        part[:, 0] = 0
        assert float(part.norm()) > 0.1
        return x + (r - 1) * part

    with torch.no_grad(), lm().hooks({RESID: hook}):
        want = lm().logits(ids())
    with steer(lm(), rescaling(suite(), [Node(RESID, one) for one in latents], r), suite()):
        found = logits(ids())
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, logits(ids()), atol=0.05)


def test_removing_is_what_a_splice_without_the_latents_does():
    latents = firing(count=4)
    with torch.no_grad(), lm().splice(suite()[RESID]) as spliced:
        spliced.ablate(latents)
        want = lm().logits(ids())
    with steer(lm(), rescaling(suite(), [Node(RESID, one) for one in latents], 0.0), suite()):
        torch.testing.assert_close(logits(ids()), want, rtol=1e-4, atol=1e-4)


def test_with_orthonormal_rows_a_pre_activation_is_scaled_and_no_other_changes():
    sae = SAE(DenseEncoder(32, 32), JumpReLU(32), subtract_b_dec=False, info={"site": str(RESID)})
    rows = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))[0]
    with torch.no_grad():
        sae.encoder.weight.copy_(rows)
        sae.W_dec.copy_(rows)
        sae.rule.threshold.fill_(0.01)
    own = type(suite())({RESID: sae.eval()})
    before = sae.pre_acts(lm().capture(ids(), [RESID])[RESID])
    latent = int(((before > 0.01).float().mean((0, 1)) - 0.5).abs().argmin())
    with steer(lm(), rescaling(own, [Node(RESID, latent)], -3.0), own):
        after = sae.pre_acts(lm().capture(ids(), [RESID])[RESID])
    active = before[..., latent] > 0.01
    assert 0 < int(active.sum()) < active.numel()
    want = before.clone()
    want[..., latent] = torch.where(active, -3.0 * before[..., latent], before[..., latent])
    torch.testing.assert_close(after, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("scope", "places"), [("all", range(11)), ("prompt", range(7)), ("last", [6]), ("generated", range(7, 11))]
)
def test_scopes_mean_the_same_tokens_with_a_cache_and_without(scope, places):
    """Texts of 11 tokens of which 7 are the prompt: in one pass, and token by token."""
    tokens = ids(2, 11)
    push = Push(torch.randn(1, 32), torch.tensor([2.0]), torch.tensor([-1]))
    steering = Steering("add", {RESID: push}, scope)
    wanted = torch.zeros(11, 1)
    wanted[list(places)] = 1
    with lm().hooks({RESID: lambda x: x + wanted * push.delta(push.strengths)}):
        want = logits(tokens)
    with steer(lm(), steering, prompt=torch.tensor([7, 7])) as applied:
        found = logits(tokens)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    assert applied.norms[RESID].added == pytest.approx(2 * float(push.vectors.norm()), rel=1e-5)
    with torch.no_grad(), steer(lm(), steering):
        out = lm().model(input_ids=tokens[:, :7], use_cache=True)
        steps = [out.logits]
        for place in range(7, 11):
            out = lm().model(input_ids=tokens[:, place : place + 1], past_key_values=out.past_key_values)
            steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, 1), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
@pytest.mark.parametrize("scope", ["all", "generated", "prompt", "last"])
def test_padded_prompts_are_continued_as_they_are_alone(make, scope):
    model = make()
    push = Push(3 * torch.randn(1, 32, generator=torch.Generator().manual_seed(2)), torch.ones(1), torch.tensor([-1]))
    steering = Steering("add", {RESID: push}, scope)
    together = generate(model, prompts(), SHARP, samples=2, steering=steering)
    alone = generate(model, prompts(), SHARP, samples=2, steering=steering, batch=1)
    assert [one.ids for one in together.texts] == [one.ids for one in alone.texts]
    assert [(one.prompt, one.sample) for one in together.texts] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    plain = generate(model, prompts(), SHARP, samples=2)
    assert [one.ids for one in plain.texts] != [one.ids for one in together.texts]


def test_rescaling_while_generating_is_rescaling_without_a_cache():
    latents = firing(count=12)
    steering = rescaling(suite(), [Node(RESID, one) for one in latents], -4.0)
    greedy = Sampling(new_tokens=6, temperature=0.0)
    found = generate(lm(), [ids()[0], ids()[1]], greedy, steering=steering, suite=suite())
    for row, one in zip(ids(), found.texts):
        grown = row[None]
        for _ in one.ids:
            with steer(lm(), steering, suite()):
                grown = torch.cat([grown, logits(grown)[:, -1].argmax(-1, keepdim=True)], 1)
        assert grown[0, 7:].tolist() == one.ids
    plain = generate(lm(), [ids()[0], ids()[1]], greedy)
    assert [one.ids for one in plain.texts] != [one.ids for one in found.texts]


def test_clean_readings_come_from_the_same_tokens_without_steering():
    """An earlier edit changes what a later site reads; the clean reading does not see it."""
    early, late = Site("resid_post", 0), Site("resid_post", 2)
    tokens = ids()
    nodes = [Node(site, one) for site in (early, late) for one in firing(site, 6)]
    steering, sae = rescaling(suite(), nodes, -5.0), suite()[late]
    clean = {site: suite()[site].encode(act) for site, act in lm().capture(tokens, [early, late]).items()}

    def hook(site: Site):
        push, own = steering.pushes[site], suite()[site]
        codes = clean[site][..., push.latents].clone()
        codes[:, 0] = 0
        return lambda x: x - 6.0 * codes @ own.W_dec[push.latents] / own.out_scale

    with torch.no_grad(), lm().hooks({site: hook(site) for site in (early, late)}):
        want = lm().logits(tokens)
    with steer(lm(), steering, suite(), reading="clean"):
        both = logits(torch.cat([tokens, tokens]))
    torch.testing.assert_close(both[:2], logits(tokens), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(both[2:], want, rtol=1e-4, atol=1e-4)
    with steer(lm(), steering, suite()):
        assert not torch.allclose(logits(tokens), want, atol=0.05)
    with steer(lm(), steering, suite(), reading="clean"), pytest.raises(InputError, match="give every text twice"):
        logits(tokens)
    texts = generate(lm(), list(tokens), SHARP, steering=steering, suite=suite(), reading="clean").texts
    grown = [torch.cat([row, torch.tensor(one.ids[:-1], dtype=torch.int64)]) for row, one in zip(tokens, texts)]
    for text, one in zip(grown, texts):
        with steer(lm(), steering, suite(), reading="clean"):
            last = logits(text.expand(2, -1))[1, -1:]
        generator = SHARP.generator(one.prompt, one.sample)
        for _ in one.ids[:-1]:
            torch.rand(last.shape[1], generator=generator)
        assert int(draw(last, SHARP, [generator])) == one.ids[-1]
    assert sae is suite()[late]


def test_what_does_not_fit_is_refused():
    steering = rescaling(suite(), NODES, 0.0)
    with (
        pytest.raises(InputError, match=r"rescaling at resid_post.0 reads activations: give the suite"),
        steer(lm(), steering),
    ):
        pass
    with (
        pytest.raises(InputError, match=r"the autoencoder at resid_post.0 is another one"),
        steer(lm(), steering, suite("topk")),
    ):
        pass
    wide = Steering("add", {RESID: Push(torch.ones(1, 8), torch.ones(1), torch.tensor([-1]))})
    with pytest.raises(InputError, match="have width 8, tiny-llama has 32 there"), steer(lm(), wide):
        pass
    assert "mode = 'push': give add, rescale" in refused(Steering, "push", {})
    assert "tokens = 'some': give all, generated, prompt, last" in refused(Steering, "add", {}, "some")
    with pytest.raises(InputError, match="a prompt is empty"):
        generate(lm(), [torch.empty(0, dtype=torch.int64)], SHARP)
    with pytest.raises(InputError, match="tiny-llama reads at most 128"):
        generate(lm(), prompts(), Sampling(new_tokens=125))


# ---- drawing


def test_the_nucleus_is_the_fewest_likeliest_tokens():
    p = torch.tensor([[0.1, 0.5, 0.15, 0.25], [0.25, 0.25, 0.25, 0.25], [0.9, 0.05, 0.03, 0.02]])
    assert nucleus(p, 0.7).tolist() == [
        [False, True, False, True],
        [True, True, True, False],
        [True, False, False, False],
    ]
    assert nucleus(p, 1.0).all()


def test_draws_follow_the_tempered_nucleus():
    logits_ = torch.tensor([0.0, 1.0, 2.0, 1.5, -3.0]).expand(4000, -1)
    sampling = Sampling(temperature=1.27, top_p=0.75)
    drawn = draw(logits_, sampling, [sampling.generator(0, sample) for sample in range(4000)])
    p = (logits_[0] / 1.27).softmax(0)
    kept = [2, 3, 1]
    assert float(p[[2, 3]].sum()) < 0.75 < float(p[kept].sum())
    want = torch.zeros(5)
    want[kept] = p[kept] / p[kept].sum()
    shares = torch.bincount(drawn, minlength=5) / 4000
    torch.testing.assert_close(shares, want, rtol=0, atol=0.025)
    assert draw(logits_[:2], Sampling(temperature=0.0), []).tolist() == [2, 2]


def test_a_text_is_drawn_with_noise_of_its_own():
    sampling = Sampling(seed=5)
    noise = {(p, s): torch.rand(4, generator=sampling.generator(p, s)) for p in range(2) for s in range(2)}
    assert len({tuple(row.tolist()) for row in noise.values()}) == 4
    assert torch.equal(noise[1, 0], torch.rand(4, generator=sampling.generator(1, 0)))
    assert not torch.equal(noise[1, 0], torch.rand(4, generator=Sampling(seed=6).generator(1, 0)))


@pytest.mark.parametrize(("name", "value"), [("temperature", -1.0), ("top_p", 0.0), ("new_tokens", 0)])
def test_sampling_outside_its_range_is_refused(name, value):
    with pytest.raises(InputError, match="give"):
        Sampling(**{name: value})


def test_losses_are_those_of_the_plain_model():
    texts = [[5, 9, 100], [], [7]]
    given = [prompts()[0], prompts()[1], prompts()[1]]
    found = losses(lm(), given, texts)
    for prompt, text, loss in zip(given, texts, found):
        whole = torch.cat([prompt, torch.tensor(text, dtype=torch.int64)])[None]
        log = logits(whole)[0].log_softmax(-1)
        want = [-float(log[len(prompt) - 1 + place, token]) for place, token in enumerate(text)]
        assert loss.tolist() == pytest.approx(want, rel=1e-4)


def test_a_text_ends_where_the_model_ends_it(monkeypatch):
    plain = generate(lm(), prompts(), SHARP, samples=2).texts
    end = plain[0].ids[2]
    monkeypatch.setattr(lm().model.generation_config, "eos_token_id", [end, 1])
    found = generate(lm(), prompts(), SHARP, samples=2).texts
    assert (found[0].ids, found[0].ended) == (plain[0].ids[: plain[0].ids.index(end)], True)
    for before, after in zip(plain, found):
        stop = before.ids.index(end) if end in before.ids else None
        assert (after.ids, after.ended) == (before.ids[:stop], before.ended or stop is not None)


def test_nothing_is_steered_after_the_end(monkeypatch):
    """One text ends at its first token and the other goes on: only the other's tokens are counted."""
    first = generate(lm(), prompts(), SHARP).texts
    end = first[0].ids[0]
    assert end in first[1].ids[1:]
    going_on = first[1].ids.index(end)
    monkeypatch.setattr(lm().model.generation_config, "eos_token_id", end)
    steering = Steering("add", {RESID: Push(torch.full((1, 32), 1e-7), torch.ones(1), torch.tensor([-1]))}, "generated")
    counted = []
    monkeypatch.setattr("monosem.flow.applied.Applied.note", lambda self, site, delta, x: counted.append(len(delta)))
    generate(lm(), prompts(), SHARP, steering=steering)
    assert counted == [1] * going_on
    counted.clear()
    generate(lm(), prompts(), SHARP, steering=replace(steering, tokens="all"))
    assert counted[0] == 4 + 7  # padding of the shorter prompt is not steered either


# ---- controls of equal norm


@pytest.mark.parametrize("mode", ["add", "rescale"])
def test_controls_have_the_norm_of_the_steering_at_every_token(mode):
    nodes = [Node(site, one) for site in (RESID, Site("mlp_out", 1)) for one in firing(site, 5)]
    steering = adding(suite(), nodes, 2.0) if mode == "add" else rescaling(suite(), nodes, -1.0)
    towards = {site: torch.randn(32, generator=torch.Generator().manual_seed(1)) for site in steering.pushes}
    controls = [
        random_direction(steering, 3),
        random_features(steering, suite(), 3),
        mean_difference(steering, towards),
    ]
    coefficients = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) * (1 if mode == "add" else -2)
    for control in controls:
        for site, push in control.pushes.items():
            same, own = push.delta(coefficients), steering.pushes[site].delta(coefficients)
            torch.testing.assert_close(same.norm(dim=1), own.norm(dim=1), rtol=1e-4, atol=1e-6)
            assert float((same - own).norm()) > 0.3 * float(own.norm())
    along = controls[2].pushes[RESID].delta(coefficients) @ towards[RESID]
    assert (along > 0).all() if mode == "add" else (along < 0).all()
    with steer(lm(), steering, suite()) as first:
        logits(ids())
    with steer(lm(), controls[0], suite()) as second:
        logits(ids())
    early = Site("mlp_out", 1)
    assert second.norms[early].added == pytest.approx(first.norms[early].added, rel=1e-4)


def test_random_features_are_others_alive_and_seeded():
    steering = adding(suite(), NODES[:2], 1.0)
    alive = torch.zeros(F, dtype=torch.bool)
    alive[[3, 17, 20, 30]] = True
    control = random_features(steering, suite(), 0, {RESID: alive})
    assert sorted(control.info["features"]["resid_post.1"]) == [20, 30]
    assert control.info["baseline"] == "features"
    other = [random_features(steering, suite(), seed).info["features"]["resid_post.1"] for seed in (0, 0, 1)]
    assert other[0] == other[1] != other[2]
    assert not {3, 17} & set(other[0])
    alive[30] = False
    with pytest.raises(InputError, match="has 1 other features, 2 are needed"):
        random_features(steering, suite(), 0, {RESID: alive})


def test_the_difference_in_means_leaves_out_the_first_token():
    theme, contrast = [ids(1, 6, 1)[0], ids(1, 9, 2)[0]], [ids(1, 5, 3)[0]]
    (found,) = differences_in_means(lm(), [RESID], theme, contrast).values()
    acts = [lm().capture(text[None], [RESID])[RESID][0, 1:] for text in [*theme, *contrast]]
    torch.testing.assert_close(found, torch.cat(acts[:2]).mean(0) - acts[2].mean(0), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"no difference in means at mlp_out.1"):
        mean_difference(adding(suite(), NODES, 1.0), {RESID: found, Site("resid_post", 0): found})


def test_scaled_steering_keeps_what_changes_nothing():
    steering = adding(suite(), NODES, 2.0)
    half = steering.scaled(0.5)
    assert half.norms() == {site: pytest.approx(norm / 2) for site, norm in steering.norms().items()}
    scaled = rescaling(suite(), NODES[:1], -3.0).scaled(0.25)
    assert scaled.pushes[RESID].strengths.tolist() == [0.0]
    assert rescaling(suite(), NODES, 1.0).scaled(7.0).effective == {}


# ---- files


def test_a_file_gives_the_steering_back(tmp_path):
    steering = random_direction(adding(suite(), NODES, 2.0, tokens="prompt"))
    again = Steering.load(steering.save(tmp_path / "one"))
    assert (again.mode, again.tokens, again.info) == ("add", "prompt", steering.info)
    assert again.digest() == steering.digest() != adding(suite(), NODES, 2.0).digest()
    with steer(lm(), steering):
        want = logits(ids())
    with steer(lm(), again):
        assert torch.equal(logits(ids()), want)
    assert not torch.allclose(want, logits(ids()), atol=0.05)
    removing = Steering.load(rescaling(suite(), NODES, 0.5).save(tmp_path / "one"))
    assert removing.mode == "rescale"
    with steer(lm(), removing, suite()):
        logits(ids())


def test_damaged_files_are_refused(tmp_path):
    folder = adding(suite(), NODES, 2.0).save(tmp_path / "one")
    weights = folder / "vectors.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InputError, match="does not match its checksum"):
        Steering.load(folder)
    described = json.loads((folder / "steering.json").read_text())
    (folder / "steering.json").write_text(json.dumps(described | {"mode": "rescale"}))
    with pytest.raises(InputError, match="truncated or altered"):
        Steering.load(folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        adding(suite(), NODES, 2.0).save(tmp_path / "full")
