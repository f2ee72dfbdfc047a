"""One call at the top of every notebook, so that two runs print the same."""

from __future__ import annotations

import os
import random
import sys
from dataclasses import dataclass


@dataclass(frozen=True, repr=False)
class Ready:
    """The one-line status that `setup` returns; `seed` and `threads` are what was set."""

    seed: int
    threads: int

    def __repr__(self) -> str:
        return f"ready: seed {self.seed}, {self.threads} thread" + ("" if self.threads == 1 else "s")


def setup(seed: int = 0, threads: int = 1) -> Ready:
    """Seed random, numpy and torch, set torch's thread count, and quieten the model libraries' logs.

    `threads` counts torch's CPU threads of this process; another count changes the last bits of sums. Raises
    ValueError when `seed` is not in 0..2**32-1 or `threads` is below 1.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}, expected 0 to 2**32 - 1: numpy takes no other")
    if threads < 1:
        raise ValueError(f"threads is {threads}, expected 1 or more")
    # Child processes (hosts) inherit these; this process's libraries read them when they are first imported.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.set_printoptions(precision=3, sci_mode=False)
    for name in ("transformers", "diffusers"):
        # Importing them takes seconds, so one that is not here yet reads the environment instead.
        if (library := sys.modules.get(name)) is not None:
            library.utils.logging.set_verbosity_error()
            library.utils.logging.disable_progress_bar()
    return Ready(seed, threads)
