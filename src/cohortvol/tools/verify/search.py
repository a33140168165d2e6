"""The proof that somebody is gone: what stood for them looked for in every byte of a folder."""

from __future__ import annotations

import base64
import binascii
import html
import json
import os
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from cohortvol.errors import FINISHED_WITH_PROBLEMS, OK, ConfigError, TableError
from cohortvol.store import companions, of_scans
from cohortvol.store.channels import from_json
from cohortvol.store.keys import IDS, PRIVATE, SALT, is_key, key_of, read_map, read_salt
from cohortvol.store.removals import Removals, names_of_image
from cohortvol.store.schemas import INGEST, MANIFEST, SHARDS, Column
from cohortvol.store.tables import read_arrow
from cohortvol.store.withdrawals import read_withdrawals, unknown_of
from cohortvol.tools.verify.patterns import found_by
from cohortvol.tools.verify.unpacked import parts_of

LEAST_BYTES = 5
"""Shorter ids stand in numbers and packed bytes by chance: they are looked for where ids stand."""

SOFTWARE = {"conda", "conda-archive", "singularity", "apptainer"}
"""Folders of Snakemake's own that hold programs."""

_PLACES = ("image", "dseg")
_FURTHER = ("more_images", "companions")
_DIGESTS = ("image_sha256", "voxels_sha256", "dseg_sha256")


def search(
    results: Path,
    withdrawn: Path,
    salt_file: Path | None = None,
    beside: Collection[Path] = (),
) -> dict[str, Any]:
    """Look for people in file names, bytes, unpacked bytes and columns of every file.

    Looked for are the ids of the list; their keys; and what stood for their scans, for the images
    and label maps of these: ids, paths, names and digests, as the tables tell now and the record
    of removals remembers. A name is found where no letter or digit touches it on either side:
    ``sub-01`` is in ``sub-01_T1w``, and not in ``sub-010``. What stands for somebody who stays as
    well, such as the same image, is not looked for.

    Parameters
    ----------
    results : Path
        Folder to search, links not followed.
    withdrawn : Path
        See `read_withdrawals`.
    salt_file : Path, optional
        Salt of hashed ids; ``<results>/private/salt`` if that is there.
    beside : collection of Path
        Further folders to search, such as ``.snakemake``; those that are not there are passed over.

    Returns
    -------
    dict
        ``ids``, how many; ``with_keys``; ``names`` looked for; ``files`` and ``bytes`` searched,
        unpacked; ``hits``, number of ids by file; ``unread``, files that could not be looked into,
        each with the reason; ``unknown``, ids that were found nowhere and of whom no removal is on
        record, so that nothing is proven for them, by line of the list, with what they are nearly;
        ``short``, ids under ``least_bytes``; ``exit_code``.

    Raises
    ------
    ConfigError
        If the folder is not there, the salt of its keys neither or another one, a file cannot be
        read, or nobody is in the list.
    TableError
        If the list cannot be read with certainty, or the record of removals is damaged.
    """
    results = Path(results)
    lines = read_withdrawals(withdrawn)
    if not lines or not results.is_dir():
        what = f"{results}: no such folder" if lines else f"{withdrawn}: names nobody to look for"
        raise ConfigError(what)
    removals = Removals.read(results)
    tables = _Tables(results)
    salt = _salt(results, salt_file, tables)
    names_of = {one: _names(one, removals, tables, salt) for one in lines}
    spare = tables.names_without({name for names in names_of.values() for name in names})
    owners: dict[str, set[str]] = defaultdict(set)
    for one, names in names_of.items():
        for name in names - spare:
            owners[name].add(one)
    short = {name for name in owners if len(name.encode()) < LEAST_BYTES}
    anywhere = found_by({name: _forms(name) for name in owners if name not in short})
    in_fields = found_by({name: _forms(name) for name in owners})
    n_files, n_bytes, hits, unread = 0, 0, {}, {}
    seen: set[str] = set()
    for folder, path in _files(results, beside):
        n_files += 1
        shown = os.path.relpath(path, results) if folder == results else str(path)
        why: list[str] = []
        found = set(in_fields(_told(path, folder)))
        for part, is_field in _parts(path, why):
            n_bytes += len(part)
            found |= set((in_fields if is_field else anywhere)(part))
        if found:
            people = {one for name in found for one in owners[name]}
            seen |= people
            hits[shown] = len(people)
        if why:
            unread[shown] = "; ".join(dict.fromkeys(why))
    known = seen | {one for one in lines if removals.knows(one)}
    unknown = unknown_of(
        withdrawn, lines, known, tables.ids(), was_nearly=removals.was_nearly, show=False
    )
    lost = {} if unknown is None else {line: kind for line, kind, _ in unknown.ids.values()}
    return {
        "ids": len(lines),
        "with_keys": salt is not None,
        "names": len(owners),
        "files": n_files,
        "bytes": n_bytes,
        "hits": hits,
        "unread": unread,
        "unknown": lost,
        "short": len(short & set(lines)),
        "least_bytes": LEAST_BYTES,
        "exit_code": FINISHED_WITH_PROBLEMS if hits or lost or unread else OK,
    }


class _Tables:
    """What the tables of a results folder still know of everybody's scans and their files."""

    def __init__(self, results: Path) -> None:
        self._results = results
        self._rows: list[tuple[str, str, set[str]]] = []
        paths = [results / "manifest" / f"{name}.parquet" for name in ("scans", "shards")]
        of_all = [
            *_rows_of(paths[0], MANIFEST, ("scan_id", "subject_id", *_PLACES, *_FURTHER)),
            *_rows_of(paths[1], SHARDS, ("scan_id", "subject_id")),
        ]
        for path in sorted(results.glob("ingest/*.parquet")):
            of_all += _rows_of(path, INGEST, ("scan_id", *_PLACES, *_DIGESTS, "companions"))
        for folder in results.glob("segment/*/*/"):  # also of scans that left the manifest
            for scan_id in of_scans.receipts(folder):
                receipt = of_scans.receipt(folder, scan_id) or {}
                of_all += [receipt] if receipt.get("scan_id") else []
        for row in of_all:
            named = {row.get(name) or "" for name in (*_PLACES, *_DIGESTS)}
            named |= {*from_json(row.get("more_images"))}
            named |= companions.stands_for(row.get("companions"))
            images = set().union(*map(names_of_image, named))
            self._rows.append((row["scan_id"], row.get("subject_id") or row["scan_id"], images))

    def of(self, names: set[str]) -> set[str]:
        """Names of scans, images and label maps of these scans or subjects."""
        scans = {scan for scan, subject, _ in self._rows if names & {scan, subject}}
        found = {name for scan, _, images in self._rows if scan in scans for name in images}
        return scans | found

    def names_without(self, names: set[str]) -> set[str]:
        """Names of images of all scans that have none of these names."""
        return {
            image
            for scan, subject, images in self._rows
            if scan not in names and subject not in names
            for image in images
        }

    def ids(self) -> set[str]:
        """Ids of people and scans, where they are not hidden behind keys."""
        plain = {one for scan, subject, _ in self._rows for one in (scan, subject) if one}
        return {one for one in plain if not is_key(one)} | set(read_map(self._results).values())

    def have_keys(self) -> bool:
        """Whether keys stand in the place of ids."""
        return bool(self._rows) and all(is_key(scan) for scan, _, _ in self._rows)


def _rows_of(path: Path, schema: dict[str, Column], names: Iterable[str]) -> list[dict[str, Any]]:
    """Columns of a table; none where it is missing or damaged: its bytes are searched anyway."""
    try:
        table = read_arrow(path, {name: schema[name] for name in names})
    except TableError:
        return []
    rows: list[dict[str, Any]] = table.filter(pc.is_valid(table["scan_id"])).to_pylist()
    return rows


def _salt(results: Path, salt_file: Path | None, tables: _Tables) -> bytes | None:
    """The salt of the keys of a folder; None where it has no keys.

    Raises
    ------
    ConfigError
        If there are keys and no salt, or the salt is another one.
    """
    path = salt_file or results / PRIVATE / SALT
    if salt_file is None and not path.exists():
        if tables.have_keys() or (results / PRIVATE / IDS).exists():
            raise ConfigError(
                f"{path}: the salt is not there, but the results hold hashed ids\n"
                "  Name it with --salt-file; without it no key of anybody can be looked for."
            )
        return None
    return read_salt(path, results)


def _names(one: str, removals: Removals, tables: _Tables, salt: bytes | None) -> set[str]:
    """All that may stand for an id of the list."""
    names = {one} if one.startswith("sub-") else {one, f"sub-{one}"}
    keys = {key_of(salt, kind, name) for name in names for kind in "sp"} if salt else set()
    return names | keys | tables.of(names | keys) | removals.names(one)


def _forms(name: str) -> set[bytes]:
    """A name as text may have it: in either way of writing accents, escaped, in other encodings."""
    forms = set()
    for form in {unicodedata.normalize(way, name) for way in ("NFC", "NFD")}:
        plain = form.encode()
        forms |= {plain, html.escape(form).encode(), json.dumps(form)[1:-1].encode()}
        forms |= {form.encode("ascii", "xmlcharrefreplace"), b"".join(map(_in_address, plain))}
        with suppress(UnicodeEncodeError):
            forms.add(form.encode("cp1252"))
    return forms


def _in_address(byte: int) -> bytes:
    """A byte as it stands in the address of a page."""
    character = bytes([byte])
    return character if character.isalnum() or character in b"-_.~/" else b"%%%02X" % byte


def _files(results: Path, beside: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Files, links and empty folders, each with the folder that was searched."""
    for folder in (results, *(one for one in beside if one.is_dir())):
        for place, folders, names in os.walk(folder, onerror=_refuse):
            if folder != results:
                folders[:] = [name for name in folders if name not in SOFTWARE]
            links = [name for name in folders if Path(place, name).is_symlink()]
            yield from ((folder, Path(place, name)) for name in sorted([*names, *links]))
            if not names and not folders and Path(place) != folder:
                yield folder, Path(place)


def _refuse(error: OSError) -> None:
    """What was not looked at proves nothing."""
    raise _unread(str(error.filename), error) from error


def _unread(path: object, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path}: cannot be read ({error.strerror}), so nobody can be said to be gone\n"
        "  Run as the account that made the results."
    )


def _told(path: Path, folder: Path) -> bytes:
    """The name of a file, with what Snakemake's names of records stand for."""
    parts = path.relative_to(folder).parts
    try:
        packed = "".join(part.removeprefix("@") for part in parts[1:])
        record = base64.urlsafe_b64decode(packed) if folder.name == ".snakemake" else b""
    except (binascii.Error, ValueError):
        record = b""
    return os.fsencode(os.path.join(*parts)) + b"\n" + record


def _parts(path: Path, unread: list[str]) -> Iterator[tuple[bytes, bool]]:
    if path.is_symlink():
        yield os.fsencode(os.readlink(path)), True
        return
    if path.is_dir():
        return
    if not path.is_file():
        unread.append("no file, but a device or a pipe")
        return
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unread(path, error) from error
    yield from parts_of(content, path.name, unread.append)
