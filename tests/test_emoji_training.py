"""The training of emoji-ldm: its data's rules, and that a killed run goes on as if nothing had happened."""

import emoji_data as data
import emoji_model as model
import numpy as np
import pytest
import torch
import train_emoji_ldm as training
from PIL import Image


def run(work, steps, stop=None, origin="same"):
    torch.manual_seed(0)
    parts = torch.nn.ModuleDict({"line": torch.nn.Linear(4, 4)})

    def loss_of(step):
        if step == stop:
            raise KeyboardInterrupt
        x = torch.randn(8, 4, generator=training.generator("vae", step))
        return (parts["line"](x) - x.flip(-1)).square().mean()

    return training.train("vae", parts, loss_of, origin, steps, 0.1, work, lambda *_: None, 10**6)


@pytest.mark.parametrize("stop", [1, 7, 12])
def test_an_interrupted_run_equals_an_undisturbed_one(tmp_path, monkeypatch, stop):
    monkeypatch.setattr(training, "SAVE_EVERY", -1)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    expected = run(whole, 13).state_dict()
    with pytest.raises(KeyboardInterrupt):
        run(broken, 13, stop)
    (broken / "vae.new").write_bytes(b"half a checkpoint")  # killed while writing
    found = run(broken, 13).state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    state, other = (torch.load(f / "vae.pt", weights_only=True) for f in (whole, broken))
    assert all(torch.equal(state["parts"][name], other["parts"][name]) for name in state["parts"])


def test_a_checkpoint_of_other_inputs_is_refused(tmp_path):
    run(tmp_path, 2)
    with pytest.raises(ValueError, match="delete it or name another --work"):
        run(tmp_path, 2, origin="other")


def test_every_picture_comes_once_an_epoch():
    seen = torch.cat([training.picks("unet", step, 5, 20) for step in range(4, 8)])
    assert sorted(seen.tolist()) == list(range(20))


def test_the_stages_draw_other_numbers():
    first, second = (torch.rand(4, generator=training.generator(stage, 3)) for stage in ("vae", "unet"))
    assert not torch.equal(first, second)


def test_held_back_shifts_are_never_trained_on():
    assert len(data.HELD_BACK_SHIFTS) + len(data.TRAINED_SHIFTS) == len(data.SHIFTS) == 25
    assert not set(data.HELD_BACK_SHIFTS) & set(data.TRAINED_SHIFTS)
    assert max(abs(x) for shift in data.SHIFTS for x in shift) < data.MARGIN


@pytest.mark.parametrize(
    ("name", "said"), [("apple", "an apple"), ("dog", "a dog"), ("grapes", "grapes"), ("dress", "a dress")]
)
def test_articles(name, said):
    assert data.with_article(name) == said


@pytest.mark.parametrize(("name", "said"), [("DOG", "dog"), ("dog2", "dog"), ("red_apple", "red apple")])
def test_names_read_like_prompts(name, said):
    assert data.plain(name) == said


def test_art_lies_on_white_with_room_for_shifts():
    pixels = data.on_white(Image.new("RGBA", (64, 64), (200, 0, 0, 255)))
    assert pixels.shape == (64, 64, 3)
    inside = slice(data.MARGIN, -data.MARGIN)
    assert (pixels[inside, inside] == (200, 0, 0)).all()
    assert (np.delete(pixels, np.r_[data.MARGIN : 64 - data.MARGIN], 0) == 255).all()


def test_held_back_shapes_are_not_drawn():
    names = {p.names[0] for p in data.shapes()}
    assert not names & {f"{colour} {form}" for colour, form in data.HELD_BACK}
    for colour, form in data.HELD_BACK:  # each colour and each form is known from other pairs
        assert any(n.startswith(colour) for n in names) and any(n.endswith(form) for n in names)


def test_a_tokenizer_is_made_once(tmp_path):
    """The trainer breaks ties at random, so a resumed run must not learn its vocabulary again."""
    said = ["a red apple", "an apple emoji", "a picture of a dog", "dog"]
    first = model.kept_tokenizer(tmp_path, said)
    again = model.kept_tokenizer(tmp_path, [*said, "something else"])
    assert first.get_vocab() == again.get_vocab()
    assert first("a red dog").input_ids == again("a red dog").input_ids
