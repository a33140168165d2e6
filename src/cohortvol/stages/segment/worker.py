"""The resident worker: one shard, one model in memory, one receipt per scan."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cohortvol.compute.installation import loading
from cohortvol.compute.resources import Job
from cohortvol.errors import InUseError, TemporaryError
from cohortvol.models.card import Card, choose_profile, load_card, restrict, segmentation_key
from cohortvol.models.folders import verify
from cohortvol.stages.segment.elsewhere import LabelMaps, dseg_of
from cohortvol.stages.segment.pipeline import Pipeline
from cohortvol.stages.segment.progress import ShardProgress
from cohortvol.stages.segment.receipts import ShardFolder, Work
from cohortvol.stages.segment.stopping import Stop, stop_on_signals
from cohortvol.store.files import commit_text, make_folder, refuse_planted
from cohortvol.store.kept import Kept
from cohortvol.store.locks import IN_USE, lock
from cohortvol.store.schemas import INGEST, SEGMENT
from cohortvol.store.tables import append_rows, read_table, write_table

if TYPE_CHECKING:
    import torch

    from cohortvol.stages.segment.infer import Segmenter

LOG = logging.getLogger(__name__)

LOOK_AGAIN_SECONDS = 2.0
LABEL_NAMES = "dseg.tsv"


def run_shard(
    ingest: Path,
    model: Path,
    folder: Path,
    out: Path,
    profile: str | None = None,
    threads: int = 0,
    device: str = "auto",
    roi: Sequence[str] = (),
    attempts_left: int = 0,
    workers: int | None = None,
    job: Job | None = None,
    kept: Kept | None = None,
    store: str = "files",
) -> dict[str, int]:
    """Segment the ready scans of one shard, and write the table of them.

    Scans whose receipt stands are not touched. The model is loaded once, and only if a scan
    needs it; where label maps were made elsewhere, these are read. SIGTERM, SIGUSR1 and SIGINT
    end the run after the scan in hand.

    Parameters
    ----------
    ingest : Path
        ``ingest/<shard>.parquet``; only its rows with state ``ready`` are segmented.
    model : Path
        The model folder.
    folder : Path
        ``segment/<model>/<shard>`` below the results folder, for label maps and receipts.
    out : Path
        ``segment/<model>/<shard>.parquet``, written when every scan has a receipt.
    profile : str, optional
        Inference profile; the card's default if not given.
    threads : int
        CPU threads for torch; 0 takes what the machine gives.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
    roi : sequence of str
        Structures wanted; all of the model's if empty.
    attempts_left : int
        Times this shard may still be run with more memory; while there are any, a scan that does
        not fit is left for the next instead of given up.
    workers : int, optional
        Threads that read and prepare scans ahead of the network; 0 does one scan after the other
        in this thread alone. `workers_for` the device if not given.
    job : Job, optional
        Where to count what the scans take.
    kept : Kept, optional
        Rows of scans that were measured and whose label map need not be there.
    store : str
        See `ShardFolder`.

    Returns
    -------
    dict of str to int
        Number of scans by state.

    Raises
    ------
    ModelError, TableError
        If the model or the ingest table cannot be used.
    InstallationError
        If torch cannot be loaded, or cannot use this GPU: a repetition ends the same.
    TemporaryError
        If the run was told to stop, the disk is full, the GPU is lost, or a scan needs more
        memory: run it again.
    """
    folder, out = Path(folder), Path(out)
    card = restrict(load_card(Path(model)), roi)
    works = _works(Path(ingest), card, profile, kept)
    verify(card)
    refuse_planted(folder, *folder.absolute().parents[:2])  # the model's, that of segment
    shard = ShardFolder(make_folder(folder), store)
    _write_label_names(folder / LABEL_NAMES, card)

    def load_segmenter() -> Segmenter | LabelMaps:
        if card.elsewhere:
            return LabelMaps(card, job)
        gc.disable()  # none of the many objects that torch brings is garbage: 0.4 s
        try:
            with loading("torch and nnU-Net"):
                from cohortvol.stages.segment.infer import Segmenter
        finally:
            gc.enable()
        segmenter = Segmenter.load(
            card.folder, profile=profile, device=device, threads=threads, roi=roi
        )
        if job is not None:
            _describe_device(job, segmenter.device)
        return segmenter

    with stop_on_signals() as stop, _alone(folder, stop):
        shard.sweep()
        todo = [work for work in works if not shard.is_finished(work)]
        with ShardProgress(folder.name, len(todo), len(works) - len(todo), job) as progress:
            Pipeline(shard, load_segmenter, progress, stop, attempts_left, workers).run(todo)
        return _write_segment_table(shard, works, out)


def _describe_device(job: Job, device: torch.device) -> None:
    """The model is in memory: from here on the job works for its scans."""
    import torch

    from cohortvol.models.networks import devices

    job.device = device.type
    if device.type == "cuda":
        job.gpu_name = torch.cuda.get_device_name(device)
        job.gpu_driver = devices.driver().said
        job.gpu_memory_bytes = partial(torch.cuda.max_memory_allocated, device)
    job.ready()


@contextmanager
def _alone(folder: Path, stop: Stop) -> Iterator[None]:
    """Hold a shard's folder, and wait as long as another job holds it.

    There are two where the driver of a cluster was killed and its jobs went on. The second finds
    the scans of the first finished.
    """
    told = False
    while True:
        try:
            held = lock(folder / IN_USE, f"{folder.name}: {{owner}} is working on this shard")
            break
        except InUseError as error:
            if stop:
                raise TemporaryError(f"{error}\n  Run the same command again.") from error
            if not told:
                LOG.warning("%s; waiting for it", error)
                told = True
            time.sleep(LOOK_AGAIN_SECONDS)
    with held:
        yield


def _works(ingest: Path, card: Card, profile: str | None, kept: Kept | None) -> list[Work]:
    table = read_table(ingest, INGEST)
    ready = table[table["state"] == "ready"].sort_values("scan_id")
    chosen = choose_profile(card, profile)
    key = segmentation_key(card, chosen.name)
    return [
        Work(
            scan_id=row["scan_id"],
            image=Path(row["image"]),
            image_sha256=row["image_sha256"],
            model=card.id,
            profile=chosen.name,
            segmentation_key=key,
            keeps_softmax=chosen.keeps_softmax,
            measured_sha256=kept.label_map_sha256(row) if kept is not None else None,
            **(dseg_of(row) if card.elsewhere else {}),
        )
        for row in ready.to_dict("records")
    ]


def _write_label_names(path: Path, card: Card) -> None:
    lines = {
        label: f"{label}\t{name}" + (f"\t{layer}" if len(card.layers) > 1 else "")
        for layer, labels in enumerate(card.labels_by_layer)
        for label, name in labels.items()
    }
    header = "index\tname" + ("\tlayer" if len(card.layers) > 1 else "")
    text = "\n".join([header, *(lines[label] for label in sorted(lines))]) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        commit_text(path, text)


def _write_segment_table(shard: ShardFolder, works: list[Work], out: Path) -> dict[str, int]:
    folder = Path(os.path.abspath(shard.folder))
    results = [folder, *folder.parents][:4][-1]  # results/segment/<model>/<shard>
    rows = []
    for work in works:
        receipt = shard.receipt(work.scan_id)
        if receipt is None:
            raise TemporaryError(
                f"{shard.folder}: the receipt of {work.scan_id} went away while the shard ran\n"
                "  Is another run working in the same folder? Run the same command again."
            )
        row = {name: receipt.get(name) for name in SEGMENT}
        if receipt["label_map"] is not None:
            row["label_map"] = (folder / receipt["label_map"]).relative_to(results).as_posix()
        row["cohortvol_version"] = receipt["versions"]["cohortvol"]
        row["precision"] = (receipt.get("numerics") or {}).get("precision")
        rows.append(row)
    write_table(out, append_rows(rows, SEGMENT), SEGMENT)
    counts = Counter(str(row["state"]) for row in rows)
    LOG.info("%s: %s", shard.folder.name, ", ".join(f"{n} {s}" for s, n in sorted(counts.items())))
    return dict(counts)
