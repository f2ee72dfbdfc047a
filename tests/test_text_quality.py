"""Distances between language models: zero for the same, right against a direct computation, larger for fewer bits."""

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.errors import UnsupportedOption
from lsplit_kit.measure import greedy_agreement, python_text, text_quality, token_ids

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def toy():
    model, tokenizer = lk.load("toy-llama")
    return model, token_ids(tokenizer, python_text(), 150)


def test_a_lossless_split_is_the_same_model(toy):
    model, ids = toy
    row = text_quality({"split": lk.split(model, body="loopback")}, model, ids, window=64).loc["split"]
    assert row["tokens"] == 150 - 3 and row["ratio"] == 1 and row["kl"] == 0 and row["top1"] == 1


def test_the_numbers_are_those_of_the_definitions(toy):
    model, ids = toy
    other = lk.load("toy-gpt2")[0]
    row = text_quality({"other": other}, model, ids[:40]).loc["other"]
    with torch.no_grad():
        p, q = (m(ids[None, :40]).logits[0, :-1].double().log_softmax(-1) for m in (model, other))
    losses = [torch.nn.functional.nll_loss(x, ids[1:40]) for x in (p, q)]
    assert row["perplexity"] == pytest.approx(float(losses[1].exp()), rel=1e-4)
    assert row["ratio"] == pytest.approx(float((losses[1] - losses[0]).exp()), rel=1e-4)
    kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="batchmean")
    assert row["kl"] == pytest.approx(float(kl), rel=1e-3)
    assert row["top1"] == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).float().mean()))


def test_fewer_bits_are_farther_away(toy):
    model, ids = toy
    splits = {spec: lk.split(model, codec=spec) for spec in ("int8:token", "int4:token", "int2:token")}
    table = text_quality(splits, model, ids)
    assert list(table.index) == list(splits)
    assert 0 < table["kl"].iloc[0] < table["kl"].iloc[1] < table["kl"].iloc[2]
    assert table["top1"].iloc[0] > table["top1"].iloc[2]


def test_greedy_tokens_until_the_first_difference(toy):
    model, ids = toy
    prompts = [ids[None, :8], ids[None, 20:33]]
    assert greedy_agreement(lk.split(model), model, prompts, 12) == [12, 12]
    rough = greedy_agreement(lk.split(model, codec="int2:token"), model, prompts, 12)
    assert all(0 <= n <= 12 for n in rough) and min(rough) < 12


@pytest.mark.parametrize("ids", [torch.tensor([1]), torch.tensor([[1, 2, 3]]), torch.tensor(3)])
def test_too_little_text_is_a_sentence(toy, ids):
    with pytest.raises(UnsupportedOption, match="two or more token ids"):
        text_quality({}, toy[0], ids)


def test_pythons_own_text_is_long_and_always_the_same():
    assert len(python_text()) > 400_000 and python_text() is python_text()


def test_windows_in_a_list_and_a_start_that_is_not_judged(toy):
    model, ids = toy
    lm = {"int4": lk.split(model, codec="int4:token")}
    assert text_quality(lm, model, list(ids.split(64))).equals(text_quality(lm, model, ids, window=64))
    with torch.no_grad():
        p, q = (m(ids[None, :40]).logits[0, 9:-1].double().log_softmax(-1) for m in (model, lm["int4"]))
    row = text_quality(lm, model, [ids[:40]], after=9).loc["int4"]
    assert row["tokens"] == 30 and row["top1"] == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).float().mean()))
    with pytest.raises(UnsupportedOption, match="list of windows"):
        text_quality(lm, model, [ids[:5]], after=4)
