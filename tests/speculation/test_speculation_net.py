"""The small net that drafts from the local ends: what a file of it must be, what it guesses, and the shipped one."""

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.errors import WeightsError
from lsplit_kit.split.ahead import BINS, SHIPPED, Ahead, Cell, write
from lsplit_kit.split.calibrated import facts_of

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def smollm2():
    return lk.load("smollm2")


def made(path, width=8, rows=(0, 2, 3)):
    torch.manual_seed(0)
    cell = Cell(width, 5)
    chances = [[level / BINS for level in range(BINS)], [0.25] * BINS]
    path.write_bytes(write(cell, torch.tensor(rows), chances, {"name": "test"}))
    return cell.half().float().requires_grad_(False)


def test_a_guess_is_the_likeliest_of_the_shortlist_and_the_prompt(tmp_path):
    cell, table = made(tmp_path / "net.safetensors"), torch.randn(9, 8)
    net = Ahead(tmp_path / "net.safetensors", table, table)
    net.begin([5, 3])
    assert net.guess([]) is None  # nothing true was seen yet
    vector = torch.randn(8)
    net.extend([4, 7], vector)
    state = cell(cell.entered(vector[None]), table[7][None])
    known = torch.tensor([0, 2, 3, 5])
    chances = cell.scores(state, table[known])[0].softmax(-1)
    first = net.guess([])
    assert first.token == int(known[chances.argmax()])
    assert first.kind == (0, int(float(chances.max()) * BINS)) and net.usual(first.kind) == pytest.approx(0.9)
    state = cell(state, table[first.token][None])
    second = net.guess([first.token])
    assert second.token == int(known[cell.scores(state, table[known])[0].argmax()])
    assert second.kind[0] == 1 and net.guess([1, 2]).kind[0] == 1  # chances are known for two tokens ahead
    assert net.usual(second.kind) == 0.25


@pytest.mark.parametrize("bad", ["missing", "junk", "width", "rows"])
def test_a_file_that_does_not_fit_is_refused(tmp_path, bad):
    path = tmp_path / "net.safetensors"
    if bad == "junk":
        path.write_bytes(b"no net")
    elif bad != "missing":
        made(path, width=7 if bad == "width" else 8, rows=(0, 99) if bad == "rows" else (0, 1))
    with pytest.raises(WeightsError, match="net.safetensors"):
        Ahead(path, torch.randn(9, 8), torch.randn(9, 8))


def test_the_shipped_net_is_found_for_every_cut_and_for_its_model_only(smollm2):
    for head, tail in ((2, 2), (5, 1)):
        lm = lk.split(smollm2[0], head=head, tail=tail)
        assert [source.name for source in lk.speculate(lm).sources] == ["lookup", "head"]
        assert [source.name for source in lk.speculate(lm, "head").sources] == ["head"]
    toy = lk.split(lk.load("toy-llama")[0])
    assert [source.name for source in lk.speculate(toy).sources] == ["lookup"]
    assert facts_of(smollm2[0])["layers"] == 30 and max(p.stat().st_size for p in SHIPPED.iterdir()) < 3 << 20


@pytest.mark.parametrize("draft", ["head", "lookup", "auto"])
def test_the_real_model_says_the_same_in_fewer_round_trips(smollm2, draft):
    model, tok = smollm2
    said = "Repeat word for word: The lock keeper counts boats, the miller counts sacks, and the heron counts fish."
    turn = [{"role": "user", "content": said}]
    ids = dict(tok.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True))
    options = dict(max_new_tokens=32, do_sample=False, output_logits=True, return_dict_in_generate=True)
    wanted = model.generate(**ids, **options)
    fast = lk.speculate(lk.split(model, body="loopback"), draft)
    fast.clock = lambda: 0.0  # drafts cost nothing: all are sent
    ours = fast.generate(**ids, **options)
    assert ours.sequences.tolist() == wanted.sequences.tolist()
    assert max((a - b).abs().max() for a, b in zip(ours.logits, wanted.logits, strict=True)) <= 2e-4
    assert fast.totals()["trips"] < (0.9 if draft == "head" else 0.6) * len(wanted.logits)
