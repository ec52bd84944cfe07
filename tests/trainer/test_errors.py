"""The drawing of the trainer's errors is true. (Parents drawn in parentheses stand in adapters.errors.)"""

from __future__ import annotations

import re

from adapters.errors import PatchbayError
from trainer import errors


def test_the_drawing_shows_every_error_below_its_parent():
    above, drawn = {-1: "PatchbayError"}, set()
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([│ ]*)[├└]── (.+)", line):
            depth = len(found[1]) // 4
            for name in found[2].split(", "):
                above[depth] = name.strip("()")
                assert getattr(errors, above[depth]).__bases__[0].__name__ == above[depth - 1]
                if name == above[depth]:
                    drawn.add(name)
    assert drawn == {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, PatchbayError) and value.__module__ == errors.__name__
    }
