"""`lsplit demo --image`: a picture over a real host, saved, compared, and every byte accounted for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import lsplit_kit as lk
from lsplit_kit.demo_image import image_report_lines, run_image_demo
from lsplit_kit.quantization.auto import AUTO, About

STEPS, LATENT = 4, 4 * 4 * 16 * 16  # of toy-sd: bytes of a latent, and of a guided noise, as FP32


@pytest.fixture(scope="module", params=["lockstep", "per_step"])
def made(request, tmp_path_factory):
    """(report, progress lines, saved picture) of one demo in each mode, INT8 noise."""
    said, path = [], tmp_path_factory.mktemp("demo") / "apple.png"
    report = run_image_demo("a red apple", "toy-sd", STEPS, request.param, "int8", 3, path, said.append)
    return report, "".join(said), Image.open(path)


def test_the_report_has_every_key_and_is_json(made):
    report = json.loads(json.dumps(made[0]))
    keys = {"model", "plan", "bytes", "reduction", "host_pid", "host_holds"}  # as for a language model
    assert keys | {"psnr", "ssim", "steps", "mode", "codec", "seconds", "file"} <= set(report)
    assert (report["model"], report["steps"]) == ("toy-sd", STEPS) and not report["images_identical"]
    assert report["psnr"] > 20 and 0.9 < report["ssim"] <= 1


def test_the_bytes_add_up(made):
    report = made[0]
    down = (LATENT // 4 + 8) * STEPS if report["mode"] == "lockstep" else (LATENT // 2 + 8) * STEPS
    each, noise = report["each_step_payload_bytes"], report["noise_down_payload_bytes"]
    assert report["bytes"]["down"]["payload"] == noise["sent"] == down == each["down"] * STEPS
    assert noise["fp32"] == 4 * (down - 8 * STEPS)
    assert report["bytes"]["up"]["payload"] == report["first_up_payload_bytes"] + each["up"] * (STEPS - 1)
    assert (each["up"] > LATENT) is (report["mode"] == "per_step")
    rounded = report["paper_payload_bytes"] - report["first_up_payload_bytes"] - noise["fp32"]
    assert 0 <= rounded < 8 * (STEPS + 1)  # time steps, whose numbers take fewer bytes than in memory
    sent = sum(report["bytes"][way]["payload"] for way in ("up", "down"))
    assert report["reduction"] == pytest.approx(1 - sent / report["paper_payload_bytes"])


def test_the_saved_picture_is_the_split_one(made):
    report, _, saved = made
    split = lk.split("toy-sd", mode=report["mode"], codec=("fp32", "int8"))
    own = split("a red apple", num_inference_steps=STEPS, generator=torch.Generator().manual_seed(3)).images[0]
    assert saved.tobytes() == own.tobytes()


def test_a_person_reads_where_it_is_and_what_it_cost(made):
    report, said, _ = made
    text = "\n".join(image_report_lines(report))
    assert "loading toy-sd" in said and "now the unsplit pipeline" in said
    for part in (report["file"], "no autoencoder", "each later step up", "FP32 noise down at every step", "PSNR"):
        assert part in text
    assert f"{report['first_up_payload_bytes']:,}" in text and f"{report['paper_payload_bytes']:,}" in text


def test_lossless_is_said_to_be_bit_equal(tmp_path):
    report = run_image_demo("a dog", "toy-sd", 2, "lockstep", "fp32", 0, tmp_path / "dog.png")
    assert report["images_identical"] and report["psnr"] is None and report["ssim"] == 1
    assert "bit-equal" in "\n".join(image_report_lines(report))


def test_json_is_one_object_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "lsplit_kit", "demo", "--image", "a dog", "--model", "toy-sd", "--steps", "2"]
    done = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["file"] == "lsplit-demo.png" and (tmp_path / "lsplit-demo.png").is_file()
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(prompt="  "), "The prompt is empty"),
        (dict(steps=1000), "a number from 1 to 999, got 1000"),
        (dict(save_to="/proc/dog.png"), "cannot be written"),
        (dict(save_to="no/such/folder/a.png"), "cannot be written"),
        (dict(save_to="."), "cannot be written"),
        (dict(save_to="folder.png"), "cannot be written"),
        (dict(save_to="apple.mp4"), "cannot be written"),
        (dict(mode="both"), "Unknown mode 'both'"),
        (dict(codec="int9"), "Unknown codec"),
        (dict(name="toy-llama"), "makes no pictures"),
        (dict(name="no-such-model"), "makes no pictures"),
        (dict(name="toy-sdx"), "did you mean"),
    ],
)
def test_mistakes_are_one_sentence(change, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    call = dict(prompt="a dog", name="toy-sd", steps=2, mode="lockstep", codec="int8", seed=0, save_to="dog.png")
    call |= change
    with pytest.raises(lk.LsplitError, match=sentence):
        run_image_demo(**call | {"save_to": Path(call["save_to"])})
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_the_best_settings_have_a_name(tmp_path):
    report = run_image_demo("a red apple", "toy-sd", STEPS, "lockstep", "auto:image", 3, tmp_path / "apple.png")
    assert report["codec"] == dict(
        zip(("up", "down"), AUTO["auto:image"](About("image", guidance="host")), strict=True)
    )
    assert (
        report["first_up_payload_bytes"]
        < LATENT
        < report["paper_payload_bytes"] - report["noise_down_payload_bytes"]["fp32"]
    )
