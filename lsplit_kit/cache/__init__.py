"""The local half of a session: what was sent, and the slot that stands in the model's cache for the remote body."""

from .slot import RemoteSlot, adopt

__all__ = ["RemoteSlot", "adopt"]
