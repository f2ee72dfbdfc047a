"""One host, many clients: shared memory, a fair and bounded queue, next tokens computed together."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from functools import cache

import pytest
import torch
from transformers import AutoModelForCausalLM, FalconConfig, GPTBigCodeConfig
from transformers.cache_utils import DynamicCache, DynamicLayer

import lsplit_kit as lk
from lsplit_kit import errors
from lsplit_kit.models.partial import Held
from lsplit_kit.models.toys import TOYS
from lsplit_kit.quantization import codec
from lsplit_kit.remote import turns as turns_module
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.remote.server import StrictServer
from lsplit_kit.remote.service import service_of
from lsplit_kit.remote.sharing import Sharing
from lsplit_kit.remote.turns import Habit, Turns
from lsplit_kit.split import session as session_module
from lsplit_kit.split.blocks import BLOCK, BlockLayer, growing_cache, held_bytes
from lsplit_kit.split.body import body_of
from lsplit_kit.split.needs import each
from lsplit_kit.split.plan import SplitPlan
from lsplit_kit.split.pool import Pool
from lsplit_kit.split.session import Body
from lsplit_kit.split.together import Joint, forward, joinable, run
from lsplit_kit.split.whole import whole_text
from lsplit_kit.wire.message import Open, Step, WholeStep, ints_to_wire

TOKEN, TERMS, WIDTH = b"t" * 32, Open("kv", "fp32", "fp32"), 64
SMALL = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8}
TOGETHER = ("toy-llama", "toy-gpt2", "toy-mistral", "toy-gemma3", "toy-mixtral", "toy-granite", "toy-smollm3")
ALONE = ("toy-gemma2", "toy-bloom", "toy-gptj", "toy-falcon")


@cache
def model(name="toy-llama"):
    return lk.load(name)[0]


def base_of(name):
    return body_of(model(name), SplitPlan(1, 1)).base


def vectors(count, seed=0, width=None):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1, count, width or model().config.hidden_size, generator=draw)


def step_of(hidden, start=0, number=0):
    return Step(number, start, 1, hidden.shape[1], hidden.numpy().tobytes())


def tensor(payload):
    return torch.frombuffer(bytearray(payload), dtype=torch.float32)


# -- a cache that grows in blocks -------------------------------------------------------------------


def test_a_growing_cache_holds_what_the_librarys_holds():
    """Appending over several blocks, taking back, going on, and re-ordering rows, to the bit."""
    config = model().config
    usual, growing = DynamicCache(config=config), growing_cache(config)
    draw = torch.Generator().manual_seed(0)
    for count, then in ((BLOCK - 1, None), (1, None), (1, "crop"), (5, "rows"), (BLOCK, None), (1, None)):
        new = [torch.randn(2, 4, count, 8, generator=draw) for _ in range(2)]
        for layer in range(2):
            for a, b in zip(usual.update(*new, layer), growing.update(*new, layer), strict=True):
                assert torch.equal(a, b)
        for held in (usual, growing):
            if then == "crop":
                held.crop(-7)
            elif then == "rows":
                held.reorder_cache(torch.tensor([1, 1]))


def test_a_new_position_is_written_behind_the_others():
    held = growing_cache(model().config)
    assert {type(layer) for layer in held.layers} == {BlockLayer}
    held.update(*torch.zeros(2, 1, 4, 3, 8), 0)
    before, size = held.layers[0].keys.data_ptr(), held_bytes(held)
    held.update(*torch.ones(2, 1, 4, BLOCK - 3, 8), 0)
    assert held.layers[0].keys.data_ptr() == before and held_bytes(held) == size == 2 * 4 * BLOCK * 8 * 4
    held.update(*torch.ones(2, 1, 4, 1, 8), 0)
    assert held_bytes(held) == 2 * size


def test_layers_that_keep_a_window_stay_the_librarys():
    kinds = {type(layer) for layer in growing_cache(model("toy-gemma3").config).layers}
    assert BlockLayer in kinds and DynamicLayer not in kinds and len(kinds) == 2


# -- next tokens of several sessions ----------------------------------------------------------------


@pytest.mark.parametrize("name", TOGETHER)
def test_next_positions_computed_together_are_those_computed_alone(name):
    """Five texts of unlike length, three tokens on, some beyond a sliding window."""
    base = base_of(name)
    assert joinable(base)
    width = model(name).config.hidden_size
    with torch.inference_mode():
        alone, joint = ([growing_cache(base.config) for _ in range(5)] for _ in range(2))
        for caches in (alone, joint):
            for i, held in enumerate(caches):
                run(base, vectors(1 + 13 * i, i, width), held)
        for t in range(3):
            new = [vectors(1, 100 * t + i, width) for i in range(5)]
            expected = [run(base, v, c) for v, c in zip(new, alone, strict=True)]
            found = forward([Joint(base, v, c) for v, c in zip(new, joint, strict=True)])
            for a, b in zip(found, expected, strict=True):
                assert (a - b).abs().max() <= 1e-4 * max(1, b.abs().max())


@pytest.mark.parametrize("name", ALONE)
def test_a_family_whose_attention_takes_no_rows_is_found_out(name):
    base = base_of(name)
    usual = base.config._attn_implementation
    assert not joinable(base) and base.config._attn_implementation == usual


def test_most_families_can_be_computed_together():
    assert sum(joinable(base_of(name)) for name in TOYS) >= 19


# -- the queue --------------------------------------------------------------------------------------


class Gate:
    """Work whose parts run when the test says so, noting the order."""

    def __init__(self, pool=None, **turns):
        self.turns, self.order, self.errors = Turns(pool or Pool(), **turns), [], []
        self.inside, self.let = threading.Event(), threading.Event()
        self.threads = []

    def work(self, name, parts=1, fails=None, hold=False):
        for part in range(parts):
            if hold:
                self.inside.set()
                assert self.let.wait(10)
            self.order.append(name)
            if part + 1 < parts:
                yield None
        if fails:
            raise fails
        return name.encode()

    def start(self, owner, name, joins=None, **how):
        def call():
            try:
                assert self.turns.run(owner, self.work(name, **how), joins)[0] == name.encode()
            except errors.LsplitError as err:
                self.errors.append(err)

        waiting = sum(self.turns.queued().values())
        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        self.threads.append(thread)
        if how.get("hold"):
            assert self.inside.wait(10)
            return
        end = time.monotonic() + 10
        while sum(self.turns.queued().values()) == waiting and thread.is_alive() and time.monotonic() < end:
            time.sleep(0.001)

    def finish(self):
        self.let.set()
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()
        assert not self.turns.queued()


def test_clients_take_turns_however_much_each_of_them_asks():
    gate = Gate()
    gate.start("a", "a0", hold=True)
    for name in ("a1", "a2", "a3", "b1", "b2", "c1"):
        gate.start(name[0], name)
    gate.finish()
    assert gate.order == ["a0", "a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_long_step_lets_others_in_between_its_parts():
    gate = Gate()
    gate.start("a", "held", hold=True)
    gate.start("b", "long", parts=3)
    gate.start("c", "short")
    gate.start("d", "other")
    gate.finish()
    assert gate.order == ["held", "long", "short", "other", "long", "long"]


def test_a_full_queue_says_when_to_come_again():
    gate = Gate(waiting=3, each=2)
    gate.start("a", "a0", hold=True)
    for name in ("b1", "b2", "b3", "c1", "d1"):
        gate.start(name[0], name)
    gate.finish()
    assert gate.order == ["a0", "b1", "c1", "b2"] and gate.turns.refused == 2
    assert [e.position for e in gate.errors] == [3, 4]
    assert all(0 < e.retry_after <= 60 for e in gate.errors)
    assert "2 steps of yours wait" in str(gate.errors[0]) and "3 steps wait" in str(gate.errors[1])


def test_what_one_step_raises_is_its_own():
    gate = Gate()
    gate.start("a", "a0", hold=True)
    gate.start("b", "b1", fails=errors.CacheMiss("gone", have=2))
    gate.start("c", "c1")
    gate.finish()
    assert gate.order == ["a0", "b1", "c1"] and [e.have for e in gate.errors] == [2]


def test_a_step_that_memory_refuses_is_counted_as_one_that_the_queue_refuses():
    gate = Gate()
    gate.start("a", "a0", hold=True)
    gate.start("b", "b1", fails=errors.Busy("no memory"))
    gate.finish()
    assert gate.turns.refused == len(gate.errors) == 1


def bodies(count, **pool):
    """A body for each of several connections, each with a session of its own length, and the step that comes next."""
    first = Body(base_of("toy-llama"), body_of(model(), SplitPlan(1, 1)).info, Pool(gather=True, **pool))
    found = []
    for i in range(count):
        body = first.fork()
        number = body.open(TERMS)
        body.step(number, step_of(vectors(3 + i, i)))
        found.append((body, number, step_of(vectors(1, 50 + i), start=3 + i, number=1)))
    return first.pool, found


def test_next_tokens_that_wait_are_computed_together():
    pool, asked = bodies(4)
    _, again = bodies(4)
    expected = [tensor(body.step(number, step)) for body, number, step in again]
    gate, answers = Gate(pool, window=0.0), {}
    gate.start("z", "held", hold=True)

    def call(i):
        body, number, step = asked[i]
        answers[i] = gate.turns.run(f"c{i}", body.work(number, step), body.joins(number, step))[0]

    threads = [threading.Thread(target=call, args=(i,), daemon=True) for i in range(4)]
    for thread in threads:
        thread.start()
    while sum(gate.turns.queued().values()) < 4:
        time.sleep(0.001)
    gate.threads += threads
    gate.finish()
    assert list(gate.turns.rows) == [1, 4]
    for i, right in enumerate(expected):
        torch.testing.assert_close(tensor(answers[i]), right, rtol=1e-4, atol=1e-4)


def joining(gate, names, joins):
    """Steps that can be computed together, in the queue; a name's letter is its owner."""
    gate.start("z", "held", hold=True)
    for name in names.split():
        gate.start(name[0], name, joins)
    gate.finish()


def test_all_sessions_of_one_owner_are_computed_together():
    gate = Gate(window=0.0)
    joining(gate, "a1 a2 a3 b1", object())
    assert list(gate.turns.rows) == [1, 4] and sorted(gate.order[1:]) == ["a1", "a2", "a3", "b1"]


def test_where_not_all_fit_everybodys_first_comes_before_anybodys_second(monkeypatch):
    monkeypatch.setattr(turns_module, "MOST", 4)
    gate = Gate(window=0.0)
    joining(gate, "a1 a2 a3 a4 a5 b1 c1", object())
    assert list(gate.turns.rows) == [1, 4, 3] and sorted(gate.order[1:5]) == ["a1", "a2", "b1", "c1"]


def test_a_long_step_of_ones_own_keeps_nobody_of_ones_sessions_waiting():
    gate, joins = Gate(window=0.0), object()
    gate.start("z", "held", hold=True)
    gate.start("a", "long", parts=3)
    for name in ("a1", "b1"):
        gate.start(name[0], name, joins)
    gate.finish()
    assert gate.order == ["held", "long", "b1", "a1", "long", "long"] and list(gate.turns.rows) == [1, 1, 2, 1, 1]


def one_after_another(turns, owners, enough):
    """Every owner asks for a next token as soon as it has the last one, until there are enough."""
    gate, joins, ended = Gate(), object(), []

    def call(owner):
        while not enough(list(turns.rows)):
            turns.run(owner, gate.work(owner), joins)
        ended.append(owner)

    threads = [threading.Thread(target=call, args=(owner,), daemon=True) for owner in owners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(ended) == owners


def test_a_next_token_waits_for_those_who_were_as_quick_before():
    one_after_another(Turns(Pool(gather=True), window=0.2), ["a", "b", "c"], lambda rows: 3 in rows)


def test_two_clients_do_not_wait_for_each_other():
    one_after_another(Turns(Pool(gather=True), window=60.0), ["a", "b"], lambda rows: len(rows) > 40)


def test_nobody_is_waited_for_who_cannot_join():
    """Of four who ask one after the other, two of each kind are too few; and none waits while another could go."""
    turns, kinds, done = Turns(Pool(gather=True), window=60.0), {name: object() for name in "ab"}, []

    def call(owner):
        for _ in range(10):
            turns.run(owner, Gate().work(owner), kinds[owner[0]])
        done.append(owner)

    threads = [threading.Thread(target=call, args=(owner,), daemon=True) for owner in ("a1", "a2", "b1", "b2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(done) == ["a1", "a2", "b1", "b2"]


@pytest.mark.parametrize(
    ("pause", "comes"), [(1.0, False), (2.5, True), (4.0, True), (4.5, False)], ids=["away", "late", "soon", "slow"]
)
def test_who_is_expected(pause, comes):
    habit = Habit(came=9.0, answered=10.0, pause=pause)
    assert habit.comes(12.0, 14.0) is comes
    assert not Habit(came=11.0, answered=10.0, pause=pause).comes(12.0, 14.0)  # it has come, and waits


def test_a_joint_computation_that_fails_leaves_nothing_half_written():
    _, ((body, number, step),) = bodies(1)
    work = body.work(number, step)
    next(work)
    with pytest.raises(errors.CacheMiss) as failed:  # which keeps the frames of the error alive
        work.throw(errors.CacheMiss("lost"))
    assert failed.traceback and body.sessions[number].cache is None and body.pool.bytes == 0
    with pytest.raises(errors.CacheMiss):
        body.step(number, step)


@pytest.mark.parametrize("what", ["prompt", "rows", "hidden", "off"])
def test_other_steps_are_computed_alone(what):
    first = Body(base_of("toy-llama"), body_of(model(), SplitPlan(1, 1)).info, Pool(gather=what != "off"))
    number = first.open(Open("hidden" if what == "hidden" else "kv", "fp32", "fp32"))
    rows = 2 if what == "rows" else 1
    start = vectors(4).expand(rows, -1, -1).contiguous()
    first.step(number, Step(0, 0, rows, 4, start.numpy().tobytes()))
    new = vectors(2 if what == "prompt" else 1, 1).expand(rows, -1, -1).contiguous()
    assert first.joins(number, Step(1, 4, rows, new.shape[1], new.numpy().tobytes())) is None


@pytest.mark.parametrize(
    ("name", "gather", "joins"), [("toy-llama", False, False), ("toy-llama", True, True), ("toy-falcon", True, False)]
)
def test_a_new_connection_waits_for_no_computation(name, gather, joins):
    """Neither for one under way, nor for one of its own, whichever layers it asks for."""
    held = Held(model(name), SplitPlan(1, 1))
    held.pool = Pool(gather=gather)
    service_of(held)
    start, stop = held.info.holds
    with held.pool.computing:
        found = []
        asking = threading.Thread(
            target=lambda: found.extend((held.fork(), held.sub(start + 1, stop), held.sub(start, stop - 1))),
            daemon=True,
        )
        asking.start()
        asking.join(10)
        assert len(found) == 3, "a new connection waits for the computation under way"
    for body in found:
        number = body.open(TERMS)
        body.step(number, step_of(vectors(4)))
        assert (body.joins(number, step_of(vectors(1), start=4, number=1)) is body.base) == joins


@pytest.mark.parametrize("policy", ["kv", "hidden", "none"])
@pytest.mark.parametrize("name", TOYS)
def test_a_long_step_in_pieces_gives_what_it_gives_at_once(name, policy):
    """Whatever is remembered, others come in between; and where a rollback, or none, takes all from the beginning."""
    info, answers = body_of(model(name), SplitPlan(1, 1)).info, {}
    for piece in (0, 16):
        first = Body(base_of(name), info, Pool(piece=piece))
        others = [first.fork() for _ in range(2)]
        numbers = [body.open(Open(policy, "fp32", "fp32")) for body in others]
        for turn, (start, stop) in enumerate(((0, 40), (0 if policy == "none" else 40, 60))):
            step = step_of(vectors(60, width=info.width)[:, start:stop].contiguous(), start, turn)
            work, between = others[0].work(numbers[0], step), 0
            try:
                while True:
                    next(work)
                    between += 1
            except StopIteration as done:
                answers.setdefault((start, stop), []).append(tensor(done.value))
            computed = stop - (0 if policy != "kv" else start)
            assert between == (-(-computed // piece) - 1 if piece else 0)
        assert first.pool.bytes == others[0].sessions[numbers[0]].size()
    for once, pieces in answers.values():
        torch.testing.assert_close(pieces, once, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("limit", "quota", "between"), [(300_000, None, 0), (1 << 30, 300_000, 0), (1 << 30, None, 3)])
def test_keys_that_are_thrown_away_make_nobody_forget(limit, quota, between):
    """Where no memory is left for them, a step without a cache is computed at once."""
    first = Body(base_of("toy-llama"), body_of(model(), SplitPlan(1, 1)).info, Pool(limit, quota, piece=16))
    for seed in range(3):
        body = first.fork()
        number = body.open(TERMS)
        body.step(number, step_of(vectors(40, seed)))
    body = first.fork()
    number = body.open(Open("none", "fp32", "fp32"))
    assert sum(1 for _ in body.work(number, step_of(vectors(64)))) == between
    assert first.pool.evictions == 0


def anew(first, policy="none", count=64):
    """A step that computes all anew, under way in pieces: (body, its session, its work, its step)."""
    body = first.fork()
    number, step = body.open(Open(policy, "fp32", "fp32")), step_of(vectors(count, 5))
    work = body.work(number, step)
    next(work)
    return body, number, work, step


def finished(work):
    try:
        while True:
            next(work)
    except StopIteration as done:
        return tensor(done.value)


@pytest.mark.parametrize("policy", ["none", "hidden"])
def test_spare_memory_is_taken_back_before_anybody_has_to_wait(policy, monkeypatch):
    """And the step that had it gives what it would have given; the keys that were in it are gone at once."""
    made, caches = session_module.growing_cache, []

    def growing(config):
        found = made(config)
        caches.append(weakref.ref(found))
        return found

    monkeypatch.setattr(session_module, "growing_cache", growing)
    first = crowd(limit=1_300_000)
    _, _, work, step = anew(first, policy)
    spare, lent = caches[-1], first.pool.lent
    assert lent and spare().get_seq_length() == 16
    *_, big = begun(first, 4, 200)
    next(big)
    assert first.pool.bytes + lent > first.pool.limit >= first.pool.bytes and not first.pool.lent and spare() is None
    alone = Body(first.base, first.info)
    wanted = tensor(alone.step(alone.open(Open(policy, "fp32", "fp32")), step))
    torch.testing.assert_close(finished(work), wanted, rtol=1e-4, atol=1e-4)
    finished(big)
    assert first.pool.evictions == 0


def test_spare_memory_is_taken_back_before_anybody_forgets():
    size = one_session()
    first = crowd(limit=8 * size)
    body, number = filled(first.pool, "a", 0)
    *_, work, _ = anew(first)
    lent = first.pool.lent
    big = begun(first, 3, 100)
    next(big[2])
    assert lent and first.pool.lent == 0 and first.pool.evictions == 0 and body.sessions[number].have == 40
    finished(work), finished(big[2])


def test_spare_memory_is_an_owners_too_and_comes_back_at_a_steps_end():
    first = crowd(quota=1_500_000)
    mine, work = begun(first, 4, owner="a"), anew(first)[2]
    lent = first.pool.lent
    assert lent and first.pool.bytes < 40_000
    next(mine[2])
    assert first.pool.lent == lent  # somebody else's quota is no reason
    work.close()
    assert first.pool.lent == 0


# -- memory -----------------------------------------------------------------------------------------


def filled(pool, owner, seed, count=40):
    body = Body(base_of("toy-llama"), body_of(model(), SplitPlan(1, 1)).info, pool)
    body.owner = owner
    number = body.open(TERMS)
    body.step(number, step_of(vectors(count, seed)))
    return body, number


def one_session():
    pool = Pool()
    filled(pool, "x", 0)
    return pool.bytes


def test_the_longest_idle_is_forgotten_and_says_so():
    size = one_session()
    pool = Pool(limit=int(2.5 * size))
    (a, first), (b, second) = filled(pool, "a", 0), filled(pool, "b", 1)
    a.step(first, step_of(vectors(1), start=40, number=1))  # now b is the longest idle
    filled(pool, "c", 2)
    assert pool.bytes <= pool.limit and pool.evictions == 1
    with pytest.raises(errors.CacheMiss) as missed:
        b.step(second, step_of(vectors(1), start=40, number=1))
    assert missed.value.have == 0
    a.step(first, step_of(vectors(1), start=41, number=2))


def test_a_quota_takes_from_its_owner_only():
    size = one_session()
    pool = Pool(quota=int(1.5 * size))
    (a, first), (b, second), (c, third) = (filled(pool, owner, i) for i, owner in enumerate("bab"))
    del a, first
    b.step(second, step_of(vectors(1), start=40, number=1))
    c.step(third, step_of(vectors(1), start=40, number=1))
    assert pool.evictions == 1 and [(o, s > 0) for o, _, s, _ in pool.held()] == [
        ("b", False),
        ("a", True),
        ("b", True),
    ]


def test_a_session_over_the_limit_by_itself_is_refused_before_it_computes():
    pool = Pool(limit=2 * one_session())
    body, number = filled(pool, "a", 0)
    with pytest.raises(errors.LimitExceeded, match="remembers at most"):
        body.step(number, step_of(vectors(300, 1), start=40, number=1))
    body.step(number, step_of(vectors(1, 1), start=40, number=2))


@pytest.mark.parametrize("policy", ["kv", "hidden", "none"])
@pytest.mark.parametrize("name", TOYS)
def test_a_session_that_is_let_in_is_not_forgotten_for_its_own_size(name, policy):
    """Whatever the limit, each step is refused beforehand or remembered, over the border of a block, too."""
    info, refused = body_of(model(name), SplitPlan(1, 1)).info, []

    def talk(limit):
        body = Body(base_of(name), info, Pool(limit=limit))
        number, have = body.open(Open(policy, "fp32", "fp32")), 0
        for turn, count in enumerate((BLOCK - 1, 1, 1)):
            start = 0 if policy == "none" else have
            hidden = vectors(have + count - start, turn, info.width)
            step = Step(turn, start, 1, hidden.shape[1], hidden.numpy().tobytes(), keep=1)
            try:
                body.step(number, step)
            except errors.LimitExceeded:
                refused.append(limit)
                break
            have += count
            assert body.sessions[number].have == (0 if policy == "none" else have) and body.pool.evictions == 0
        return body.pool.bytes

    size = talk(1 << 30)
    for limit in (size // 2, size - 1, size, 5 * size // 4, 8 * size):
        assert talk(limit) <= limit
    assert refused[:2] == [size // 2, size - 1] and 8 * size not in refused
    assert size not in refused or name != "toy-llama"


def test_what_is_idle_for_too_long_is_forgotten():
    pool = Pool(idle=0.05)
    filled(pool, "a", 0)
    pool.sweep()
    assert pool.evictions == 0
    time.sleep(0.06)
    pool.sweep()
    assert pool.evictions == 1 and pool.bytes == 0


def numbers_of(base, width):
    """Numbers that each of four positions really adds to keys and values."""
    held = growing_cache(base.config)
    with torch.inference_mode():
        run(base, vectors(4, width=width), held)
    return sum(t.numel() for layer in held.layers for t in (layer.keys, layer.values)) / 4


@pytest.mark.parametrize("name", TOYS)
def test_what_a_text_will_keep_is_known_before_it_is_decoded(name):
    """Never less than what its keys and values take, room to grow apart, and no more than four times that."""
    base, width = base_of(name), model(name).config.hidden_size
    assert numbers_of(base, width) <= each(base) <= 4 * numbers_of(base, width)


@pytest.mark.parametrize(
    ("config", "heads"),
    [(FalconConfig(**SMALL), 1), (FalconConfig(**SMALL, multi_query=False), 8),
     (FalconConfig(**SMALL, new_decoder_architecture=True, num_kv_heads=2), 8),
     (GPTBigCodeConfig(vocab_size=64, n_embd=64, n_layer=4, n_head=8, n_positions=64), 1)],
    ids=["falcon, one head of keys", "falcon, all heads", "falcon, new", "bigcode"],
)  # fmt: skip
def test_heads_that_share_their_keys_are_counted_once(config, heads):
    base = body_of(AutoModelForCausalLM.from_config(config).eval(), SplitPlan(1, 1)).base
    assert each(base) == numbers_of(base, 64) == 2 * 2 * heads * 8


def begun(first, rows, count=200, owner=""):
    """A prompt in pieces under way on a connection of its own: (body, its session, the work)."""
    body = first.fork()
    body.owner = owner
    number = body.open(TERMS)
    draw = torch.Generator().manual_seed(rows)
    return (
        body,
        number,
        body.work(number, Step(0, 0, rows, count, torch.randn(rows, count, WIDTH, generator=draw).numpy().tobytes())),
    )


def crowd(**pool):
    """The body of a host where two connections have sessions, so that prompts are computed in pieces."""
    first = Body(base_of("toy-llama"), body_of(model(), SplitPlan(1, 1)).info, Pool(piece=16, **pool))
    first.others = [first.fork() for _ in range(2)]
    for body in first.others:
        body.open(TERMS)
    return first


def held_of(asked):
    return sum(body.sessions[number].size() for body, number, _ in asked)


def test_the_limit_holds_while_prompts_are_under_way():
    """Twenty big prompts in pieces at once: memory never holds more than it counts, nor counts more than its limit."""
    first, asked, going, refused = crowd(limit=3_000_000), [], [], []
    for _ in range(20):
        one = begun(first, rows=4)
        asked.append(one)
        try:
            next(one[2])
            going.append(one)
        except errors.Busy as busy:
            refused.append(busy)
        assert held_of(asked) <= first.pool.bytes <= first.pool.limit
    assert going and refused and all(0 < busy.retry_after <= 5 for busy in refused)
    assert first.pool.bytes > first.pool.limit / 2  # what is refused would not fit indeed
    for body, number, work in going:
        while body.sessions[number].have == 0:
            with contextlib.suppress(StopIteration):
                next(work)
            assert held_of(asked) <= first.pool.bytes <= first.pool.limit
    body, number, _ = asked[-1]  # refused before: now there is what can be forgotten
    body.step(number, Step(0, 0, 4, 200, bytes(4 * 4 * 200 * WIDTH)))
    assert first.pool.evictions == 1 and first.pool.bytes <= first.pool.limit


def test_a_quota_holds_while_prompts_are_under_way():
    first = crowd(quota=1_500_000)
    mine, more, yours = (begun(first, 4, owner=owner) for owner in ("a", "a", "b"))
    next(mine[2])
    with pytest.raises(errors.Busy):
        next(more[2])
    next(yours[2])
    mine[2].close()
    assert first.pool.bytes == max(size for *_, size, _ in first.pool.held()) > 1_000_000


def test_room_is_made_when_a_step_begins_and_only_for_one_that_can_have_it():
    """Idle sessions give way at once, the longest idle first; where they are not enough, none gives way."""
    size = one_session()
    first = crowd(limit=8 * size)
    (a, _), (b, second) = filled(first.pool, "a", 0), filled(first.pool, "b", 1)
    big = begun(first, 3, 100)  # room for 3 x 128 positions, and the answer
    next(big[2])
    assert first.pool.evictions == 1 and a.sessions[1].have == 0 and b.sessions[second].have == 40
    with pytest.raises(errors.Busy):
        next(begun(first, 2, 100)[2])
    assert first.pool.evictions == 1 and b.sessions[second].have == 40


def test_one_client_alone_has_room_for_all_that_its_limit_takes():
    """Its own earlier texts give way, and what it counts of its own is not counted twice."""
    size = one_session()
    body, number = filled(Pool(limit=size), "a", 0)
    for seed in range(3):
        body.step(body.open(TERMS), step_of(vectors(40, seed)))
    body.step(number, step_of(vectors(40), number=1))
    for start in range(40, 50):
        body.step(number, step_of(vectors(1), start=start, number=start))
    assert body.sessions[number].have == 50 and body.pool.bytes <= size


def test_a_whole_models_reply_has_its_room_before_it_begins():
    """An older one ends for the next; one too long for the limit is refused, and no token of it computed."""
    body, terms = whole_text(model()), Open("token", "fp32", "fp32")
    prompt = WholeStep(0, b'{"max_new_tokens": 20}', ints_to_wire([5, 6, 7, 8]))
    body.step(body.open(terms), prompt)
    body.pool, size = Pool(limit=body.pool.bytes), body.pool.bytes
    first, second = body.open(terms), body.open(terms)
    body.step(first, prompt)
    assert body.step(second, prompt) and body.pool.bytes == size and first not in body.sessions
    body.pool = Pool(limit=size - 1)
    third = body.open(terms)
    with pytest.raises(errors.LimitExceeded, match="remembers at most"):
        body.step(third, prompt)
    assert body.sessions[third].turn is None and body.pool.evictions == 0
    for session in body.sessions.values():  # their threads would outlive the test
        session.end()


def test_a_step_that_fails_gives_back_what_was_counted_for_it():
    first = crowd()
    for stop in (lambda work: work.close(), lambda work: work.throw(errors.CacheMiss("lost"))):
        body, number, work = begun(first, 2)
        next(work)
        assert first.pool.bytes > 400_000
        with contextlib.suppress(errors.CacheMiss):
            stop(work)
        assert first.pool.bytes == 0
    body, number, work = begun(first, 2)
    body.sessions[number].up = codec("int8:token")  # whose payload is shorter
    with pytest.raises(errors.CodecError):
        next(work)
    assert first.pool.bytes == 0


def test_sessions_that_end_are_counted_no_more():
    pool = Pool()
    body, number = filled(pool, "a", 0)
    filled(pool, "b", 1)[0].close()
    body.close_session(number)
    assert pool.bytes == 0 and pool.held() == []


def test_the_newest_sessions_of_a_connection_stay():
    body = Body(base_of("toy-llama"), body_of(model(), SplitPlan(1, 1)).info)
    numbers = [body.open(TERMS) for _ in range(65)]
    with pytest.raises(errors.SessionUnknown):
        body.step(numbers[0], step_of(vectors(2)))
    body.step(numbers[1], step_of(vectors(2)))


def test_a_step_repeated_after_its_session_was_forgotten_is_a_miss():
    pool = Pool()
    body, number = filled(pool, "a", 0)
    step = step_of(vectors(1), start=40, number=1)
    assert body.step(number, step) == body.step(number, step)
    body.sessions[number].forget()
    with pytest.raises(errors.CacheMiss):
        body.step(number, step)


# -- over the wire ----------------------------------------------------------------------------------


class Class:
    """A host in a thread, over real sockets."""

    def __init__(self, sharing, max_clients=8):
        self.body = Held(model(), SplitPlan(1, 1))
        self.body.pool = sharing.check().pool()
        self.turns = sharing.turns(self.body.pool)
        self.server = StrictServer(service_of(self.body, self.turns), TOKEN, max_clients=max_clients)
        self.server.listener.listen(32)
        self.thread = threading.Thread(target=self.server.start, daemon=True)
        self.thread.start()

    def link(self, timeout=30.0):
        return RpycLink(self.server.address, timeout, token=TOKEN)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.server.close()
        self.thread.join(5)


def tokens(lm, seed, count=12):
    ids = torch.randint(3, 200, (1, 9 + seed), generator=torch.Generator().manual_seed(seed))
    return lm.generate(ids, max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=[])[0].tolist()


@pytest.mark.parametrize(
    "sharing",
    [
        Sharing(),
        Sharing(batch_window_ms=2.0),
        Sharing(memory_mb=0.1),
        Sharing(batch_window_ms=0.0, prefill_piece=4),
        Sharing(memory_mb=0.1, prefill_piece=4),
    ],
    ids=["usual", "together", "little memory", "together in pieces", "little memory in pieces"],
)
@pytest.mark.filterwarnings("ignore:The host is busy")
def test_every_client_gets_the_unsplit_models_tokens(sharing):
    expected = {seed: tokens(model(), seed) for seed in range(5)}
    found = {}
    with Class(sharing) as host:

        def study(seed):
            with host.link() as link:
                found[seed] = tokens(lk.split(model(), head=1, tail=1, body=link), seed)

        threads = [threading.Thread(target=study, args=(seed,)) for seed in expected]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        pool = host.body.pool
        assert found == expected and pool.bytes <= pool.limit
        assert (pool.evictions > 0) == (sharing.memory_mb == 0.1)


@pytest.mark.parametrize("policy", ["hidden", "none"])
def test_without_keys_and_values_tokens_are_the_unsplit_models_too(policy):
    """Clients that have all computed anew at every token, in pieces, beside each other."""
    expected, found = {seed: tokens(model(), seed) for seed in range(3)}, {}
    with Class(Sharing(prefill_piece=4)) as host:

        def study(seed):
            with host.link() as link:
                lm = lk.split(model(), head=1, tail=1, body=link, cache=policy)
                found[seed] = tokens(lm, seed)
                ids = torch.tensor([found[seed]])
                assert (lm(ids).logits - model()(ids).logits).abs().max() <= 2e-4
                done.append(seed)

        done = []
        threads = [threading.Thread(target=study, args=(seed,)) for seed in expected]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == expected and sorted(done) == sorted(expected)


def test_sessions_end_with_their_connection():
    with Class(Sharing()) as host:
        with host.link() as link:
            tokens(lk.split(model(), head=1, tail=1, body=link), 0, 2)
            assert len(host.body.pool.held()) == 1
        end = time.monotonic() + 5
        while host.body.pool.held() and time.monotonic() < end:
            time.sleep(0.01)
        assert host.body.pool.held() == [] and host.body.pool.bytes == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [("memory_mb", 0), ("quota_mb", -1), ("queue", 0), ("queue_each", 1.5), ("prefill_piece", -1), ("queue", True),
     ("batch_window_ms", "soon"), ("batch_window_ms", 1001), ("forget_after", float("nan"))],
)  # fmt: skip
def test_a_setting_that_makes_no_sense_is_refused_with_its_name(option, value):
    with pytest.raises(errors.UnsupportedOption, match=f"{option} takes a"):
        lk.host("toy-llama", 1, 1, **{option: value})


def test_an_unknown_setting_is_refused():
    with pytest.raises(errors.UnsupportedOption, match="no option 'batch'"):
        lk.host("toy-llama", 1, 1, batch=True)
