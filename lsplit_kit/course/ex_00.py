"""Checks for chapter 00, the start."""

from __future__ import annotations

from lsplit_kit.course.checks import exercise

# SmolLM2-135M; a test compares this with the model's own config.
SMOLLM2_LAYERS = 30


@exercise(
    "00.1",
    title="How many decoder layers does the model have?",
    hints=["a model's config counts its hidden layers", "try model.config.num_hidden_layers"],
    minutes=2,
)
def layers(answer: object) -> str | None:
    """The number of decoder layers of SmolLM2-135M, an int."""
    if isinstance(answer, bool) or not isinstance(answer, int):
        return f"a whole number was expected, got {type(answer).__name__}"
    if answer == SMOLLM2_LAYERS:
        return None
    return f"the model has {'more' if answer < SMOLLM2_LAYERS else 'fewer'} layers than that"
