"""A progress bar for what may take long, none for what will not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def progress(items: Iterable[Item], title: str, total: int | None = None, least: int = 1) -> Iterable[Item]:
    """The items under a bar of that title, drawn by Jupyter in a notebook; without one for fewer than `least` items.

    total: how many there are, for an iterator. TQDM_DISABLE=1 in the environment silences every bar.
    """
    count = total if total is not None else len(items)  # type: ignore[arg-type]
    if count < least:
        return items
    from tqdm.auto import tqdm

    return tqdm(items, desc=title, total=count, leave=False)
