"""An attribute of a panel that is the value of one of its menus."""

from __future__ import annotations

from typing import Any

from ..errors import UnsupportedOption


class Choice:
    """An attribute that is the value of a control; what the control does not offer is refused with a sentence.

    The panel has `controls` by name, and may have `free`: checks by name for controls that take more than they offer.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, panel: Any, owner: type) -> Any:
        return self if panel is None else panel.controls[self.name].value

    def __set__(self, panel: Any, value: Any) -> None:
        control, free = panel.controls[self.name], getattr(panel, "free", {})
        if self.name in free:
            control.value = free[self.name](value)
            return
        offered = [o[1] if isinstance(o, tuple) else o for o in control.options]
        if isinstance(value, bool) or value not in offered:
            raise UnsupportedOption(f"Unknown {self.name} {value!r}; choose one of {', '.join(map(str, offered))}.")
        control.value = value
