"""Receipts: what a shard folder holds of each scan. The receipt is the commit point.

``<scan_id>_dseg.nii.gz`` is written first, ``<scan_id>.json`` last, each a file or a member of the
shard's pack. While a scan is at work there is the file ``<scan_id>.started.json``, which counts
starts that came to no end.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cohortvol import __version__
from cohortvol.errors import CohortvolError
from cohortvol.store import of_scans
from cohortvol.store.files import commit_json, digest_of, json_text, read_object
from cohortvol.store.of_scans import LABEL_MAP, MARK, RECEIPT, STORES
from cohortvol.store.storage import of_ours

if TYPE_CHECKING:
    from cohortvol.models.networks.softness import Ratios

STARTS_BEFORE_GIVING_UP = 3


@dataclass(frozen=True)
class Work:
    """What a receipt must match to stand: the scan, its bytes, and the key of the model.

    With `keeps_softmax` the receipt must hold the sums of the softmax as well; without, it may.
    `measured_sha256` is of the label map that was measured and need not be there any more. `dseg`
    and `dseg_sha256` are those of ingest where label maps were made elsewhere, `dseg` empty where
    there is none of this scan; None where networks make them.
    """

    scan_id: str
    image: Path
    image_sha256: str
    model: str
    profile: str
    segmentation_key: str
    keeps_softmax: bool = False
    measured_sha256: str | None = None
    dseg: str | None = None
    dseg_sha256: str | None = None


@dataclass(frozen=True)
class Claim:
    """One start of one scan, and the mark of an earlier one that came to no end."""

    work: Work
    starts: int
    attempts: int
    started_utc: str
    earlier: dict[str, Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a start ended, before it is written down."""

    state: str
    reason: str | None = None
    detail: str | None = None
    seconds: float = 0.0
    seconds_network: float | None = None
    label_map_sha256: str | None = None
    label_map_bytes: int | None = None
    softmax: Ratios | None = None
    numerics: dict[str, Any] | None = None


class ShardFolder:
    """Label maps, receipts and start marks of one shard.

    Parameters
    ----------
    folder : Path
        The folder; it must be there.
    store : str
        One of `STORES`: how label maps and receipts are written. Both are read.
    """

    def __init__(self, folder: Path, store: str = "files") -> None:
        self.folder = folder
        self._store = STORES[store](folder)

    def label_map(self, scan_id: str) -> Path:
        """Its path, by which `cohortvol.store.of_scans` finds it."""
        return self.folder / f"{scan_id}{LABEL_MAP}"

    def commit_label_map(self, scan_id: str, content: bytes) -> str:
        """Write a label map, before its receipt; sha256 of its bytes, in hex."""
        return self._store.commit(f"{scan_id}{LABEL_MAP}", content)

    def _mark(self, scan_id: str) -> Path:
        return self.folder / f"{scan_id}{MARK}"

    def receipt(self, scan_id: str) -> dict[str, Any] | None:
        """The receipt of a scan, or None where there is none that parses."""
        return of_scans.receipt(self.folder, scan_id)

    def is_finished(self, work: Work) -> bool:
        """True where the receipt stands, so that the scan is not segmented again.

        A quarantined scan stays so, except where the file was not what ingest had read:
        it may be back. A failed one is always tried again.
        """
        receipt = self.receipt(work.scan_id)
        if receipt is None or not _matches(receipt, work):
            return False
        if receipt.get("state") == "quarantined":
            return not str(receipt.get("reason")).startswith("SRC_")
        if receipt.get("state") != "segmented":
            return False
        if work.keeps_softmax and receipt.get("softmax_labels") is None:
            return False
        path = self.label_map(work.scan_id)
        try:
            size = of_ours(path, lambda: of_scans.size(path))
        except FileNotFoundError:
            known = receipt.get("label_map_sha256")
            return known is not None and known == work.measured_sha256
        return size == receipt.get("label_map_bytes")

    def starts(self, work: Work) -> int:
        """Starts of this work that came to no end: a crash, or a kill from outside."""
        mark = self._earlier(work)
        return int(mark["starts"]) if mark is not None else 0

    def claim(self, work: Work) -> Claim:
        """Mark a scan as started. An older receipt of it no longer stands and goes away.

        Where the storage fails no start counts, even if the mark has its name by then.

        Raises
        ------
        OutputError, TemporaryError
            If it cannot be marked.
        """
        mark = self._earlier(work)
        earlier = mark if mark is not None else self.receipt(work.scan_id)
        attempts = 1
        if earlier is not None and _matches(earlier, work):
            attempts += int(earlier.get("attempts", 0))
        claim = Claim(
            work,
            starts=1 if mark is None else int(mark["starts"]) + 1,
            attempts=attempts,
            started_utc=datetime.now(UTC).isoformat(timespec="milliseconds"),
            earlier=mark,
        )
        try:
            commit_json(
                self._mark(work.scan_id),
                {
                    "attempts": attempts,
                    **_of_dseg(work),
                    "image_sha256": work.image_sha256,
                    "segmentation_key": work.segmentation_key,
                    "started_utc": claim.started_utc,
                    "starts": claim.starts,
                },
            )
            # For good: an older receipt must not outlive the label map that it speaks of.
            self._store.remove(f"{work.scan_id}{RECEIPT}")
        except Exception:
            self.give_back(claim)
            raise
        return claim

    def _earlier(self, work: Work) -> dict[str, Any] | None:
        """The mark of this work, if there is one."""
        mark = read_object(self._mark(work.scan_id))
        return mark if mark is not None and _matches(mark, work) else None

    def give_up(self, work: Work) -> Outcome:
        """End a scan that was started too often without an end."""
        mark = read_object(self._mark(work.scan_id)) or {}
        starts = int(mark.get("starts", 0))
        reason = "RUN_TIMEOUT" if mark.get("hung") else "RUN_CRASHED"
        outcome = Outcome("failed", reason, f"{starts} starts without an end")
        attempts, started_utc = int(mark.get("attempts", starts)), str(mark.get("started_utc"))
        self.finish(Claim(work, starts, attempts, started_utc), outcome)
        return outcome

    def note_hang(self, claim: Claim) -> None:
        """Write into the mark of a start that nothing moved any more."""
        mark = read_object(self._mark(claim.work.scan_id)) or {}
        commit_json(self._mark(claim.work.scan_id), {**mark, "hung": True})

    def give_back(self, claim: Claim) -> None:
        """Take back a start that ended through no fault of the scan; those before it still count.

        They are forgotten where their mark cannot be written, as on a full disk: better tried
        once more than blamed. Where not even a file can be removed, this start counts.
        """
        mark = self._mark(claim.work.scan_id)
        with suppress(CohortvolError, OSError):
            receipt = self.receipt(claim.work.scan_id) or {}
            has_ended = (
                receipt.get("started_utc") == claim.started_utc
            )  # though that was not synced
            if claim.earlier is not None and not has_ended:
                if read_object(mark) != claim.earlier:
                    commit_json(mark, claim.earlier)
                return
        with suppress(OSError):
            mark.unlink(missing_ok=True)

    def finish(self, claim: Claim, outcome: Outcome) -> None:
        """Write the receipt, which is the commit point, and take the start mark away."""
        work = claim.work
        segmented = outcome.state == "segmented"
        receipt = {
            "attempts": claim.attempts,
            "detail": outcome.detail,
            "host": platform.node(),
            "image_sha256": work.image_sha256,
            "label_map": self.label_map(work.scan_id).name if segmented else None,
            "label_map_bytes": outcome.label_map_bytes,
            "label_map_sha256": outcome.label_map_sha256,
            "model": work.model,
            "numerics": outcome.numerics,
            "profile": work.profile,
            "reason": outcome.reason,
            "scan_id": work.scan_id,
            "seconds": round(outcome.seconds, 3),
            "seconds_network": _rounded(outcome.seconds_network),
            "segmentation_key": work.segmentation_key,
            "started_utc": claim.started_utc,
            "state": outcome.state,
            "versions": versions() if work.dseg is None else versions(MADE_ELSEWHERE),
            **_of_dseg(work),
            **(outcome.softmax or {}),
        }
        # Of all else in it, so that `cohortvol verify` finds a receipt that was changed.
        receipt["receipt_sha256"] = digest_of(receipt)
        self._store.commit(f"{work.scan_id}{RECEIPT}", json_text(receipt).encode())
        self._mark(work.scan_id).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what killed writers left: temporary files, and marks of scans that had ended."""
        self._store.sweep()
        for path in of_ours(self.folder, lambda: [*self.folder.glob(f"*{MARK}")]):
            mark, receipt = read_object(path), self.receipt(path.name.removesuffix(MARK))
            if mark and receipt and mark.get("started_utc") == receipt.get("started_utc"):
                path.unlink(missing_ok=True)


NETWORKS = ("nnunetv2", "torch", "numpy", "nibabel")
MADE_ELSEWHERE = ("numpy", "nibabel")
"""Packages that decide about labels: of our own label maps, and of those that others made."""


@cache
def versions(packages: Sequence[str] = NETWORKS) -> dict[str, str]:
    """Versions of the packages that decide about labels."""
    return {
        "cohortvol": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def _matches(record: dict[str, Any], work: Work) -> bool:
    names = ("image_sha256", "segmentation_key", "dseg_sha256")
    return all(record.get(name) == getattr(work, name) for name in names)


def _of_dseg(work: Work) -> dict[str, str | None]:
    """What a receipt says of a label map that was made elsewhere; nothing of our own."""
    return {} if work.dseg is None else {"dseg_sha256": work.dseg_sha256}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
