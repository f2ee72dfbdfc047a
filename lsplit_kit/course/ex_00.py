"""Checks for chapter 00, the start."""

from __future__ import annotations

from lsplit_kit.course.calling import whole
from lsplit_kit.course.checks import Wrong, exercise

# SmolLM2-135M; a test compares this with the model's own config.
SMOLLM2_LAYERS = 30


@exercise(
    "00.1",
    title="How many decoder layers does the model have?",
    hints=["a model's config counts its hidden layers", "try model.config.num_hidden_layers"],
    minutes=2,
)
def layers(answer: object) -> str | Wrong | None:
    """The number of decoder layers of SmolLM2-135M, an int."""
    number = whole(answer)
    if number is None:
        return f"a whole number was expected, got {type(answer).__name__}"
    if number == SMOLLM2_LAYERS:
        return None
    return Wrong(f"the model has {'more' if number < SMOLLM2_LAYERS else 'fewer'} layers than that", 1)
