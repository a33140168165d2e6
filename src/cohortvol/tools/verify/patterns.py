"""Many names looked for at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_EDGE = rb"[0-9A-Za-z]"


def found_by(forms_of: Mapping[str, Iterable[bytes]]) -> Callable[[bytes], set[str]]:
    """A function that finds which of some names are in a text, each in any of its forms.

    A name is found where no letter or digit touches it on either side. The pattern is a tree of
    common beginnings, so that thousands of names take little longer than one.

    Parameters
    ----------
    forms_of : mapping of str to iterable of bytes
        Name to its forms, none of them empty.
    """
    name_of: dict[bytes, set[str]] = {}
    for name, forms in forms_of.items():
        for form in forms:
            name_of.setdefault(form, set()).add(name)
    if not name_of:
        return lambda text: set()
    tree: dict[int, Any] = {}
    for form in name_of:
        branch = tree
        for byte in form:
            branch = branch.setdefault(byte, {})
        branch[-1] = {}
    # The first alone is fast where nothing is found, as it has a set of first letters.
    begins = re.compile(_pattern(tree))
    whole = re.compile(b"(?<!" + _EDGE + b")" + _pattern(tree) + b"(?!" + _EDGE + b")")

    def find(text: bytes) -> set[str]:
        found, at = set(), 0
        while (start := begins.search(text, at)) is not None:
            at = start.start() + 1  # one name may begin within another
            if match := whole.match(text, start.start()):
                found.add(match[0])
        return {name for form in found for name in _beginnings(form, name_of)}

    return find


def _beginnings(form: bytes, name_of: Mapping[bytes, set[str]]) -> set[str]:
    """Names whose form this is, or begins with, at an edge."""
    return {
        name
        for end in range(1, len(form) + 1)
        if form[:end] in name_of and not form[end : end + 1].isalnum()
        for name in name_of[form[:end]]
    }


def _pattern(tree: Mapping[int, Any]) -> bytes:
    """A regular expression for a tree of names, the longest first."""
    run = b""
    while len(tree) == 1 and -1 not in tree:
        ((byte, tree),) = tree.items()
        run += re.escape(bytes([byte]))
    ways = [
        re.escape(bytes([byte])) + _pattern(branch) for byte, branch in tree.items() if byte != -1
    ]
    if not ways:
        return run
    return run + b"(?:" + b"|".join(ways) + b")" + (b"?" if -1 in tree else b"")
