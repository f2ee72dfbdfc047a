"""Attacks: what an observer of the wire, with declared knowledge, reads out of hidden tensors."""
