"""The stream, its sources, and the exclusion rule."""

import json

import numpy as np
import pytest
import torch

import tiny
from monosem.activations import Exclusion, Live, Rows, Store, Stream, calibrate, record
from monosem.activations import store as store_module
from monosem.shapes import InputError, Site
from monosem.text import windows
from monosem.training.run import first_windows

SITE = Site("resid_post", 1)


class Counting:
    """A source whose activations say where they come from."""

    sites = (SITE,)

    def __init__(self, n_windows, length=5, kept=lambda window: 5):
        self.n_windows, self.length, self.kept = n_windows, length, kept

    def rows(self, which):
        pairs = [(window, position) for window in which for position in range(self.kept(window))]
        where = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
        return Rows({SITE: where.float()}, where[:, 0], where[:, 1])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def text(cache):
    return windows(tiny.corpus(documents=80), tiny.tokenizer(), part="train", length=16)


def pairs(rows):
    return list(zip(rows.windows.tolist(), rows.positions.tolist(), strict=True))


def test_an_epoch_emits_every_row_once_in_another_order_each_time():
    stream = Stream(Counting(21), batch=7, block=4, seed=3)
    epochs = [[pair for _ in range(15) for pair in pairs(next(stream))] for _ in range(2)]
    everything = {(window, position) for window in range(21) for position in range(5)}
    assert all(len(epoch) == 105 and set(epoch) == everything for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert [pair for _ in range(15) for pair in pairs(next(Stream(Counting(21), batch=7, block=4, seed=4)))] != epochs[
        0
    ]


def test_rows_are_mixed_across_windows():
    first = next(Stream(Counting(40), batch=10, block=20, seed=0))
    assert len(set(first.windows.tolist())) > 5


def test_every_block_has_an_order_of_its_own():
    stream = Stream(Counting(8), batch=20, block=4, seed=0)
    orders = []
    for _ in range(2):
        next(stream)
        orders.append(stream._order.tolist())
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


@pytest.mark.parametrize("batch", [1, 7, 64, 300])
def test_a_resumed_stream_continues_exactly(batch):
    kept = lambda window: 3 + window % 3  # noqa: E731
    stream = Stream(Counting(30, kept=kept), batch=batch, block=8, seed=5)
    for _ in range(4):
        next(stream)
    state = json.loads(json.dumps(stream.state()))
    expected = [pairs(next(stream)) for _ in range(5)]
    again = Stream(Counting(30, kept=kept), batch=batch, block=8, seed=5)
    again.resume(state)
    assert [pairs(next(again)) for _ in range(5)] == expected


def test_a_stream_without_a_token_left_says_so():
    with pytest.raises(InputError, match="leaves no token"):
        next(Stream(Counting(6, kept=lambda window: 0), batch=2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_activation_stops_with_its_place(value):
    source = Counting(6)

    def rows(which):
        found = Counting.rows(source, which)
        found.acts[SITE][(found.windows == 4) & (found.positions == 2)] = value
        return found

    source.rows = rows
    with pytest.raises(InputError, match=r"resid_post.1 are not finite at 1 token.*window 4 position 2"):
        next(Stream(source, batch=3))


def test_the_rule_leaves_out_positions_special_tokens_and_norms():
    special = torch.tensor([[False, False, True, False]])
    acts = {SITE: torch.tensor([[[900.0], [1.0], [1.0], [50.0]]])}
    rule = Exclusion(max_norm={"resid_post.1": 10.0})
    assert rule.mask(special, acts).tolist() == [[True, False, True, True]]
    assert Exclusion(first=0, special=False).mask(special, acts).tolist() == [[False] * 4]
    assert Exclusion(**json.loads(json.dumps(rule.describe()))) == rule
    assert "norms above 10 at resid_post.1" in str(rule)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_rule_does_not_hide_what_is_not_finite(value):
    acts = {SITE: torch.tensor([[[1.0], [1.0], [value]]])}
    special = torch.zeros(1, 3, dtype=torch.bool)
    assert Exclusion(max_norm={"resid_post.1": 10.0}).mask(special, acts).tolist() == [[True, False, False]]
    if value != value:
        with pytest.raises(InputError, match="not finite in the first windows"):
            Exclusion().calibrated(special, acts)


def test_norm_limits_come_from_the_tokens_kept_by_position_and_kind():
    acts = {SITE: torch.tensor([[[1e6], [1.0], [2.0], [3.0], [1e6]]])}
    special = torch.tensor([[False, False, False, False, True]])
    assert Exclusion().calibrated(special, acts).max_norm == {"resid_post.1": 20.0}
    with pytest.raises(InputError, match="no token is left"):
        Exclusion(first=5).calibrated(special, acts)


def test_live_activations_do_not_depend_on_the_windows_beside_them(text):
    lm = tiny.llama()
    rule = calibrate(lm, text, [SITE], Exclusion())
    source = Live(lm, text, [SITE], rule, batch=4)
    together = source.rows(np.arange(11))
    for window in (0, 5, 10):
        alone = source.rows(np.array([window])).acts[SITE]
        assert torch.equal(alone, together.acts[SITE][together.windows == window])
    direct = lm.capture(text.tokens[:1], [SITE])[SITE][0]
    first = together.windows == 0
    torch.testing.assert_close(together.acts[SITE][first], direct[together.positions[first]])


def test_a_store_gives_the_same_batches_as_the_model(text, cache):
    lm, sites = tiny.llama(), [SITE, Site("mlp_out", 0)]
    store = record(lm, text, sites, batch=4)
    live = Live(lm, text, sites, store.exclusion, batch=4)
    streams = [Stream(source, batch=50, block=6, seed=1) for source in (store, live)]
    for _ in range(12):
        one, other = (next(stream) for stream in streams)
        assert pairs(one) == pairs(other)
        for site in sites:
            assert torch.equal(one.acts[site], other.acts[site])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_on_disk_is_that_rounding(text, cache, dtype):
    lm = tiny.llama()
    store = record(lm, text, [SITE], dtype=dtype)
    exact = lm.capture(text.tokens[:3], [SITE])[SITE]
    assert torch.equal(store.acts(np.arange(3), SITE), exact.to(getattr(torch, dtype)))
    lost = store.measure_rounding(lm)["resid_post.1"]["unexplained_variance"]
    assert 0 < lost < 1e-4
    assert Store(store.folder).rounding["resid_post.1"]["unexplained_variance"] == lost


def test_recording_goes_on_where_it_stopped_and_can_be_extended(text, cache, monkeypatch):
    monkeypatch.setattr(store_module, "SHARD_WINDOWS", 8)
    lm, calls = tiny.llama(), []
    capture = lm.capture
    fail_at = 6

    def counted(tokens, sites):
        calls.append(len(tokens))
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        return capture(tokens, sites)

    monkeypatch.setattr(lm, "capture", counted)
    with pytest.raises(KeyboardInterrupt):
        record(lm, text, [SITE], n_windows=32, batch=4)
    assert len(calls) == 6, "two full shards of two passes, one pass of the third, and the broken one"
    calls.clear()
    fail_at = 0
    store = record(lm, text, [SITE], n_windows=32, batch=4)
    assert len(calls) == 4, "two shards were kept"
    assert store.n_windows == 32
    calls.clear()
    assert record(lm, text, [SITE], n_windows=36, batch=4).n_windows == 36
    assert len(calls) == 1
    monkeypatch.undo()


def test_extending_a_store_never_breaks_what_is_there(text, cache, monkeypatch):
    monkeypatch.setattr(store_module, "CALIBRATION_WINDOWS", 4)
    lm = tiny.llama()
    store = record(lm, text, [SITE], n_windows=4, batch=4)
    expected = store.acts(np.arange(4), SITE)
    write = store_module.write_json

    def killed(path, value):
        if path.name == "00000000.json":
            raise KeyboardInterrupt
        write(path, value)

    monkeypatch.setattr(store_module, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        record(lm, text, [SITE], n_windows=9, batch=4)
    assert torch.equal(Store(store.folder).acts(np.arange(4), SITE), expected)
    monkeypatch.setattr(store_module, "write_json", write)
    longer = record(lm, text, [SITE], n_windows=9, batch=4)
    assert torch.equal(longer.acts(np.arange(4), SITE), expected)
    assert len(list(store.folder.glob("*.bin"))) == 1


def test_a_store_begun_with_a_shortened_text_goes_on_with_a_longer_one(text, cache, monkeypatch):
    monkeypatch.setattr(store_module, "CALIBRATION_WINDOWS", 4)
    lm = tiny.llama()
    record(lm, first_windows(text, 5), [SITE], batch=4)
    store = record(lm, first_windows(text, 9), [SITE], batch=4)
    assert torch.equal(store.windows.tokens, text.tokens[:9])
    rows = store.rows(np.arange(9))
    assert rows.windows.max() == 8
    shorter = record(lm, first_windows(text, 3), [SITE], batch=4)
    assert len(shorter.windows.tokens) == 9


def test_a_short_recording_calibrates_on_as_many_windows_as_a_long_one(text, cache):
    lm = tiny.llama()
    store = record(lm, text, [SITE], n_windows=2, batch=8)
    assert store.n_windows == 2
    assert store.exclusion == calibrate(lm, text, [SITE], Exclusion())


def test_a_store_of_something_else_is_refused(text, cache, tmp_path):
    folder = tmp_path / "acts"
    record(tiny.llama(), text, [SITE], folder=folder, n_windows=4)
    other = windows(tiny.corpus(documents=70), tiny.tokenizer(), part="train", length=16)
    with pytest.raises(InputError, match="holds activations with text"):
        record(tiny.llama(), other, [SITE], folder=folder)
    with pytest.raises(InputError, match="holds activations with model"):
        record(tiny.llama(seed=1), text, [SITE], folder=folder)
    with pytest.raises(InputError, match="holds activations with sites"):
        record(tiny.llama(), text, [Site("resid_post", 0)], folder=folder)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_shard_is_refused(text, cache, damage):
    store = record(tiny.llama(), text, [SITE], n_windows=8)
    (shard,) = store.folder.glob("*.bin")
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        content[100] ^= 1
        shard.write_bytes(content)
    elif damage == "cut":
        shard.write_bytes(content[:-8])
    else:
        shard.unlink()
    with pytest.raises(InputError, match="missing, truncated or altered"):
        Store(store.folder).rows(np.arange(4))
