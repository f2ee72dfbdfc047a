"""Attacks on the real model, and the bits that their beliefs hold."""

import numpy as np
import pandas as pd
import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.attacks import (
    Cost,
    Knowledge,
    NearestEmbedding,
    PriorOnly,
    PrototypeLDA,
    Report,
    Ridge,
    VocabMatch,
    record,
    report,
)
from lsplit_kit.data import prompts, topics
from lsplit_kit.errors import CaptureError, UnsupportedOption
from lsplit_kit.measure.inversion import ladder, language_prior, leak_of

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def smollm2():
    return lk.load("smollm2")


@pytest.fixture(scope="module")
def know(smollm2):
    return Knowledge(*smollm2, text=[text for _, text in topics("all")[::6]])


@pytest.fixture(scope="module")
def capture(smollm2):
    lm = lk.split(smollm2[0], head=1, tail=1)
    return record(lm, [p.text for p in prompts(count=6)], longest=16)


@pytest.fixture(scope="module")
def reports(capture, know):
    view = capture.view("eavesdrop_up")
    attacks = (PriorOnly(), NearestEmbedding(), Ridge(), PrototypeLDA(contexts=1), VocabMatch())
    return {type(a).__name__: report(a.fit(view, know).reconstruct(view), capture) for a in attacks}


def test_one_layer_hides_nothing_from_the_ladder(reports):
    found = {name: said.accuracy() for name, said in reports.items()}
    assert found["PriorOnly"] < 0.1 and found["NearestEmbedding"] < 0.2
    assert found["Ridge"] > 0.8 and found["PrototypeLDA"] >= 0.97
    assert found["VocabMatch"] == 1 and reports["VocabMatch"].exact() == 1


@pytest.mark.parametrize(("depth", "spec"), [(5, "fp32"), (15, "int8:token")])
def test_depth_hides_nothing_from_matching(smollm2, depth, spec):
    lm = lk.split(smollm2[0], head=depth, tail=0, codec=(spec, "fp32"))
    capture = record(lm, [prompts()[0].text], longest=10)
    view = capture.view("eavesdrop_up")
    found = VocabMatch(proposals="prior").fit(view, Knowledge(*smollm2)).reconstruct(view)
    assert report(found, capture).accuracy() == 1


def test_bits_grow_along_the_ladder(reports):
    prior = reports["PriorOnly"]
    table = ladder(list(reports.values()), prior).set_index("attack")
    assert table.bits["PriorOnly"] == pytest.approx(0, abs=1e-9)
    assert table.bits["NearestEmbedding"] < table.bits["Ridge"] < table.bits["PrototypeLDA"]
    assert table.share["VocabMatch"] > 0.99 and (table.low <= table.bits).all() and (table.bits <= table.high).all()


def test_a_reader_of_the_text_so_far_expects_more_than_single_words_do(reports, smollm2):
    told = language_prior(smollm2[0], reports["VocabMatch"])
    words = reports["PriorOnly"].counted.log_prob
    assert len(told) == len(words) and -told.expected.mean() < -words.mean()
    with torch.inference_mode():
        row = reports["VocabMatch"].tokens[reports["VocabMatch"].tokens.conversation == 0]
        ids = torch.tensor(row.truth.to_numpy())
        wanted = smollm2[0](ids[None]).logits[0].log_softmax(-1)
    first = told[told.conversation == 0].iloc[0]
    assert first.expected == pytest.approx(float(wanted[first.position - 1, first.truth]), abs=1e-3)


def test_ranks_and_masses_agree_with_the_guess(reports):
    rows = reports["PrototypeLDA"].counted
    assert (rows["rank"] >= 1).all() and rows.mass.between(0, 1).all() and np.isfinite(rows.log_prob).all()
    assert rows.right[rows["rank"] == 1].mean() > 0.95
    assert (reports["VocabMatch"].counted["rank"] == 1).all() and reports["VocabMatch"].counted.log_prob.isna().all()


def test_template_and_first_position_do_not_count(reports, capture):
    said = reports["VocabMatch"]
    truth = capture.sealed.open()
    assert len(said.counted) == int((truth["stop"] - truth["first"]).sum())
    assert set(said.tokens.kind) == {"template", "prompt"}


def test_a_report_needs_the_truth_of_the_same_capture(capture, know, smollm2):
    view = capture.view("eavesdrop_up")
    found = PriorOnly().fit(view, know).reconstruct(view)
    other = record(lk.split(smollm2[0], head=1, tail=1), ["Some other text"])
    with pytest.raises(CaptureError, match="1 texts, the reconstruction 6"):
        report(found, other)
    with pytest.raises(CaptureError, match="no truth"):
        report(found, lk.Capture(capture.manifest, capture.crossings))
    theirs = report(PriorOnly().fit(other.view("cloud"), know).reconstruct(other.view("cloud")), other)
    with pytest.raises(UnsupportedOption, match="same capture"):
        leak_of(report(found, capture), theirs)


def test_who_only_says_tokens_is_believed_as_often_as_it_is_right_elsewhere():
    def said(log_prob, right):
        rows = {"conversation": [0, 0, 1, 1], "position": [1, 2, 1, 2], "kind": "prompt", "truth": 5, "right": right}
        return Report("x", "cloud", pd.DataFrame({**rows, "log_prob": log_prob}), Cost())

    prior = said(np.log([0.25] * 4), False)
    found = leak_of(said(np.nan, [True, True, True, False]), prior)
    # doubt by Laplace's rule: (1 + 1) / (2 + 2) after the second conversation, (0 + 1) / (2 + 2) after the first
    told = np.log2([0.5 + 0.5 / 4, 0.5 + 0.5 / 4, 0.75 + 0.25 / 4, 0.25 / 4])
    assert found.bits == pytest.approx(2 + told.mean()) and found.h0 == 2
    alone = said(np.nan, [True] * 4)
    alone.tokens["conversation"] = prior.tokens["conversation"] = 0
    assert leak_of(alone, prior).bits == pytest.approx(2 + np.log2(0.625))  # nothing is known of how often it is right
