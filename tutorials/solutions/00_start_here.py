"""Solutions of tutorial 00: exercise id -> answer."""

import lsplit_kit as lk

model, _ = lk.load("smollm2")

ANSWERS = {"00.1": model.config.num_hidden_layers}
