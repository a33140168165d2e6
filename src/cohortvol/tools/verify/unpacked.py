"""What a file holds, in every form in which a name may lie in it: as it is, unpacked, decoded."""

from __future__ import annotations

import base64
import binascii
import bz2
import csv
import html
import io
import json
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cohortvol.store.archives import ZIP_DAMAGE

MOST_BYTES = 2**31
"""Bytes that a packed file is unpacked to; beyond, it counts as not looked into."""
DEEPEST = 5
"""Archives within archives that are opened; beyond, they count as not looked into."""

ID_FIELDS = {"scan_id", "subject_id", "participant_id", "session_id", "key", "id"}
"""Columns and fields in which ids stand by themselves."""

_CLOSED = {b"7z\xbc\xaf\x27\x1c": "a 7z archive", b"Rar!\x1a\x07": "a RAR archive"}
_DATA = re.compile(rb"base64,([A-Za-z0-9+/=\s]{16,})")
_STREAM = re.compile(rb"stream\r?\n(.*?)endstream", re.DOTALL)
_STRING = re.compile(rb"\(((?:[^()\\]|\\.)*)\)", re.DOTALL)
_KERNED = re.compile(rb"\[((?:[^\[\]()]|\((?:[^()\\]|\\.)*\))*)\]\s*TJ", re.DOTALL)
_HEXADECIMAL = re.compile(rb"<((?:[0-9A-Fa-f]{2}|\s){4,})>")


class Part(NamedTuple):
    """Bytes to be searched; `is_field` where they are ids, one a line, so that short ones count."""

    content: bytes
    is_field: bool = False


def parts_of(
    content: bytes, name: str, unread: Callable[[str], None], depth: int = 0
) -> Iterator[Part]:
    """A file as it is, and what can be unpacked or decoded of it.

    Parameters
    ----------
    content : bytes
        The file.
    name : str
        Its name; its end says what text is.
    unread : callable
        Told why something in it cannot be looked into.
    depth : int
        Archives around it.
    """
    yield Part(content)
    for mark, what in _CLOSED.items():
        if content.startswith(mark):
            unread(what)
    unpack = next((way for mark, way in _PACKED.items() if content.startswith(mark)), None)
    if unpack is not None:
        yield from _again(unpack(content, unread), PurePath(name).stem, unread, depth)
    elif content.startswith(b"PK\x03\x04"):
        yield from _members(_zipped(content, unread), unread, depth)
    elif content[257:262] == b"ustar":
        yield from _members(_tarred(content, unread), unread, depth)
    elif content.startswith(b"PAR1"):
        yield from _columns(content, unread)
    elif content.startswith(b"\x89PNG"):
        yield from map(Part, _texts_of_png(content))
    elif content.startswith(b"%PDF"):
        yield from map(Part, _texts_of_pdf(content))
    else:
        yield from _text(content, name, unread, depth)


def _again(
    content: bytes | None, name: str, unread: Callable[[str], None], depth: int
) -> Iterator[Part]:
    if content is None:
        return
    if depth >= DEEPEST:
        unread(f"archives within {DEEPEST} archives")
        return
    yield from parts_of(content, name, unread, depth + 1)


def _members(
    members: Iterator[tuple[str, bytes | None]], unread: Callable[[str], None], depth: int
) -> Iterator[Part]:
    for name, content in members:
        yield Part(name.encode(errors="surrogateescape"), is_field=True)
        yield from _again(content, name, unread, depth)


def _inflated(content: bytes, unread: Callable[[str], None], bits: int = 31) -> bytes:
    """All members of a gzip file, as far as they can be unpacked."""
    out, left, size = [], content, 0
    try:
        while left:
            packed = zlib.decompressobj(bits)
            out.append(packed.decompress(left, MOST_BYTES - size))
            size += len(out[-1])
            if not packed.eof:
                unread("packed data without an end")
                break
            left = packed.unused_data.lstrip(b"\0")
    except zlib.error:
        unread("damaged packed data")
    return b"".join(out)


def _streamed(kind: Callable[[], Any]) -> Callable[[bytes, Callable[[str], None]], bytes]:
    def unpack(content: bytes, unread: Callable[[str], None]) -> bytes:
        out, left, size = [], content, 0
        try:
            while left and size < MOST_BYTES:
                packed = kind()
                out.append(packed.decompress(left, MOST_BYTES - size))
                size += len(out[-1])
                if not packed.eof:
                    unread("packed data without an end")
                    break
                left = packed.unused_data
        except (OSError, ValueError, lzma.LZMAError, EOFError):
            unread("damaged packed data")
        return b"".join(out)

    return unpack


def _zstd(content: bytes, unread: Callable[[str], None]) -> bytes:
    try:
        with pa.CompressedInputStream(pa.BufferReader(content), "zstd") as stream:
            unpacked: bytes = stream.read(MOST_BYTES)
    except (OSError, pa.ArrowException):
        unread("damaged packed data")
        return b""
    if len(unpacked) >= MOST_BYTES:
        unread(f"over {MOST_BYTES} bytes unpacked")
    return unpacked


_PACKED: dict[bytes, Callable[[bytes, Callable[[str], None]], bytes]] = {
    b"\x1f\x8b": _inflated,
    b"BZh": _streamed(bz2.BZ2Decompressor),
    b"\xfd7zXZ": _streamed(lzma.LZMADecompressor),
    b"\x28\xb5\x2f\xfd": _zstd,
}


def _zipped(content: bytes, unread: Callable[[str], None]) -> Iterator[tuple[str, bytes | None]]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield "", archive.comment
            for member in archive.infolist():
                yield member.filename, _member(archive, member, unread)
    except (*ZIP_DAMAGE, OSError):
        unread("a damaged ZIP archive")


def _member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, unread: Callable[[str], None]
) -> bytes | None:
    if member.file_size > MOST_BYTES:
        unread(f"over {MOST_BYTES} bytes unpacked")
        return None
    try:
        with archive.open(member) as stream:
            return stream.read(MOST_BYTES)
    except (*ZIP_DAMAGE, OSError):
        unread("a member of a ZIP archive that is encrypted or damaged")
        return None


def _tarred(content: bytes, unread: Callable[[str], None]) -> Iterator[tuple[str, bytes | None]]:
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isreg() else None
                yield member.name, stream.read() if stream else member.linkname.encode()
    except (tarfile.TarError, OSError, EOFError, ValueError):
        unread("a damaged TAR archive")


def _columns(content: bytes, unread: Callable[[str], None]) -> Iterator[Part]:
    """The values, metadata and dictionaries of a Parquet table."""
    try:
        stored = pq.ParquetFile(pa.BufferReader(content))
        texts = [field.name for field in stored.schema_arrow if pa.types.is_string(field.type)]
        table = stored.read(use_threads=False)
        reader = pq.ParquetFile(pa.BufferReader(content), read_dictionary=texts)
        coded = reader.read(columns=texts, use_threads=False)
    except (pa.ArrowException, OSError, ValueError):
        unread("a damaged Parquet table")
        return
    yield Part(_shown(table.schema.metadata))
    for field in table.schema:
        yield Part(_shown(field.metadata))
        values = (value for value in table[field.name].to_pylist() if value is not None)
        text = b"\n".join(v if isinstance(v, bytes) else str(v).encode() for v in values)
        yield Part(text, field.name in ID_FIELDS)
    # A dictionary may hold words that no row has any more.
    for column in (*coded.columns, *table.columns):
        for chunk in column.chunks if pa.types.is_dictionary(column.type) else ():
            words = (str(word) for word in chunk.dictionary.to_pylist() if word is not None)
            yield Part("\n".join(words).encode())


def _shown(metadata: dict[bytes, bytes] | None) -> bytes:
    return b"\n".join(word for pair in (metadata or {}).items() for word in pair)


def _texts_of_png(content: bytes) -> Iterator[bytes]:
    """The packed texts of a PNG picture; the others lie in it as they are."""
    at = 8
    while at + 12 <= len(content):
        size, kind = int.from_bytes(content[at : at + 4]), content[at + 4 : at + 8]
        data = content[at + 8 : at + 8 + size]
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            starts = [match.start() for match in re.finditer(rb"\x78", data)]
            yield from filter(None, (_tried(data[start:]) for start in starts))
        at += size + 12


def _tried(content: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(content, MOST_BYTES)
    except zlib.error:
        return b""


def _texts_of_pdf(content: bytes) -> Iterator[bytes]:
    """Streams of a PDF page unpacked, with text that is drawn letter by letter joined."""
    for stream in (content, *map(_tried, _STREAM.findall(content))):
        if stream is not content:
            yield stream
        for pieces in _KERNED.findall(stream):
            yield b"".join(_STRING.findall(pieces))
        for digits in _HEXADECIMAL.findall(stream):
            text = bytes.fromhex(digits.decode()) if len(b"".join(digits.split())) % 2 == 0 else b""
            yield _decoded(text) or text


def _decoded(content: bytes) -> bytes:
    """Text in UTF-16 as UTF-8; empty where it is none."""
    if not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return b""
    return content.decode("utf-16", errors="replace").encode()


def _text(content: bytes, name: str, unread: Callable[[str], None], depth: int) -> Iterator[Part]:
    """Text as it is behind escapes, ids that stand by themselves, and pictures within a page."""
    content = _decoded(content) or content
    kind = PurePath(name).suffix.lower()
    if content and kind in (".csv", ".tsv", ".txt", ".tab"):
        yield Part(content)
    if kind == ".json":
        yield from _fields(content)
    elif kind in (".csv", ".tsv", ".tab"):
        yield from _cells(content, "," if kind == ".csv" else "\t")
    elif kind in (".html", ".htm", ".svg", ".xml"):
        yield Part(html.unescape(content.decode(errors="replace")).encode())
        for packed in _DATA.findall(content):
            try:
                yield from _again(base64.b64decode(packed), "", unread, depth)
            except binascii.Error:
                continue


def _cells(content: bytes, delimiter: str) -> Iterator[Part]:
    """The columns of ids of a table."""
    text = io.StringIO(content.decode("utf-8-sig", errors="replace"), newline="")
    try:
        rows = list(csv.DictReader(text, delimiter=delimiter))
    except csv.Error:
        return
    for name in ID_FIELDS & set(rows[0] if rows else ()):
        yield Part("\n".join(row[name] or "" for row in rows).encode(), is_field=True)


def _fields(content: bytes) -> Iterator[Part]:
    """Text as it is behind the escapes of JSON, and the fields of ids."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return
    yield Part(json.dumps(value, ensure_ascii=False).encode())
    if isinstance(value, dict):
        yield from (Part(str(value[name]).encode(), True) for name in ID_FIELDS & set(value))
