"""The three alarms on the real model: what an attack reads where nothing, all, and ever less is to be read."""

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.attacks import Knowledge, PriorOnly, PrototypeLDA, record, report
from lsplit_kit.data import prompts, topics
from lsplit_kit.measure import depth_zero, monotone, shuffled_wire
from lsplit_kit.measure.inversion import leak_of
from lsplit_kit.split.graft import head_side

torch.set_num_threads(1)


class Site:
    """A head of `depth` layers, and a defence that vectors [B, T, d] pass together: on the wire and for attackers."""

    def __init__(self, model, tok, depth, defence):
        self.defence = defence
        clean = record(lk.split(model, head=depth, tail=1), [p.text for p in prompts(count=10)], longest=24, chat=False)
        self.capture = lk.Capture(clean.manifest, self.sent(clean), sealed=clean.sealed)
        head = head_side(model, depth)
        self.know = Knowledge(tokenizer=tok, text=[text for _, text in topics("all")[::12]],
                              queries=lambda ids: defence(head(ids, use_cache=False).last_hidden_state))  # fmt: skip

    def sent(self, clean):
        tensors = iter(self.defence(torch.cat(clean.tensors("up"), dim=1))[0])
        return tuple(
            c._replace(data=torch.stack([next(tensors) for _ in range(c.shape[1])]).numpy().tobytes())
            if c.direction == "up" and c.name == "hidden" else c for c in clean.crossings
        )  # fmt: skip

    def read(self):
        view = self.capture.view("eavesdrop_up")
        reports = [
            report(attack.fit(view, self.know).reconstruct(view), self.capture)
            for attack in (PriorOnly(), PrototypeLDA(contexts=1))
        ]
        return leak_of(reports[1], reports[0]), reports[1].counted


@pytest.fixture(scope="module")
def smollm2():
    return lk.load("smollm2")


def test_a_wire_whose_vectors_are_shuffled_says_nothing(smollm2):
    draw = torch.Generator().manual_seed(0)

    def shuffled(vectors):
        flat = vectors.flatten(0, 1)
        return flat[torch.randperm(len(flat), generator=draw)].view_as(vectors)

    leak, _ = Site(*smollm2, 0, shuffled).read()
    assert shuffled_wire(leak), leak


def test_with_no_layer_before_the_cut_all_is_read_and_noise_only_takes_away(smollm2):
    beliefs = {}
    for sigma in (0.0, 2.0):
        draw = torch.Generator().manual_seed(1)

        def noisy(vectors, sigma=sigma, draw=draw):
            loud = vectors.square().mean().sqrt()
            return vectors + sigma * loud * torch.randn(vectors.shape, generator=draw)

        leak, rows = Site(*smollm2, 0, noisy).read()
        beliefs[sigma] = rows.log_prob.to_numpy()
        if not sigma:
            assert depth_zero(leak), leak
    assert monotone(beliefs, rows.conversation.to_numpy())
    assert beliefs[2.0].mean() < beliefs[0.0].mean() - 0.1  # there was noise


def test_queries_are_counted_and_need_no_weights(smollm2):
    site = Site(*smollm2, 0, lambda vectors: vectors)
    view = site.capture.view("eavesdrop_up")
    attack = PrototypeLDA(contexts=1).fit(view, site.know)
    assert attack.cost_.queries > 49_152 and site.know.model is None
    with pytest.raises(lk.LsplitError, match="head weights or queries"):
        PrototypeLDA().fit(view, site.know.but(queries=None))
