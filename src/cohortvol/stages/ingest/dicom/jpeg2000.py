"""JPEG 2000 (ISO/IEC 15444-1, annex A) that was damaged: decoders make a picture of it anyway."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_START, _TILE, _DATA, _END = b"\xff\x4f", b"\xff\x90", b"\xff\x93", b"\xff\xd9"
_STYLE, _WAVELET = b"\xff\x52", 13  # marker of the coding style; where its wavelet is named
_REVERSIBLE, _GREY = b"\1", 2  # the wavelet that loses nothing (A.6.1); OpenJPEG's name of a colour
_OF_PACKETS = (0x91, 0x92)  # markers before and behind the header of a packet
LOST = 255
"""Bytes of one value in a row that packing does not make; a sector of a disk has 512."""


def packets_hold(frame: bytes | memoryview) -> bool:
    """Whether parts of tiles follow one another, and packed bytes can be such.

    An FF among them is never followed by a byte above 8F (A.1.4), which would be a marker. Whether
    the end is there the decoder says.

    Parameters
    ----------
    frame : bytes
        Codestream of one frame. One in boxes, as in files of JPEG 2000, is not looked at.
    """
    if frame[:2] != _START:
        return True
    try:
        return all(_can_be_packed(tile) for tile in _tiles(bytes(frame)))
    except ValueError:
        return False


def bytes_more(frame: bytes, bits_stored: int) -> int | None:
    """How many bytes a frame has more than OpenJPEG makes of its picture.

    About the same number in every sound slice of a series, whatever packed it: the picture decides
    how long it is. A picture made of damaged bytes takes another number of them.

    Parameters
    ----------
    frame : bytes
        Codestream of one frame, padded or not.
    bits_stored : int
        Of a pixel.

    Returns
    -------
    int or None
        None where nothing can be said: packed with loss, in boxes, or not readable.
    """
    from openjpeg.utils import decode, encode_array  # `check_decoders` says it where it is missing

    wavelet = frame.find(_STYLE) + _WAVELET
    if frame[:2] != _START or frame[wavelet : wavelet + 1] != _REVERSIBLE:
        return None
    try:
        end = frame.rindex(_END) + len(_END)
        picture = decode(frame)
        again = encode_array(picture, bits_stored=bits_stored, photometric_interpretation=_GREY)
    except (RuntimeError, ValueError):
        return None
    return end - len(again)


def _tiles(stream: bytes) -> Iterator[np.ndarray]:
    """Packed bytes of every part of a tile; ValueError where one does not begin or end."""
    at = _after_segments(stream, len(_START), _TILE)
    while stream[at : at + 2] == _TILE:
        length = int.from_bytes(stream[at + 6 : at + 10], "big")
        stop = at + length if length else stream.rindex(_END)
        start = _after_segments(stream, at, _DATA) + 2
        if start > stop:
            raise ValueError("a part of a tile ends before it begins")
        yield np.frombuffer(stream[start:stop], np.uint8)
        at = stop
    if at < len(stream) and stream[at : at + 2] != _END:
        raise ValueError("no end where the last part of a tile ends")


def _after_segments(stream: bytes, at: int, until: bytes) -> int:
    """Where a marker stands behind marker segments, each of which says how long it is."""
    while stream[at : at + 2] != until:
        if stream[at : at + 1] != b"\xff" or at > len(stream) - 4:
            raise ValueError("no marker where one must be")
        at += 2 + max(2, int.from_bytes(stream[at + 2 : at + 4], "big"))
    return at


def _can_be_packed(tile: np.ndarray) -> bool:
    behind = tile[1:][tile[:-1] == 0xFF]
    changes = np.flatnonzero(np.diff(tile, prepend=tile[:1] ^ 1, append=tile[-1:] ^ 1))
    return not (
        np.any((behind > 0x8F) & ~np.isin(behind, _OF_PACKETS)) or np.any(np.diff(changes) >= LOST)
    )
