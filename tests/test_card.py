"""What people see when they type a name: a few lines in a terminal, a table in a notebook, never an address."""

import pytest
import torch

import lsplit_kit as lk
from lsplit_kit.card import Card


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    lm = lk.split("toy-llama", head=1, tail=1, body="loopback", codec="int8:token")
    with lk.tap(lm) as wire:
        lm.generate("hello", max_new_tokens=2)
    capture = lk.Capture.load(wire.save(tmp_path_factory.mktemp("card") / "wire.lsplit"))
    with lk.host("toy-llama", head=1, tail=1) as host:
        far = lk.split("toy-llama", head=1, tail=1, body=host.address)
        yield {
            "model": lm, "link": lm.link, "rpyc": far.link, "host": host, "tap": wire,
            "capture": capture, "codec": lk.codec("int8:token"),
        }  # fmt: skip
        far.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model", ["cut in three", "layers 1 to 4 of toy-llama", "loopback", "int8:token", "kv"]),
        ("link", ["loopback", "layers 1 to 4"]),
        ("rpyc", ["rpyc://127.0.0.1", "connected"]),
        ("host", ["rpyc://127.0.0.1", "running", "layers 1 to 4"]),
        ("tap", ["2 steps", "up", "down", "payload"]),
        ("capture", ["crossings", "toy-llama", "int8:token up", "payload"]),
        ("codec", ["int8:token", "8"]),
    ],
)
def test_public_objects_are_small_readable_tables(shown, name, words):
    text, html = repr(shown[name]), shown[name]._repr_html_()
    assert all(word in text and word in html for word in words)
    assert len(text.splitlines()) <= 12 and " at 0x" not in text
    assert html.startswith("<table>") and '<th scope="row">' in html


def test_what_a_host_says_of_itself_is_escaped():
    class Foreign(Card):
        def _card(self):
            return "<script>", {"<b>": "<img onerror=x>"}

    assert "<script>" not in Foreign()._repr_html_() and "<img" not in Foreign()._repr_html_()


def test_a_payload_is_not_printed():
    assert len(repr(lk.codec("fp32").encode(torch.zeros(1, 64, 64)))) < 80
