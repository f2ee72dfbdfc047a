"""A small readable table for `repr`: aligned lines in a terminal, HTML in a notebook."""

from __future__ import annotations

from html import escape


class Card:
    """Gives a class whose `_card` returns a title and its facts both representations."""

    def _card(self) -> tuple[str, dict[str, object]]:
        raise NotImplementedError

    def __repr__(self) -> str:
        title, facts = self._card()
        wide = max(map(len, facts), default=0)
        return "\n".join([title, *(f"  {name:<{wide}}  {value}" for name, value in facts.items())])

    def _repr_html_(self) -> str:
        title, facts = self._card()
        rows = "".join(
            f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>'
            for name, value in facts.items()
        )
        return f"<table><caption>{escape(title)}</caption>{rows}</table>"
