"""What a results folder remembers of people who were removed from it, and whom it tells.

To prove that somebody is gone, the names of their scans and images must be known when nothing here
tells them any more. They lie in ``private/withdrawn.json``, sealed under each id that a list may
name: who knows the id can open its names, and the file holds neither. A list that was applied
before is known by it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cohortvol.errors import OutputError, TableError
from cohortvol.store.archives import ENDS as ARCHIVE_ENDS
from cohortvol.store.files import commit, digest_of, json_text
from cohortvol.store.keys import PRIVATE, make_private
from cohortvol.store.label_maps import ENDS, STRUCTURE
from cohortvol.store.withdrawals import loose, normal

RECORD = "withdrawn.json"
_SALT_BYTES = 32
_SEAL_BYTES = 16
_BETWEEN = "/_-."  # an id and the name of a structure in a path


class Removals:
    """The record of one results folder; empty where nobody was removed.

    Parameters
    ----------
    salt : bytes
        Secret of the record.
    sealed : mapping of str to str
        Tag of an id to its names, sealed, in hex.
    near : iterable of str
        Tags of the ids without everything in which a slip may lie.
    """

    def __init__(
        self, salt: bytes | None = None, sealed: Mapping[str, str] = {}, near: Iterable[str] = ()
    ) -> None:
        self._salt = salt or secrets.token_bytes(_SALT_BYTES)
        self._sealed = dict(sealed)
        self._near = set(near)
        self._changed = False

    @classmethod
    def read(cls, results: Path) -> Removals:
        """The record of a results folder.

        Raises
        ------
        TableError
            If it is damaged.
        OutputError
            If this account may not read it.
        """
        path = results / PRIVATE / RECORD
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except PermissionError as error:
            raise OutputError(
                f"{path}: may not be read by this account\n"
                "  Run as the account that made the results."
            ) from error
        try:
            found = json.loads(content)
            sha256 = found.pop("sha256")
            sound = sha256 == digest_of(found) and content.decode() == _text(found)
            salt, sealed, near = bytes.fromhex(found["salt"]), found["sealed"], found["near"]
        except (ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise TableError(f"{path}: damaged; it says who was removed from these results before")
        return cls(salt, sealed, near)

    def knows(self, name: str) -> bool:
        """Whether somebody of this id, or a scan of this id, was removed."""
        return self._tag("of", normal(name)) in self._sealed

    def was_nearly(self, form: str) -> bool:
        """Whether somebody was removed of whose id this is what `loose` leaves."""
        return self._tag("near", form) in self._near

    def names(self, name: str) -> set[str]:
        """What stood for them here: ids, keys, paths and names of images, digests of these."""
        name = normal(name)
        packed = bytes.fromhex(self._sealed.get(self._tag("of", name), ""))
        seal, body = packed[:_SEAL_BYTES], packed[_SEAL_BYTES:]
        if not seal:
            return set()
        return set(json.loads(self._mixed(name, seal, body)))

    def remember(self, name: str, names: Iterable[str]) -> None:
        """Add to what stood for somebody, until `save`."""
        name = normal(name)
        known = self.names(name)
        wanted = known | set(names)
        tag = self._tag("of", name)
        if wanted == known and tag in self._sealed:
            return
        body = json.dumps(sorted(wanted)).encode()
        seal = self._hmac("seal", name, body)[:_SEAL_BYTES]
        self._sealed[tag] = (seal + self._mixed(name, seal, body)).hex()
        self._near.add(self._tag("near", loose(name)))
        self._changed = True

    def save(self, results: Path) -> None:
        """Write the record, if anything was added, for its owner alone."""
        if not self._changed:
            return
        make_private(results / PRIVATE)
        record = {
            "salt": self._salt.hex(), "sealed": self._sealed, "near": sorted(self._near)
        }  # fmt: skip
        content = _text(record).encode()
        commit(results / PRIVATE / RECORD, lambda stream: stream.write(content), mode=0o600)
        self._changed = False

    def _hmac(self, purpose: str, name: str, more: bytes = b"") -> bytes:
        key = hmac.new(self._salt, f"{purpose}\0{name}".encode(), hashlib.sha256).digest()
        return hmac.new(key, more, hashlib.sha256).digest()

    def _tag(self, purpose: str, name: str) -> str:
        return self._hmac(purpose, name)[:16].hex()

    def _mixed(self, name: str, seal: bytes, body: bytes) -> bytes:
        """XOR with a stream made of the salt, the id and the seal; its own inverse."""
        stream = hashlib.shake_256(self._hmac("stream", name, seal)).digest(len(body))
        return bytes(one ^ other for one, other in zip(body, stream, strict=True))


def _text(record: dict[str, Any]) -> str:
    return json_text({**record, "sha256": digest_of(record)})


def names_of_image(image: str) -> set[str]:
    """An image or label map as logs and tables of others may name it: its path, and its own name.

    Of a folder the name alone says little, so that it goes with the one above it. Of a path with a
    `STRUCTURE` for files of one structure each, both sides of it may stand for somebody.
    """
    if not image:
        return set()
    if STRUCTURE in image:
        before, after = image.split(STRUCTURE, 1)
        ends = {after.lstrip(_BETWEEN)} - {end.lstrip(_BETWEEN) for end in ENDS}
        return {image} | names_of_image(before.rstrip(_BETWEEN)) | ends
    parts = Path(image).parts
    is_file = image.lower().endswith((*ENDS, *ARCHIVE_ENDS, ".dcm"))
    short = parts[-1] if is_file else os.path.join(*parts[-2:])
    return {image, short}
