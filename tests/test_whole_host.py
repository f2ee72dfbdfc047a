"""A host of a whole model: the library's own tokens, a token a step, a typed answer to any nonsense, no thread left."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit import errors as e
from lsplit_kit.models.partial import load_body
from lsplit_kit.models.whole import load_whole
from lsplit_kit.remote.client import RpycLink
from lsplit_kit.split.whole import REPLIES, whole_text
from lsplit_kit.split.whole_client import picture, reply
from lsplit_kit.split.whole_options import MAX_JSON, MAX_NEW, PICTURE, TEXT, to_json
from lsplit_kit.split.whole_picture import whole_pictures
from lsplit_kit.wire.here import InProcess, Loopback
from lsplit_kit.wire.message import Open, Step, WholeStep, ints_from_wire, ints_to_wire

pytestmark = pytest.mark.timeout(120)
TERMS, DRAW = Open("token", "fp32", "fp32"), Open("picture", "fp32", "fp32")
IDS = [5, 9, 17, 40, 3]
GOOD = ints_to_wire(IDS)


@pytest.fixture(scope="module")
def model():
    return lk.load("toy-llama")[0]


@pytest.fixture(scope="module")
def pipe():
    return lk.load("toy-sd")


@pytest.fixture(scope="module")
def host():
    with lk.host("toy-llama", whole=True) as running:
        yield running


@pytest.fixture(params=["in process", "loopback", "rpyc"])
def link(request, model, host):
    if request.param == "rpyc":
        made = RpycLink(host.address)
    else:
        made = (InProcess if request.param == "in process" else Loopback)(whole_text(model))
    yield made
    made.close()


@pytest.fixture
def near(model):
    return InProcess(whole_text(model))


def unsplit(model, ids=IDS, seed=None, **options):
    if seed is not None:
        torch.manual_seed(seed)
    return model.generate(torch.tensor([ids]), **options)[0, len(ids) :].tolist()


def tokens(link, ids=IDS, **options):
    return [token for token, _ in reply(link, ids, options)]


def threads():
    return [t for t in threading.enumerate() if t.name == "lsplit reply"]


def test_greedy_tokens_are_those_of_the_unsplit_model(link, model):
    assert tokens(link, max_new_tokens=12) == unsplit(model, max_new_tokens=12, do_sample=False)


def test_sampled_tokens_are_those_of_the_seed_and_leave_the_callers_numbers_alone(link, model):
    options = dict(max_new_tokens=12, do_sample=True, temperature=1.5, top_k=30, top_p=0.9, repetition_penalty=1.2)
    expected = unsplit(model, seed=7, **options)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert tokens(link, seed=7, **options) == expected != unsplit(model, max_new_tokens=12, do_sample=False)
    torch.manual_seed(1)
    assert torch.equal(before, torch.get_rng_state())
    assert tokens(link, seed=8, **options) != expected


def test_a_reply_that_ends_early_ends_with_an_empty_answer(model):
    first, second, *_ = unsplit(model, max_new_tokens=4, do_sample=False)
    stopping = lk.load("toy-llama")[0]
    stopping.generation_config.eos_token_id = second
    link = InProcess(whole_text(stopping))
    assert tokens(link, max_new_tokens=9) == [first, second]
    session = link.open(TERMS)
    link.step(session, WholeStep(1, b"{}", GOOD))
    link.step(session, WholeStep(2))
    assert [link.step(session, WholeStep(n)).payload for n in (3, 4)] == [b"", b""] and not threads()


def test_two_replies_interleaved_do_not_disturb_each_other(link, model):
    asked = [dict(max_new_tokens=8, do_sample=True, seed=n, temperature=2.0) for n in (1, 2)]
    expected = [unsplit(model, ids, **options) for ids, options in zip((IDS, IDS[::-1]), asked, strict=True)]
    sessions, got = [link.open(TERMS) for _ in asked], ([], [])
    for number in range(8):
        for session, ids, options, found in zip(sessions, (IDS, IDS[::-1]), asked, got, strict=True):
            step = WholeStep(number + 1) if number else WholeStep(1, to_json(options), ints_to_wire(ids))
            found += ints_from_wire(link.step(session, step).payload, "token")
    assert list(got) == expected
    for session in sessions:
        link.close_session(session)


def test_two_clients_of_one_host(host, model):
    expected = unsplit(model, max_new_tokens=10, do_sample=False)
    with RpycLink(host.address) as one, RpycLink(host.address) as two:
        replies = [reply(each, IDS, {"max_new_tokens": 10}, window=2) for each in (one, two)]
        pairs = list(zip(*replies, strict=True))
    assert [[token for token, _ in side] for side in zip(*pairs, strict=True)] == [expected, expected]


def test_a_repeated_step_has_the_same_answer_and_no_second_token(near, model):
    session = near.open(TERMS)
    one = [near.step(session, WholeStep(1, b"{}", GOOD)).payload for _ in range(3)]
    two = near.step(session, WholeStep(2)).payload
    expected = unsplit(model, max_new_tokens=2, do_sample=False)
    assert one == [ints_to_wire(expected[:1])] * 3 and two == ints_to_wire(expected[1:])
    near.close_session(session)


def test_a_session_closed_half_way_ends_its_thread(near):
    session = near.open(TERMS)
    near.step(session, WholeStep(1, b"{}", GOOD))
    assert len(threads()) == 1
    near.close_session(session)
    assert not threads()
    with pytest.raises(e.SessionUnknown):
        near.step(session, WholeStep(2))


def test_more_replies_than_a_host_keeps_push_out_the_oldest_and_its_thread(near):
    sessions = [near.open(TERMS) for _ in range(REPLIES)]
    for session in sessions:
        near.step(session, WholeStep(1, b"{}", GOOD))
    near.open(TERMS)
    assert len(threads()) == REPLIES - 1
    with pytest.raises(e.SessionUnknown):
        near.step(sessions[0], WholeStep(2))
    for session in sessions:
        near.close_session(session)
    assert not threads()


def test_a_connection_that_ends_takes_its_replies_along(model):
    from lsplit_kit.remote.service import service_of

    service = service_of(whole_text(model))()
    service.exposed_hello("1.0", "0", "0", "0", "", -1, -1, "")
    service.exposed_step(service.exposed_open(*TERMS), *WholeStep(1, b"{}", GOOD).to_wire())
    assert len(threads()) == 1
    service.on_disconnect(None)
    assert not threads()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_is_told_that_the_thread_stayed_behind(near):
    session = near.open(TERMS)
    near.step(session, WholeStep(1, b"{}", GOOD))
    child = os.fork()
    if child == 0:
        try:
            near.step(session, WholeStep(2))
            status = 1
        except e.SessionUnknown:
            near.close_session(session)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert near.step(session, WholeStep(2)).payload
    near.close_session(session)


def test_a_failure_inside_is_raised_once_and_then_the_session_is_over(near, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("out of order")

    monkeypatch.setattr(near.body.model, "generate", broken, raising=False)
    session = near.open(TERMS)
    with pytest.raises(RuntimeError, match="out of order"):
        near.step(session, WholeStep(1, b"{}", GOOD))
    with pytest.raises(e.SessionUnknown, match="ended with an error"):
        near.step(session, WholeStep(2))
    assert not threads()


def first(form=b"{}", payload=GOOD):
    return (WholeStep(1, form, payload),)


def options(**given):
    return first(json.dumps(given).encode())


BAD = {
    "no prompt": ((WholeStep(1),), e.FrameError, "brings the prompt"),
    "no whole int32": (first(payload=b"abc"), e.FrameError, "int32"),
    "id beyond the vocabulary": (first(payload=ints_to_wire([1, 2**30])), e.FrameError, "Token ids lie between"),
    "negative id": (first(payload=ints_to_wire([-1])), e.FrameError, "Token ids lie between"),
    "prompt too long": (first(payload=bytes(4 << 20)), e.LimitExceeded, "at most"),
    "too many positions": (options(max_new_tokens=MAX_NEW), e.LimitExceeded, "context ends"),
    "huge max_new_tokens": (options(max_new_tokens=10**30), e.LimitExceeded, "limit is 4096"),
    "no tokens wanted": (options(max_new_tokens=0), e.UnsupportedOption, "from 1 on"),
    "true tokens wanted": (options(max_new_tokens=True), e.UnsupportedOption, "whole number"),
    "half a token wanted": (options(max_new_tokens=1.5), e.UnsupportedOption, "whole number"),
    "one for true": (options(do_sample=1), e.UnsupportedOption, "true or false"),
    "text for a number": (options(temperature="hot"), e.UnsupportedOption, "a number"),
    "list for a number": (options(top_k=[1]), e.UnsupportedOption, "whole number"),
    "no temperature": (options(temperature=0), e.UnsupportedOption, "from 0.001"),
    "NaN": (options(top_p=float("nan")), e.UnsupportedOption, "a number"),
    "infinite": (options(repetition_penalty=float("inf")), e.UnsupportedOption, "a number"),
    "more than all": (options(top_p=1.5), e.LimitExceeded, "limit is 1"),
    "negative seed": (options(seed=-1), e.UnsupportedOption, "from 0 on"),
    "seed too large": (options(seed=2**64), e.LimitExceeded, "seed"),
    "another option": (options(num_beams=4), e.UnsupportedOption, "Unknown option 'num_beams'"),
    "code": (options(custom_generate="x"), e.UnsupportedOption, "Unknown option"),
    "no JSON": (first(b"{"), e.FrameError, "no JSON object"),
    "no object": (first(b"[1]"), e.FrameError, "no JSON object"),
    "no UTF-8": (first(b"\xff\xfe"), e.FrameError, "no JSON object"),
    "deep JSON": (first(b"[" * MAX_JSON), e.FrameError, "no JSON object"),
    "an endless number": (first(b'{"seed": ' + b"9" * 4000 + b"}"), e.LimitExceeded, "seed"),
    "long JSON": (first(b" " * (MAX_JSON + 1)), e.LimitExceeded, "at most 4,096 bytes"),
    "a second prompt": ((*first(), WholeStep(2, b"{}", GOOD)), e.FrameError, "needs a new session"),
    "an older step": ((WholeStep(5, b"{}", GOOD), WholeStep(4)), e.StepRefused, "older"),
    "the same number, other contents": ((*first(), WholeStep(1)), e.StepRefused, "twice"),
    "a split's step": ((Step(1, 0, 1, 1, bytes(256)),), e.FrameError, "whole|WholeStep"),
}


@pytest.mark.parametrize("name", BAD)
def test_nonsense_gets_a_typed_sentence_and_the_next_client_is_served(name, link, model):
    steps, error, words = BAD[name]
    session = link.open(TERMS)
    for step in steps[:-1]:
        link.step(session, step)
    with pytest.raises(error, match=words) as caught:
        link.step(session, steps[-1])
    assert type(caught.value) is error
    assert tokens(link, max_new_tokens=2) == unsplit(model, max_new_tokens=2, do_sample=False)
    link.close_session(session)
    assert not threads()


@pytest.mark.parametrize(
    "values", [(), (1, b""), (1, b"", b"", b""), ("1",), (True,), (-1,), (2**31,), (1, "", b""), (1, b"", None)]
)
def test_a_step_of_another_form_is_a_frame_error(values):
    with pytest.raises(e.FrameError):
        WholeStep.from_wire(values)


@pytest.mark.parametrize("step", [WholeStep(1), WholeStep(2**31 - 1, b"{}", b""), WholeStep(0, b"", b"\0")])
def test_a_step_crosses_as_it_is(step):
    assert WholeStep.from_wire(step.to_wire()) == step


@pytest.mark.parametrize(
    ("terms", "error"),
    [(("kv", "fp32", "fp32"), e.FrameError), (("token", "int8", "fp32"), e.CodecError)],
)
def test_other_terms_are_refused(near, terms, error):
    with pytest.raises(error):
        near.open(Open(*terms))


def test_a_host_says_that_it_is_whole_and_serves_no_split(host, model):
    assert host.whole and "reads every prompt and reply in clear" in repr(host) and "whole" in host.stderr()
    with RpycLink(host.address) as link:
        assert "toy-llama, whole" in repr(link)
    for plan in ({"head": 2, "tail": 2}, {"head": 0, "tail": 0}):
        with pytest.raises(e.FingerprintMismatch, match="whole"):
            lk.split(model, body=host.address, **plan)


def test_without_the_flag_no_host_answers_with_tokens():
    with lk.host("toy-llama") as split_host, RpycLink(split_host.address) as link:
        assert not split_host.whole and "clear" not in repr(split_host)
        with pytest.raises(e.UnsupportedModel, match="lsplit host --whole"):
            tokens(link)


def test_only_the_flag_loads_the_ends():
    ends = {n for n, _ in load_whole("toy-llama").model.named_parameters() if "layers." not in n}
    body = {n for n, _ in load_body("toy-llama").base.named_parameters() if "layers." not in n}
    assert any("embed" in n for n in ends) and not body


def test_a_model_without_its_body_is_no_whole_model():
    with pytest.raises(e.UnsupportedModel, match="without its body"):
        whole_text(lk.load_local("toy-llama"))
    with pytest.raises(e.UnsupportedModel, match="without its denoiser"):
        whole_pictures(lk.load_local("toy-sd"))


def test_the_pipelines_picture_comes_down(pipe):
    asked = dict(num_inference_steps=2, guidance_scale=5.0, height=32, width=48)
    expected = pipe("an apple", generator=torch.Generator().manual_seed(3), **asked).images[0]
    with lk.host("toy-sd", whole=True) as running, RpycLink(running.address) as far:
        for link in (InProcess(whole_pictures(pipe)), far):
            got, done = picture(link, "an apple", {"seed": 3, **asked})
            assert got.size == (48, 32) and got.tobytes() == expected.tobytes()
            assert done.payload.startswith(b"\x89PNG")
        with pytest.raises(e.FingerprintMismatch, match="whole"):
            lk.split(pipe, body=running.address)


BAD_PICTURES = {
    "no text": (b"{}", b"", e.LimitExceeded, "1 to 4,096 bytes"),
    "long text": (b"{}", b"a" * 4097, e.LimitExceeded, "1 to 4,096 bytes"),
    "no UTF-8": (b"{}", b"\xff", e.FrameError, "UTF-8"),
    "endless": (b'{"num_inference_steps": 100000}', b"a", e.LimitExceeded, "limit is 200"),
    "huge": (b'{"height": 65536}', b"a", e.LimitExceeded, "limit is 1024"),
    "a crooked size": (b'{"width": 33}', b"a", e.UnsupportedOption, "multiple of 8"),
    "no number": (b'{"guidance_scale": null}', b"a", e.UnsupportedOption, "a number"),
    "two pictures": (b'{"num_images_per_prompt": 2}', b"a", e.UnsupportedOption, "Unknown option"),
    "no JSON": (b"nonsense", b"a", e.FrameError, "no JSON object"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_nonsense_about_pictures_gets_a_typed_sentence(name, pipe):
    form, payload, error, words = BAD_PICTURES[name]
    link = Loopback(whole_pictures(pipe))
    with pytest.raises(error, match=words) as caught:
        link.step(link.open(DRAW), WholeStep(1, form, payload))
    assert type(caught.value) is error


@pytest.mark.parametrize("raw", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_a_damaged_picture_is_a_frame_error(raw):
    from lsplit_kit.split.whole_picture import from_png

    with pytest.raises(e.FrameError):
        from_png(raw)


def test_a_picture_too_large_is_not_decoded():
    import io

    from PIL import Image

    from lsplit_kit.split.whole_picture import from_png

    out = io.BytesIO()
    Image.new("RGB", (8, 2000)).save(out, "PNG")
    with pytest.raises(e.LimitExceeded, match="1024 a side"):
        from_png(out.getvalue())


@pytest.mark.parametrize("payload", [b"\1\2", ints_to_wire([1, 2]), ints_to_wire([-1])])
def test_a_host_that_answers_with_no_token_is_a_frame_error(near, monkeypatch, payload):
    monkeypatch.setattr(near.body, "_answer", lambda session, step: payload)
    with pytest.raises(e.FrameError, match="a token|one token id"):
        tokens(near)


def test_every_option_has_a_limit():
    assert all(rule.least < rule.most for rule in (*TEXT.values(), *PICTURE.values()))


def test_the_page_of_the_wire_names_every_option():
    page = (Path(__file__).parents[1] / "docs" / "wire-format.md").read_text("utf-8").split("## 6.")[1]
    assert all(f"`{name}`" in page for name in (*TEXT, *PICTURE))
    assert str(MAX_NEW) in page and f"{MAX_JSON:,}" in page
