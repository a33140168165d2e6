"""Keys in place of ids: HMAC-SHA256 with a salt of the project, so that no output names a person.

What leads back from a key to an id lies in ``<results>/private``, which only its owner may read:
the salt, the map ``ids.csv``, and links to the images, whose paths may hold ids too.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
import logging
import os
import re
import secrets
import unicodedata
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

from cohortvol.errors import ConfigError
from cohortvol.store.archives import ENDS as ARCHIVE_ENDS
from cohortvol.store.files import commit, commit_once, make_folder, refuse_planted

log = logging.getLogger(__name__)

PRIVATE = "private"
SALT = "salt"
IDS = "ids.csv"
IMAGES = "images"
LABEL_MAPS = "label_maps"
PUBLISHED = "published.json"
"""What `report` keeps of the public pages it made, with hashed ids or without."""

SALT_BYTES = 32
LEAST_SALT_BYTES = 16
LONGEST_ID_BYTES = 1024

_KEY = re.compile(r"[spv]_[0-9a-f]{16}")
_KINDS = {"s": "scan", "p": "subject", "v": "session"}


def is_key(text: str) -> bool:
    """Whether a text looks like a key."""
    return _KEY.fullmatch(text) is not None


def is_hidden(path: Path) -> bool:
    """Whether a path leads through a link of `Keys`, so that names behind it are not to be told."""
    return (PRIVATE, IMAGES) in pairwise(path.parts)


class Keys:
    """Keys of one project; remembers what it gave them to until `save`.

    Parameters
    ----------
    results : Path
        Results folder.
    salt : bytes
        Secret of the project.
    """

    def __init__(self, results: Path, salt: bytes) -> None:
        self._private = results / PRIVATE
        self._salt = salt
        self._ids: dict[str, str] = {}
        self._images: dict[str, str] = {}

    def scan(self, scan_id: str) -> str:
        """``s_`` and 16 hex digits."""
        return self._key("s", scan_id)

    def subject(self, subject_id: str) -> str:
        """``p_`` and 16 hex digits."""
        return self._key("p", subject_id)

    def session(self, session_id: str) -> str:
        """``v_`` and 16 hex digits; the same for visits of the same name."""
        return self._key("v", session_id)

    def cluster(self, cluster_id: str) -> str:
        """``c_`` and 16 hex digits; nobody needs the way back."""
        return self.key_of("c", cluster_id)

    def key_of(self, kind: str, text: str) -> str:
        """The key of an id, which is not remembered; `kind` is s, p, v or c."""
        return key_of(self._salt, kind, text)

    def link(self, scan_key: str, image: str, folder: str = IMAGES) -> str:
        """Path of a link below ``private`` that stands for the image; `save` makes it.

        In the folder `LABEL_MAPS` it stands for the label map of the scan.
        """
        known = (".nii", ".nii.gz", *ARCHIVE_ENDS)
        ends = [end for end in known if image.lower().endswith(end)]
        link = os.path.abspath(self._private / folder / "".join([scan_key, *ends]))
        self._images[link] = image
        return link

    def target(self, link: str) -> str:
        """The image that a link stands for, also before `save` has made it."""
        return self._images.get(link, link)

    def _key(self, kind: str, text: str) -> str:
        key = key_of(self._salt, kind, text)
        self._ids[key] = text
        return key

    def save(self) -> None:
        """Write the map, which only grows, and the links.

        Raises
        ------
        OutputError, TemporaryError
            If they cannot be written.
        """
        make_private(self._private)
        ids = {**read_map(self._private.parent), **self._ids}
        content = map_bytes(ids)
        commit(self._private / IDS, lambda stream: stream.write(content), mode=0o600)
        make_private(self._private / IMAGES)
        for folder in {os.path.dirname(link) for link in self._images}:
            make_private(Path(folder))
        for link, image in self._images.items():
            _point(link, image)


def key_of(salt: bytes, kind: str, text: str) -> str:
    """``<kind>_`` and 16 hex digits of HMAC-SHA256(salt, NFC(text))."""
    normal = unicodedata.normalize("NFC", text).encode()
    return f"{kind}_{hmac.new(salt, normal, hashlib.sha256).hexdigest()[:16]}"


def open_keys(results: Path, salt_file: Path | None, has_keys: bool, *, saved: bool = True) -> Keys:
    """Keys of a results folder, with a new salt if it has none yet.

    Parameters
    ----------
    results : Path
        Results folder.
    salt_file : Path, optional
        Where the salt is; ``<results>/private/salt`` if not given.
    has_keys : bool
        Results stand under keys already, so that a salt must be there.
    saved : bool
        Write a new salt; without it the keys are for a look ahead.

    Raises
    ------
    ConfigError
        If the salt is lost, no salt, or not the one that the results were made with.
    """
    path = salt_file or results / PRIVATE / SALT
    known = read_map(results)
    if not path.exists():
        if has_keys or known:
            raise ConfigError(
                f"{path}: the salt is not there, but the results hold hashed ids\n"
                "  Restore the file from a backup, or name it with `salt_file`. With another salt "
                "every scan would get another key; then choose a new results folder."
            )
        if not saved:
            return Keys(results, secrets.token_bytes(SALT_BYTES))
        make_private(results / PRIVATE)
        commit_once(path, secrets.token_bytes(SALT_BYTES))
        log.info("%s: a new salt; without it no id gets the same key again, so keep a copy", path)
    salt = read_salt(path, results)
    if path.stat().st_mode & 0o077:
        log.warning("%s: others may read the salt; chmod 600 it", path)
    return Keys(results, salt)


def read_salt(path: Path, results: Path) -> bytes:
    """The salt in a file, which must be the one that the keys of a results folder were made with.

    Raises
    ------
    ConfigError
        If it cannot be read, is no salt, or another one.
    """
    try:
        salt = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the salt cannot be read ({error.strerror})") from error
    if len(salt) < LEAST_SALT_BYTES:
        raise ConfigError(
            f"{path}: {len(salt)} bytes are too few for a salt, {LEAST_SALT_BYTES} are the least\n"
            "  If no results were made with it, delete it: cohortvol makes one of "
            f"{SALT_BYTES} random bytes."
        )
    for key, text in read_map(results).items():
        if key_of(salt, key[0], text) != key:
            raise ConfigError(
                f"{path}: not the salt that {results} was made with\n"
                "  Name that one with `salt_file`, or choose a new results folder."
            )
        break
    return salt


def map_bytes(ids: Mapping[str, str]) -> bytes:
    """The map of key to id as ``ids.csv`` holds it."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["kind", "key", "id"])
    rows.writerows([_KINDS[key[0]], key, ids[key]] for key in sorted(ids))
    return text.getvalue().encode()


def read_map(results: Path) -> dict[str, str]:
    """Key to id, as far as the map of a results folder goes; empty if there is none.

    Raises
    ------
    ConfigError
        If it is there but may not be read.
    """
    path = results / PRIVATE / IDS
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            return {row["key"]: row["id"] for row in csv.DictReader(stream)}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error


def forget(results: Path, keys: Iterable[str]) -> None:
    """Take keys out of the map of a results folder."""
    ids, gone = read_map(results), set(keys)
    kept = {key: text for key, text in ids.items() if key not in gone}
    if len(kept) < len(ids):
        content = map_bytes(kept)
        commit(results / PRIVATE / IDS, lambda stream: stream.write(content), mode=0o600)


def keys_of_scans(results: Path) -> dict[str, str]:
    """Id of every scan, in NFC, to its key; empty for results that were made without keys.

    Raises
    ------
    ConfigError
        If the map is there but may not be read.
    """
    ids = read_map(results)
    return {unicodedata.normalize("NFC", ids[key]): key for key in ids if key.startswith("s_")}


def make_private(folder: Path) -> None:
    """A folder that only its owner may look into."""
    refuse_planted(folder)
    make_folder(folder.parent)
    if not folder.is_dir():
        folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def _point(link: str, image: str) -> None:
    """Make a link to an image, unless it is there; none to what is missing, so that it is missed.

    An image that is a link itself is followed, so that a dangling one is told as what it is.
    """
    target = os.path.realpath(image) if os.path.lexists(image) else None
    if os.path.islink(link):
        if os.readlink(link) == target:
            return
        os.unlink(link)
    if target is not None:
        os.symlink(target, link)
