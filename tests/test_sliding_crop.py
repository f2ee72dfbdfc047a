"""A cache that cannot be cropped that far: a sliding window that was exceeded, at a real host and on the local side."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

import lsplit_kit as lk
from lsplit_kit.errors import CacheMiss
from lsplit_kit.quantization import codec
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.wire.message import Open, Step

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(120)
NAME, WINDOW = "toy-mistral", 8
IDS = torch.arange(5, 21)[None]  # twice the window


@pytest.fixture(scope="module")
def model():
    found = lk.load(NAME)[0]
    assert found.config.sliding_window == WINDOW < IDS.shape[1]
    return found


@pytest.fixture(scope="module")
def host():
    with lk.host(NAME, head=0, tail=0) as running:
        yield running


def test_a_host_refuses_the_crop_with_what_it_has_and_serves_on(host):
    with RpycLink(host.address) as link:
        raw = codec("fp32").encode(torch.randn(1, 16, link.info.width)).payload
        session = link.open(Open("kv", "fp32", "fp32"))
        link.step(session, Step(1, 0, 1, 16, raw))
        one = raw[: len(raw) // 16]
        with pytest.raises(CacheMiss, match="cannot be cropped") as caught:
            link.step(session, Step(2, 13, 1, 1, one))
        assert caught.value.have == 0
        with pytest.raises(CacheMiss):  # nothing half-cropped is left to go on from
            link.step(session, Step(3, 13, 1, 1, one))
        assert link.step(session, Step(4, 0, 1, 16, raw)).payload


@pytest.mark.parametrize("back", [1, 3])
def test_a_rollback_beyond_the_window_is_replayed(model, host, back):
    split = lk.split(model, head=0, tail=0, body=host.address)
    cache = DynamicCache(config=split.config)
    with torch.no_grad():
        split(IDS, past_key_values=cache)
        cache.crop(-back)
        with lk.tap(split) as wire:
            got = split(IDS[:, -back:] + 1, past_key_values=cache).logits
        want = model(torch.cat([IDS[:, :-back], IDS[:, -back:] + 1], dim=1)).logits[:, -back:]
    split.close()
    assert (got - want).abs().max() <= 2e-4
    rows = wire.ledger()
    assert tuple(rows[rows.kind == "replay"].iloc[0]["shape"]) == (1, IDS.shape[1], model.config.hidden_size)


def test_a_local_window_refuses_in_the_librarys_own_words(model):
    split = lk.split(model, head=2, tail=2)
    for m in (model, split):
        cache = DynamicCache(config=m.config)
        with torch.no_grad():
            m(IDS, past_key_values=cache)
        with pytest.raises(RuntimeError, match="activate_past_recording"):
            cache.crop(-3)


def test_a_local_window_that_was_told_to_remember_can_be_cropped(model, host):
    split = lk.split(model, head=2, tail=2, body=host.address)
    cache = DynamicCache(config=split.config)
    cache.activate_past_recording()
    with torch.no_grad():
        split(IDS, past_key_values=cache)
        cache.crop(-3)
        got = split(IDS[:, -3:] + 1, past_key_values=cache).logits
        want = model(torch.cat([IDS[:, :-3], IDS[:, -3:] + 1], dim=1)).logits[:, -3:]
    split.close()
    assert (got - want).abs().max() <= 2e-4
