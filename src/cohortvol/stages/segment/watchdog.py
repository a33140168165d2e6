"""A process in which nothing moves any more is ended, so that the rest of its shard can go on."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable

from cohortvol.errors import TEMPORARY

LOG = logging.getLogger(__name__)

LEAST_SECONDS = {"cuda": 30 * 60.0, "cpu": 120 * 60.0}
"""Shorter standstills are no hang, by type of device: large scans take long on a CPU."""
TIMES_THE_LONGEST = 5.0
"""A standstill is a hang once it is so many times the longest scan of this process."""
LOOK_EVERY_SECONDS = 10.0


class Watchdog:
    """Ends the process with exit code 75 when nothing has moved for too long.

    Time in which the process was stopped, as by ``scontrol suspend``, does not count. Use as a
    context manager.

    Parameters
    ----------
    on_hang : callable
        Called before the end, to write down who may be to blame.
    least_seconds : callable
        Returns the shortest standstill that is a hang, seconds.
    look_every_seconds : float
        How often it is looked.
    """

    def __init__(
        self,
        on_hang: Callable[[], None],
        least_seconds: Callable[[], float],
        look_every_seconds: float = LOOK_EVERY_SECONDS,
    ) -> None:
        self._on_hang = on_hang
        self._least_seconds = least_seconds
        self._look_every = look_every_seconds
        self._still_s = 0.0
        self._longest_s = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def moved(self, scan_seconds: float = 0.0) -> None:
        """Something went on; a scan that ended says how long it took."""
        self._still_s = 0.0
        self._longest_s = max(self._longest_s, scan_seconds)

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(self._look_every):
            now = time.monotonic()
            self._still_s += min(now - before, 2 * self._look_every)
            before = now
            if self._still_s > max(self._least_seconds(), TIMES_THE_LONGEST * self._longest_s):
                self._end()

    def _end(self) -> None:
        LOG.error(
            "nothing has moved for %.0f min; this process ends, and the scan is tried again alone",
            self._still_s / 60,
        )
        try:
            self._on_hang()
            faulthandler.dump_traceback(sys.stderr)
        finally:
            logging.shutdown()
            os._exit(TEMPORARY)
