"""Attacks on pictures: what an observer of a diffusion model's wire paints, and reads of the prompt."""
