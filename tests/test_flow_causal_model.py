"""Deactivation in running models: against whole passes by hand, and what must hold of any result."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import flow_causal_suite as made
import tiny
from monosem.flow import (
    Cosine,
    Deactivation,
    Design,
    Permutation,
    RandomOfTop,
    RotatedCosine,
    Suite,
    deactivate,
    deactivations,
)
from monosem.flow.entering import Entering
from monosem.flow.removal import Part, Removal, changes
from monosem.flow.rerun import Rerun, clean_pass
from monosem.shapes import Site
from refusal import refused

pytestmark = pytest.mark.slow

R0, R1, R2 = (Site("resid_post", layer) for layer in range(3))
M1, A1 = Site("mlp_out", 1), Site("attn_out", 1)
TEXT = made.windows()
FULL = Design(r=(1.0, 0.0), tokens=2, features=6, losses=2, rows=8)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def lm(request):
    return {"llama": tiny.llama, "gpt2": tiny.gpt2}[request.param]()


@pytest.fixture(scope="module")
def suite(lm):
    return made.suite(lm)


@pytest.fixture(scope="module")
def found(lm, suite):
    matchers = [Cosine(), Cosine(5), Permutation(), RandomOfTop()]
    return deactivate(suite, lm, TEXT, matchers, [1, 2], FULL)


def by_hand(lm, edits, sites, tokens, position):
    """A whole pass over the window in which one token is changed."""
    seen = {}

    def hook(site):
        def fn(act):
            act = act.clone()
            if site in edits:
                act[:, position] += edits[site]
            seen[site] = act
            return act

        return fn

    with torch.no_grad(), lm.hooks({site: hook(site) for site in {*sites, *edits}}):
        logits = lm.logits(tokens[None])
    return {site: seen[site][0, position] for site in sites}, logits[0]


# ---- runs of one token


@pytest.mark.parametrize("entered", [False, True])
def test_a_token_run_again_is_what_a_whole_pass_gives(lm, entered):
    tokens, position = TEXT.tokens[0].long(), 7
    clean = clean_pass(lm, tokens, [R0, A1, M1, R1])
    edits = {
        site: torch.randn(4, made.D, generator=torch.Generator().manual_seed(i)) for i, site in enumerate([R0, A1, M1])
    }
    run = Rerun(lm, clean, position, 4)
    start = Entering(1, clean.acts[R0][position].expand(4, 1, -1)) if entered else None
    acts = run.activations([R1, A1], edits, start)
    losses = run.losses(edits, 1 if entered else 0)
    for row in range(4):
        want, logits = by_hand(lm, {site: edit[row] for site, edit in edits.items()}, [R1, A1], tokens, position)
        for site in (R1, A1):
            torch.testing.assert_close(acts[site][row], want[site], rtol=1e-4, atol=1e-4)
        loss = torch.nn.functional.cross_entropy(logits[position:-1], tokens[position + 1 :])
        assert float(losses[row]) == pytest.approx(float(loss), abs=1e-4)
    assert float((acts[R1] - clean.acts[R1][position]).norm()) > 1


def test_everything_is_as_before_after_a_run(lm):
    tokens = TEXT.tokens[:1].long()
    before = lm.logits(tokens)
    clean = clean_pass(lm, tokens[0], [R0, R1])
    run = Rerun(lm, clean, 5, 2)
    first = run.activations([R1], None, Entering(1, clean.acts[R0][5].expand(2, 1, -1)))[R1]
    run.losses()
    assert torch.equal(run.activations([R1], None, Entering(1, clean.acts[R0][5].expand(2, 1, -1)))[R1], first)
    assert torch.equal(lm.logits(tokens), before)


def test_rows_start_from_the_same_clean_state(lm):
    clean = clean_pass(lm, TEXT.tokens[0], [R1, R2])
    acts = Rerun(lm, clean, 9, 3).activations([R1, R2])
    for site in (R1, R2):
        torch.testing.assert_close(acts[site], clean.acts[site][9].expand(3, -1), rtol=1e-4, atol=1e-5)


# ---- removals


def test_removing_equals_zeroing_the_codes(lm, suite):
    """r = 0 is what a splice with its error term gives when the latents are ablated at that token alone."""
    position, tokens = 7, TEXT.tokens[0].long()
    clean = clean_pass(lm, tokens, [R0, R1])
    values = suite[R0].encode(clean.acts[R0][position]).detach()
    latents = values.nonzero()[:2, 0].tolist()
    removal = Removal(0.0, tuple(Part("resid", latent, float(values[latent])) for latent in latents))
    added = changes(suite, {"resid": R0}, [removal])
    acts = Rerun(lm, clean, position, 1).activations([R1], added)[R1]
    keep = torch.zeros(1, len(tokens), dtype=torch.bool)
    keep[0, position] = True
    with torch.no_grad(), lm.splice(suite[R0], keep=keep) as spliced:
        spliced.ablate(latents)
        want = lm.capture(tokens[None], [R1])[R1]
    torch.testing.assert_close(acts[0], want[0, position], rtol=1e-4, atol=1e-4)


def test_several_latents_of_an_origin_are_removed_together(suite):
    parts = (Part("mlp", 3, 2.0), Part("mlp", 9, 0.5), Part("attn", 1, 1.0))
    added = changes(suite, {"mlp": M1, "attn": A1}, [Removal(-1.0, parts), Removal(0.0, parts[:1])])
    mlp = suite[M1]
    rows = mlp.W_dec / mlp.out_scale
    torch.testing.assert_close(added[M1][0], -2 * (2.0 * rows[3] + 0.5 * rows[9]))
    torch.testing.assert_close(added[M1][1], -2.0 * rows[3])
    assert not added[A1][1].any()


def test_a_random_direction_keeps_the_norm(suite):
    parts = (Part("mlp", 3, 2.0), Part("attn", 1, 1.0))
    plain, turned = (changes(suite, {"mlp": M1, "attn": A1}, [Removal(0.0, parts, seed)]) for seed in (None, 5))
    for site in (M1, A1):
        torch.testing.assert_close(plain[site].norm(), turned[site].norm())
        assert abs(float(torch.nn.functional.cosine_similarity(plain[site], turned[site]))) < 0.8
    again = changes(suite, {"mlp": M1, "attn": A1}, [Removal(0.0, parts, 5)])
    assert torch.equal(again[M1], turned[M1])


def test_an_orthonormal_tied_dictionary_gives_r_times_the_activation():
    """Test 7: rescaling one latent turns its pre-activation a into r·a and leaves the others."""
    from flow_dictionary import autoencoder

    rows = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0))).Q
    site = Site("resid_post", 0)
    suite = Suite({site: autoencoder(rows, info={"site": str(site)})})
    x = torch.rand(16, generator=torch.Generator().manual_seed(1)) @ rows * 2
    before = suite[site].pre_acts(x).detach()
    for r in (-2.0, 0.0, 0.5, 3.0):
        added = changes(suite, {"resid": site}, [Removal(r, (Part("resid", 4, float(before[4])),))])
        after = suite[site].pre_acts(x + added[site][0]).detach()
        want = before.clone()
        want[4] *= r
        torch.testing.assert_close(after, want, rtol=1e-5, atol=1e-5)


# ---- a control of matching


def test_a_rotated_dictionary_keeps_its_angles_and_loses_its_matches(suite):
    direction = suite.direction(R1)
    turned = RotatedCosine()._rotation(made.D, R1, R1)
    torch.testing.assert_close(turned @ turned.T, torch.eye(made.D), atol=1e-5, rtol=0)
    plain, rotated = (matcher.match(suite, R1, R1) for matcher in (Cosine(), RotatedCosine()))
    assert (plain.best == torch.arange(len(direction))).all()
    assert (rotated.best == plain.best).float().mean() < 0.2
    want = (direction.unit @ turned @ direction.unit.T).max(1).values
    torch.testing.assert_close(rotated.score, want, atol=1e-5, rtol=0)
    assert torch.equal(rotated.best, RotatedCosine().match(suite, R1, R1).best)
    assert not torch.equal(rotated.best, RotatedCosine(seed=1).match(suite, R1, R1).best)
    some = torch.tensor([5, 2])
    assert torch.equal(RotatedCosine().match(suite, R1, R1, some).best, rotated.best[some])


# ---- the experiment


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["batch_topk", "jumprelu", "topk", "kron"])
def test_rescaling_by_one_changes_nothing_bit_for_bit(kind, dtype):
    lm = tiny.llama()
    lm.model.to(dtype)
    one = deactivate(made.suite(lm, kind), lm, TEXT, [Cosine()], [2], replace(FULL, exhaustive=False))
    same = one.columns["r"] == 1
    assert same.sum() > 10
    assert np.array_equal(one.columns["new"][same], one.columns["old"][same])
    measured = same & np.isfinite(one.columns["loss_new"])
    assert measured.any()
    assert np.array_equal(one.columns["loss_new"][measured], one.columns["loss_old"][measured])
    gone = one.columns["r"] == 0
    assert (one.columns["new"][gone] != one.columns["old"][gone]).any()


@torch.no_grad()
def test_trials_are_what_whole_passes_give(lm, suite, found):
    """z_new of single removals by the first matcher, with no code of the experiment."""
    rows = (found.columns["method"] == 0) & (found.columns["r"] == 0) & (found.columns["layer"] == 1)
    rows &= np.isin(found.columns["subset"], (1, 2, 4))
    places = np.flatnonzero(rows)[:12]
    assert len(places) > 4
    origins = {1: R0, 2: M1, 4: A1}
    for place in places.tolist():
        one = {name: column[place].item() for name, column in found.columns.items()}
        tokens, site = TEXT.tokens[one["window"]].long(), origins[one["subset"]]
        clean, _ = by_hand(lm, {}, [R1, site], tokens, one["position"])
        row = suite[R1].W_dec[one["latent"]]
        nearest = int(torch.nn.functional.cosine_similarity(suite[site].W_dec, row[None]).argmax())
        value = suite[site].encode(clean[site])[nearest].detach()
        assert float(value) > 0
        added = -value * suite[site].W_dec[nearest].detach() / suite[site].out_scale
        after, _ = by_hand(lm, {site: added}, [R1], tokens, one["position"])
        assert one["old"] == pytest.approx(float(suite[R1].encode(clean[R1])[one["latent"]]), abs=1e-4)
        assert one["new"] == pytest.approx(float(suite[R1].encode(after[R1])[one["latent"]]), abs=2e-3)


def test_tokens_without_a_next_one_or_left_out_are_not_drawn(lm, suite):
    one = deactivate(suite, lm, TEXT, [Cosine()], [1], Design(tokens=50, features=1, exhaustive=False, controls=False))
    assert set(one.columns["position"].tolist()) == set(range(1, TEXT.tokens.shape[1] - 1))


def test_targets_are_active_and_change_is_not_clipped(found):
    removed = found.columns["group"] != 0
    assert (found.columns["old"] > 0).all()
    assert (found.columns["new"][removed] >= 0).all()
    assert (found._change()[removed] < 0).any()
    assert set(found.columns["layer"].tolist()) == {1, 2}


def test_an_exhaustive_search_changes_at_least_as_much_as_any_single_match(found):
    """By construction: the match is one of the active latents that are tried."""
    best = {}
    for place in np.flatnonzero(found.columns["method"] == found.methods.index("exhaustive")):
        best[tuple(found.columns[name][place] for name in ("window", "position", "layer", "latent"))] = found._change()[
            place
        ]
    tops = [found.methods.index(name) for name in ("cosine", "permutation", "random of top 5")]
    rows = np.isin(found.columns["method"], tops) & np.isin(found.columns["subset"], (1, 2, 4))
    rows &= found.columns["r"] == 0
    assert rows.sum() > 20
    for place in np.flatnonzero(rows):
        key = tuple(found.columns[name][place] for name in ("window", "position", "layer", "latent"))
        assert best[key] >= found._change()[place] - 1e-6


def test_methods_identify_groups_of_their_own_and_controls_have_those_of_the_first(found):
    def codes(name):
        rows = found.columns["method"] == found.methods.index(name)
        keys = zip(
            *(found.columns[key][rows].tolist() for key in ("window", "position", "layer", "latent")), strict=True
        )
        return dict(zip(keys, found.columns["group"][rows].tolist(), strict=True))

    assert codes("random active") == codes("random direction") == codes("cosine")
    assert codes("cosine top 5") != codes("cosine")
    # A match among five is active at least where the first of them is.
    assert all(codes("cosine")[key] & ~code == 0 for key, code in codes("cosine top 5").items())


def test_removals_that_several_ask_for_share_a_pass(lm, suite, monkeypatch):
    ran = []
    run = Rerun.activations

    def counted(self, sites, added=None, start=None):
        ran.append(added)
        return run(self, sites, added, start)

    monkeypatch.setattr(Rerun, "activations", counted)
    design = Design(tokens=1, features=50, rows=128, exhaustive=True, controls=False)
    one = deactivate(suite, lm, TEXT.first(1), [Cosine(), Permutation(), RandomOfTop()], [1], design)
    asked = int(((one.columns["group"] != 0) & (one.columns["tries"] == 0)).sum())
    assert asked > 20
    assert len(ran) == 2  # the unchanged run and one with every removal
    (added,) = [one for one in ran if one is not None]
    rows = torch.cat(list(added.values()), 1)
    used = rows[(rows != 0).any(1)]
    assert len(used.unique(dim=0)) == len(used)


def test_the_table_has_every_method_and_figures_add_up(found):
    outcomes = {(one.method, one.r): one for one in found.outcomes()}
    assert {name for name, _ in outcomes} == set(found.methods)
    for (name, r), one in outcomes.items():
        assert 0 <= one.success.value <= 1
        if r == 1:
            assert one.change.value == one.success.value == 0
        if name in ("exhaustive", "other token"):
            assert r == 0
            assert one.tries > 5
    top = outcomes[("cosine", 0.0)]
    assert top.success.low <= top.success.value <= top.success.high
    groups = [row for row in found.by_group("cosine", 0.0) if row["group"] == f"From {row['removed']}"]
    assert sum(row["targets"] for row in groups) == top.targets
    mean = sum(row["targets"] * row["change"].value for row in groups) / top.targets
    assert mean == pytest.approx(top.change.value)
    measured = {name for (name, _), one in outcomes.items() if one.losses}
    assert measured == {"cosine", "random active", "random direction"}
    assert {outcomes[name, 0.0].losses for name in measured} == {top.losses}
    header, rows = found.table()
    assert all(len(row) == len(header) for row in rows)


def test_contrasts_are_pairs_on_common_targets(found):
    one = found.contrast("cosine", "random of top 5", 0.0)
    keys = ("window", "position", "layer", "latent")
    sets = {}
    for name in ("cosine", "random of top 5"):
        rows = (found.columns["method"] == found.methods.index(name)) & (found.columns["r"] == 0)
        rows &= (found.columns["group"] == found.columns["subset"]) & (found.columns["group"] > 0)
        change = 1 - found.columns["new"][rows] / found.columns["old"][rows]
        sets[name] = dict(zip(zip(*(found.columns[key][rows] for key in keys), strict=True), change, strict=True))
    common = sets["cosine"].keys() & sets["random of top 5"].keys()
    assert one.targets == len(common) > 3
    want = np.mean([sets["cosine"][key] - sets["random of top 5"][key] for key in common])
    assert one.change.value == pytest.approx(want)
    assert one.change.low <= want <= one.change.high


def test_what_is_finished_is_kept_and_found_again(lm, suite, tmp_path, monkeypatch):
    design = replace(FULL, exhaustive=False, losses=0)
    whole = deactivate(suite, lm, TEXT, [Cosine()], [1], design)
    parts = deactivations(suite, lm, TEXT, [Cosine()], [1], design, keep=tmp_path)
    next(parts)
    parts.close()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    ran = []
    monkeypatch.setattr("monosem.flow.deactivating.clean_pass", lambda *a: ran.append(a) or clean_pass(*a))
    again = deactivate(suite, lm, TEXT, [Cosine()], [1], design, keep=tmp_path)
    assert len(ran) == 1
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(again.columns[name], column)
    deactivate(suite, lm, TEXT, [Cosine()], [1], replace(design, seed=1), keep=tmp_path)
    assert len(ran) == 3
    deactivate(suite, lm, TEXT, [SimpleNamespace(name="cosine", match=RandomOfTop().match)], [1], design, keep=tmp_path)
    assert len(ran) == 5  # the name is the same, what matches is not


def test_draws_do_not_depend_on_what_else_is_tried(lm, suite):
    design = replace(FULL, r=(0.0,), exhaustive=False, losses=0)
    alone = deactivate(suite, lm, TEXT, [Cosine()], [1], design)
    beside = deactivate(suite, lm, TEXT, [Cosine(), RandomOfTop()], [2, 1], replace(design, exhaustive=True))
    for name in ("cosine", "random active", "random direction"):
        figures = [one.outcome(name, 0.0, layer=1) for one in (alone, beside)]
        assert figures[0].targets == figures[1].targets
        assert figures[0].change.value == pytest.approx(figures[1].change.value, abs=1e-3)


def test_bad_input_is_said_in_one_line(lm, suite):
    assert "layers that have them: 0, 1, 2" in refused(deactivate, suite, lm, TEXT, [Cosine()], [7])
    assert "at least one matcher" in refused(deactivate, suite, lm, TEXT, [], [1])
    assert "each once" in refused(deactivate, suite, lm, TEXT, [Cosine(), Cosine()], [1])
    assert "tokens = 0" in refused(Design, tokens=0)
    assert "each once" in refused(Design, r=(0.0, 0.0))
    assert Deactivation.joined([]).outcomes() == []
