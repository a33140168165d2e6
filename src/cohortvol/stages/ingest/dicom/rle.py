"""RLE (PS3.5 annex G) that was damaged: every row is packed by itself, so counts must come out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

_HEADER = 64  # bytes: the number of segments, and where each of up to 15 starts


def rows_come_out(frame: bytes | memoryview, rows: int, columns: int) -> bool:
    """Whether the runs of every segment of a frame end where its rows do, and it where they do.

    A byte lost or changed among the counts shifts all that follows; decoders fill up or cut off
    the end.

    Parameters
    ----------
    frame : bytes
        Packed pixels of one frame.
    rows, columns : int
        Of the frame; a segment has a byte for every pixel.
    """
    starts = [int.from_bytes(frame[at : at + 4], "little") for at in range(0, _HEADER, 4)]
    n, *offsets = starts
    if not 0 < n < len(starts) or offsets[0] != _HEADER:
        return False
    bounds = [*offsets[:n], len(frame)]
    return all(
        start < stop and _segment_comes_out(frame[start:stop], rows, columns)
        for start, stop in pairwise(bounds)
    )


def _segment_comes_out(segment: bytes | memoryview, rows: int, columns: int) -> bool:
    n_done, left = 0, columns
    for length in _runs(segment):
        left -= length
        if left < 0:
            return False
        if left == 0:
            n_done, left = n_done + 1, columns
            if n_done == rows:
                return True
    return False


def _runs(segment: bytes | memoryview) -> Iterator[int]:
    """Bytes that each run gives: 1 to 128 as they are, or one of them repeated (PackBits)."""
    at = 0
    while at < len(segment):
        count = segment[at]
        if count < 128:
            at += count + 2
            yield count + 1
        elif count > 128:
            at += 2
            yield 257 - count
        else:
            at += 1
