"""What a step takes in memory while it is computed: said beforehand, and measured in the allocator of the library."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

import lsplit_kit as lk
from lsplit_kit.models.toys import TOYS
from lsplit_kit.split.body import body_of
from lsplit_kit.split.needs import MAX_WORK, working
from lsplit_kit.split.plan import SplitPlan
from lsplit_kit.wire.message import Open, Step, ints_to_wire

torch.set_num_threads(1)
TERMS = Open("kv", "fp32", "fp32")
PROMPTS = ((1, 64, False), (1, 448, False), (1, 320, True), (3, 100, True))  # rows, positions, with pads
LATER = ((1, 3, 1, False), (2, 128, 1, True), (1, 390, 64, False))  # rows, positions before, new ones, with pads


def vectors(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).numpy().tobytes()


def peaks(found):
    """Bytes by which memory was at most more than at the beginning of each named block of a profile."""
    events = found.profiler.kineto_results.events()
    spans = sorted((e.start_ns(), e.end_ns(), e.name()) for e in events if e.name().startswith("step "))
    memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    tops = {}
    for start, end, name in spans:
        now = top = 0
        for at, size in memory:
            if start <= at <= end:
                now += size
                top = max(top, now)
        tops[name] = top
    return tops


def measured(body, prompts=PROMPTS, later=LATER):
    """What each step took, and what was said of it, by its shape."""
    said, rows = {}, [(batch, 0, new, pads) for batch, new, pads in prompts] + list(later)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        for batch, past, new, pads in rows:
            number = body.open(TERMS)
            mask = ints_to_wire([1] + [0] * (batch - 1)) if pads else b""
            if past:
                body.step(number, Step(1, 0, batch, past, vectors(batch, past, body.info.width), pads=mask))
            step = Step(2, past, batch, new, vectors(batch, new, body.info.width), pads=b"" if past else mask)
            name = f"step {batch} {past} {new} {pads}"
            with record_function(name):
                body.step(number, step)
            said[name] = working(body.base, body.info, batch, new, past, pads)
            body.close_session(number)
    tops = peaks(found)
    return {name: (tops[name], bound) for name, bound in said.items()}


@pytest.mark.parametrize("name", TOYS)
def test_what_a_step_takes_is_known_before_it_is_computed(name):
    """Never less than the real peak, masks, scores and copies of the cache included; of a prompt within four times."""
    found = measured(body_of(lk.load(name)[0], SplitPlan(1, 1)))
    assert all(0 < real <= bound for real, bound in found.values()), found
    prompts = [f"step {batch} 0 {new} {pads}" for batch, new, pads in PROMPTS]
    assert all(bound <= 4 * real for real, bound in map(found.get, prompts)), found


def test_so_it_is_of_the_real_model_whose_whole_context_fits():
    model, _ = lk.load("smollm2")
    body = body_of(model, SplitPlan(2, 2))
    found = measured(body, PROMPTS[:1], ((1, 64, 1, False),))
    assert all(0 < real <= bound for real, bound in found.values()), found
    assert found["step 1 0 64 False"][1] <= 4 * found["step 1 0 64 False"][0]
    longest = model.config.max_position_embeddings
    assert working(body.base, body.info, 1, longest, masked=True) <= MAX_WORK
