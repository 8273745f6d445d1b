"""The experiments on interpretability: what is read of an arm, how it is judged, and the study as a whole."""

import math
from dataclasses import replace

import pytest
import torch

import planted
import run_folder
from monosem.interpret import Drawn, Score
from monosem.interpret.scoring import FeatureScore
from monosem.reproduce import recording
from monosem.reproduce.claim import Evidence
from monosem.reproduce.data import Data, Text
from monosem.reproduce.interpretability import (
    SCALES,
    STUDY,
    able,
    absorption,
    factor,
    judge,
    letter,
    nested,
    reading,
    text,
)
from monosem.reproduce.interpretability.arm import controls, kron, kron_budgets, krons, topk
from monosem.reproduce.interpretability.kind import KINDS
from monosem.reproduce.ledger import Ledger
from monosem.reproduce.reproduction import reproduce
from monosem.reproduce.request import Request
from monosem.reproduce.row import Rows
from monosem.reproduce.synthetic import SITE, Synthetic
from monosem.sae import SAE, KronEncoder, TopK
from monosem.shapes import InputError

MEDIUM = SCALES["medium"]
COHERENCE = next(kind for kind in KINDS if kind.suffix == ".coherence")
BOTH = next(kind for kind in KINDS if not kind.suffix)


def kron_sae(k=4):
    encoder = KronEncoder(16, 48, heads=4, base=3, extension=4)
    sae = SAE(encoder, TopK(48, k), info={"training": {"config": {"sae": ["kron"], "k": k}}})
    sae.initialise(torch.randn(256, 16), torch.Generator().manual_seed(0))
    return sae.eval()


# What is read -------------------------------------------------------------------------------------------------------


def test_rows_of_a_kron_encoder_fire_where_a_selected_latent_is_made_of_them():
    sae = kron_sae()
    x = torch.randn(40, 16, generator=torch.Generator().manual_seed(1))
    units = dict(text.units(sae, MEDIUM))
    assert list(units) == ["4", "pre"]
    rows = units["pre"](x).dense()
    assert rows.shape == (40, 4 * 7)
    p, q = sae.pre_latents(x)
    acts = sae.encode(x).reshape(40, 4, 3, 4)
    for token in range(40):
        for head in range(4):
            for i in range(3):
                own = p[token, head, i] if (acts[token, head, i] > 0).any() else 0.0
                assert rows[token, head * 7 + i] == own
            for j in range(4):
                own = q[token, head, j] if (acts[token, head, :, j] > 0).any() else 0.0
                assert rows[token, head * 7 + 3 + j] == own
    assert (rows > 0).sum() < sum((part > 0).sum() for part in (p, q))


def test_scores_by_rank_are_means_over_the_features_drawn():
    sae = kron_sae(k=3)
    x = torch.randn(200, 16, generator=torch.Generator().manual_seed(2))
    known = {latent: 0.1 * (latent % 7) for latent in range(0, 48, 2)}
    drawn = [type("F", (), {"latent": latent, "value": value})() for latent, value in known.items()]
    score = Score("sae", "coherence", "judge", None, 0.5, drawn)
    found = reading.by_ranks(sae, Data(source(x), SITE, x, x, {}), score)
    codes = sae.codes(x)
    for rank in range(3):
        own = [known[i] for i, v in zip(codes.indices[:, rank].tolist(), codes.values[:, rank]) if v > 0 and i in known]
        assert found[rank] == pytest.approx(sum(own) / len(own), abs=2e-6)


def source(x):
    return Synthetic(lambda generator, count: x[:count], 1, 0)


def test_where_no_text_is_known_nothing_is_read():
    x = torch.randn(64, 16)
    data = Data(source(x), SITE, x, x, {})
    assert reading.interpretability(kron_sae(), data, MEDIUM) == {}
    assert letter.absorption(kron_sae(), data, MEDIUM) == {}


# Verdicts -----------------------------------------------------------------------------------------------------------


def evidence(made, *arms):
    return Evidence(MEDIUM, {(arm.name, seed): made(arm, seed) for arm in arms for seed in MEDIUM.seeds})


def read(value, *units, **others):
    return {"read": {unit: {"coherence": value, "features": 80, "alive": 900, **others} for unit in units}}


@pytest.mark.parametrize(("gap", "verdict"), [(0.0, "confirmed"), (-0.004, "confirmed"), (-0.05, "contradicted")])
def test_a_hierarchical_autoencoder_may_be_a_hundredth_below_at_every_budget(gap, verdict):
    def made(arm, seed):
        value = 0.6 + 1e-4 * seed + (gap if arm.name == "hierarchical" else 0.0)
        return read(value, "8", "16", "32", "64")

    found = nested.at_budgets(evidence(made, *nested.arms(MEDIUM)), COHERENCE)
    assert found.verdict == verdict
    assert found.measured["coherence, k = 8"]["mean"] == pytest.approx(gap, abs=1e-9)


def test_one_bad_budget_is_enough_to_contradict():
    def made(arm, seed):
        one = read(0.6 + 1e-4 * seed, "8", "16", "32", "64")
        if arm.name == "hierarchical":
            one["read"]["16"]["coherence"] -= 0.1
        return one

    assert nested.at_budgets(evidence(made, *nested.arms(MEDIUM)), COHERENCE).verdict == "contradicted"


@pytest.mark.parametrize(("slope", "verdict"), [(0.0, "confirmed"), (0.01, "contradicted")])
def test_ranks_are_judged_by_how_much_the_score_declines(slope, verdict):
    def made(arm, seed):
        own = slope if arm.name == "hierarchical" else 0.004
        return {"ranks": [None, *(0.7 - own * rank + 1e-4 * seed for rank in range(12))]}

    assert nested.by_rank(evidence(made, *nested.pair(MEDIUM))).verdict == verdict


@pytest.mark.parametrize(("gain", "verdict"), [(0.02, "confirmed"), (0.0, "undecided"), (-0.02, "contradicted")])
def test_kron_has_to_be_above_topk_and_above_its_own_rows(gain, verdict):
    noise = {0: 1e-4, 1: -1e-4, 2: 0.0}

    def made(arm, seed):
        own = gain if arm.sae == "kron" else 0.0
        one = read(0.6 + own + noise[seed] * (arm.sae == "kron"), str(arm.settings["k"]))
        one["read"]["pre"] = {"coherence": 0.6, "features": 80, "alive": 300}
        return one

    several = evidence(made, *factor.arms(MEDIUM))
    assert factor.against_topk(several, COHERENCE).verdict == verdict
    assert factor.against_parents(several, COHERENCE).verdict == verdict


def test_a_judge_has_to_agree_in_detection_and_in_fuzzing():
    def made(arm, seed):
        own = arm.sae == "kron"
        figures = {"detection": 0.7 + 0.1 * own + 1e-4 * seed * own, "fuzzing": 0.7 - 0.1 * own - 1e-4 * seed * own}
        return read(0.6, str(arm.settings["k"]), "pre", **figures)

    assert factor.against_topk(evidence(made, *factor.arms(MEDIUM)), BOTH).verdict == "contradicted"


def test_a_unit_with_too_few_contexts_leaves_a_claim_undecided():
    def made(arm, seed):
        return {"read": {"8": None, "16": None, "32": None, "64": None}}

    def silent(arm, seed):
        return read(None if arm.name == "hierarchical" else 0.6, "8", "16", "32", "64")

    claim = next(one for one in nested.CLAIMS if one.id == "I1.coherence")
    found = claim.judge(evidence(made, *nested.arms(MEDIUM)))
    assert found.verdict == "undecided"
    assert "hierarchical" in found.note
    found = claim.judge(evidence(silent, *nested.arms(MEDIUM)))
    assert (found.verdict, "topk" in found.note) == ("undecided", False)


def test_trained_latents_have_to_beat_both_controls():
    def made(best):
        def one(arm, seed):
            value = {"untrained": 0.5, "frozen_decoder": 0.55 if best else 0.7}.get(arm.name, 0.6)
            return read(value + 1e-4 * seed * (arm.name == "untrained"), "32", coherence_shuffled=0.5)

        return one

    arms = able.arms(MEDIUM)
    assert able.judge(evidence(made(True), *arms), COHERENCE).verdict == "confirmed"
    assert able.judge(evidence(made(False), *arms), COHERENCE).verdict == "contradicted"


def absorbing(arm, seed):
    k = int(arm.settings["k"])
    ev, value = (0.5 + k / 200, 0.1 + k / 100) if arm.sae == "topk" else (0.5 + k / 200 - 0.04, 0.05 + k / 100)
    found = {"fraction": value + 1e-4 * seed, "full": 0.1, "splits": 2.0}
    return {"trained": k, "k": [k], "ev": [ev], "absorption": found}


def test_absorption_at_equal_ev_is_read_off_between_the_budgets_of_topk():
    several = evidence(absorbing, *absorption.arms(MEDIUM))
    assert absorption.judged(absorption.at_equal_l0)(several).verdict == "confirmed"
    # 0.04 of EV are 8 latents of TopK, and so 0.08 of absorption: more than the 0.05 saved.
    own = absorption.at_equal_ev(several, kron(2, 4, 32))
    assert own == pytest.approx([0.03] * 3, abs=1e-3)
    assert absorption.judged(absorption.at_equal_ev)(several).verdict == "contradicted"


def test_absorption_is_undecided_where_the_probes_fail_their_gate():
    several = evidence(lambda arm, seed: {"absorption": {"gate": "not measurable here"}}, *absorption.arms(MEDIUM))
    found = absorption.judged(absorption.at_equal_l0)(several)
    assert (found.verdict, found.note) == ("undecided", "not measurable here")


def test_claims_say_what_they_need():
    why = {claim.id: claim.untestable(MEDIUM) for claim in STUDY.claims}
    assert {name for name, reason in why.items() if reason} == {"I0", "I1", "I3", "I4"}
    judged = replace(MEDIUM, extra={**MEDIUM.extra, "judge": "local:x"})
    assert not any(claim.untestable(judged) for claim in STUDY.claims)
    assert {claim.id for claim in STUDY.claims if claim.untestable(SCALES["small"])} >= {"I5", "I6"}
    names = {arm.name for claim in STUDY.claims for arm in claim.arms(MEDIUM)}
    assert names == {
        *(topk(k).name for k in (8, 16, 32, 64)),
        "hierarchical",
        *(arm.name for arm in krons(MEDIUM)),
        *(arm.name for arm in controls(MEDIUM)),
    }
    assert kron_budgets(MEDIUM) == [16, 32]


def test_one_learning_rate_alone_needs_no_trial(tmp_path):
    ledger = Ledger(STUDY, MEDIUM, Rows(tmp_path / "rows.jsonl"))
    assert {family: ledger.rate(family) for family in STUDY.families} == dict.fromkeys(STUDY.families, 3e-3)
    several = Ledger(STUDY, replace(MEDIUM, rates=(1e-3, 3e-3)), Rows(tmp_path / "rows.jsonl"))
    assert several.rate("topk") is None


def test_only_a_judge_changes_what_a_row_is_found_by(tmp_path):
    def code(**extra):
        ledger = Ledger(STUDY, replace(MEDIUM, extra={**MEDIUM.extra, **extra}), Rows(tmp_path / "rows.jsonl"))
        claim = next(one for one in STUDY.claims if one.id == "I1.coherence")
        return ledger.digest(ledger.runs(claim)[0])

    assert code() == code(judge=None) != code(judge="local:one") != code(judge="local:other")


# The whole ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The study on a tiny model, its sentences judged by which letters they have."""
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    settings = {key: run_folder.SETTINGS[key] for key in ("window", "site", "n_latents", "batch", "dtype")}
    settings |= {
        "k": 8,
        "n_latents": 64,
        "tokens": 1280,
        "distinct_tokens": 1200,
        "held_out": 0.5,
        **run_folder.inputs(tmp_path),
    }
    extra = {"ks": [4], "kron_ks": [4], "features": 6, "contexts": 3, "words": 0}
    scale = replace(SCALES["small"], settings=settings, held_out=1500, extra=extra)
    monkeypatch.setitem(STUDY.scales, "small", scale)
    monkeypatch.setattr(text, "encoder", lambda: letters)
    monkeypatch.setattr(
        text, "sampling", lambda scale: replace(planted.SAMPLING, width=1, positives=3, negatives=3, least=2, shown=2)
    )
    recording.model.__globals__["_model"].cache_clear()
    return tmp_path


def letters(texts):
    counts = (
        torch.tensor([[one.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for one in texts]).float() + 0.1
    )
    return counts / counts.norm(dim=1, keepdim=True)


@pytest.mark.slow
def test_the_study_runs_and_continues(small):
    request = Request("interpretability", claims="I0.tokens,I1.coherence,I3.tokens,I4.coherence", minutes=5, out=small)
    said = []
    result = reproduce(request, said.append)
    verdicts = {one["id"]: one["verdict"] for one in result["claims"] if one["verdict"] != "not tested"}
    assert set(verdicts) >= {"I0.tokens", "I1.coherence", "I3.tokens", "I4.coherence"}
    own = next(one for one in result["claims"] if one["id"] == "I4.coherence")
    assert all(0 <= level <= 1 for level in own["control"].values())
    before = (small / "interpretability.rows.jsonl").read_text()
    reproduce(request, said.append)
    assert (small / "interpretability.rows.jsonl").read_text() == before
    assert "0 runs" in said[-1]


class Known:
    """A judge that knows nothing of the texts: it answers by what is asked most."""

    name, per_question = "test", 4


@pytest.mark.slow
def test_a_judge_is_part_of_what_decides_a_row(small, monkeypatch):
    asked = []

    def scores(name, drawn: Drawn, text: Text, units: str):
        asked.append((name, units, len(drawn.features)))
        features = [FeatureScore(0, 0.6, 2, 0)]
        return [
            Score(units, one, name, control, 0.5, features) for one in judge.METHODS for control in (None, "shuffled")
        ]

    monkeypatch.setattr(judge, "scores", scores)
    monkeypatch.setattr(judge, "opened", lambda name: Known())
    said = []
    request = Request("interpretability", claims="I0.tokens", minutes=5, out=small, seeds=(0, 1, 2))
    reproduce(request, said.append)
    assert not asked
    reproduce(replace(request, judge="local:some"), said.append)
    assert len(asked) == 9
    assert any("questions and" in one for one in said)
    with pytest.raises(InputError, match="asks nobody"):
        reproduce(Request("hierarchical", judge="local:some", out=small), said.append)


def test_an_absorption_row_has_means_over_letters(monkeypatch):
    from monosem.interpret import Mean
    from monosem.interpret.absorption_task import Absorption, Row

    row = Row(Mean(0.25, 0.2, 0.3), Mean(0.1, 0.0, 0.2), Mean(1.5, 1.0, 2.0), Mean(0.6, 0.5, 0.7), [])
    found = Absorption({"arm": row}, "", {}, {}, {"l0": {"arm": 3.5}})
    monkeypatch.setattr(letter, "known", lambda sae, scale: letter.Words(None, None))
    monkeypatch.setattr(letter, "read_with", lambda sae, name, read: read)
    monkeypatch.setattr(letter, "absorption_of", lambda saes, read, truth: found)
    x = torch.randn(8, 16)
    data = Data(source(x), SITE, x, x, {}, text=Text(torch.zeros(1, 8), torch.ones(1, 8) > 0, None, {}))
    measured = letter.absorption(kron_sae(), data, MEDIUM)["absorption"]
    assert measured == {"fraction": 0.25, "full": 0.1, "splits": 1.5, "l0": 3.5, "letters": 0}
    gated = replace(found, gate="not measurable here")
    monkeypatch.setattr(letter, "absorption_of", lambda saes, read, truth: gated)
    assert letter.absorption(kron_sae(), data, MEDIUM) == {"absorption": {"gate": "not measurable here"}}
    assert math.isfinite(measured["fraction"])
