"""What comes of a list of people who withdrew, on a finished results folder.

`Cohort.judge` gives one of `withdrawal_lists` to the manifest stage and to ``cohortvol verify``,
and says what came of it: everybody meant is removed and proven to be, or the list is refused. What
may never be is that somebody meant stays while both commands end with 0, or that somebody else
goes.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import re
import shutil
from pathlib import Path

import pandas as pd

from cohortvol import cli
from threshold_cohort import (
    Row,
    Settings,
    Source,
    Stages,
    image_bytes,
    threshold_in_place_of_the_network,
)
from withdrawal_lists import NUMBERS, PEOPLE, WithdrawalList

REMOVED, IN_PART, REFUSED, NOBODY = (
    "removed and proven", "removed what is known, told of the rest", "refused", "names nobody"
)  # fmt: skip
OUTCOMES = (REMOVED, IN_PART, REFUSED, NOBODY)


class Cohort:
    """A finished results folder with a scan or two of everybody, and what decides about lists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = Source(folder / "source")
        self.names: dict[str, list[str]] = {}
        for n, subject in enumerate((*PEOPLE, NUMBERS[0])):
            scan_id, image = f"CANARY{n:02d}scan", f"CANARY{n:02d}image.nii.gz"
            self.source.rows.append(Row(scan_id, subject, image, 30 + n))
            self.source.write_image(image, image_bytes(20 + n))
            self.names.setdefault(subject, []).append(f"CANARY{n:02d}")
        self.source.write()
        self.source.withdrawals.unlink()
        self.results = folder / "finished"
        self._stages(self.results, all_of_them=True)
        logs = self.results / "logs" / "ingest"
        logs.mkdir(parents=True)
        lines = [
            f"{row.scan_id}: read {self.source.image(row.image)}\n" for row in self.source.rows
        ]
        (logs / "0000.log").write_text("".join(lines))
        self._cohortvol("review", "--todo", "--results", self.results, "--out",
                        self.results / "todo.csv")  # fmt: skip

    def judge(self, one: WithdrawalList) -> str:
        """One of `OUTCOMES`, or what went wrong."""
        place = self.folder / "judged"
        shutil.rmtree(place, ignore_errors=True)
        results = shutil.copytree(self.results, place / "results", symlinks=True)
        given = place / one.file
        given.write_bytes(one.content)
        before = _snapshot(results)
        run = ("manifest", "--manifest", self.source.manifest, "--results", results,
               "--shard-size", "3", "--withdrawals", given)  # fmt: skip
        code, told = self._cohortvol(*run)
        changed = _snapshot(results) != before
        if code in (0, 3) and changed:
            self._stages(results, all_of_them=False)
        proof, _ = self._cohortvol("verify", "--results", results, "--withdrawn", given)
        gone = {who for who in PEOPLE if not self._left(results, who)}
        return self._verdict(one, code, proof, gone, changed, told)

    @staticmethod
    def _verdict(
        one: WithdrawalList, code: int, proof: int, gone: set[str], changed: bool, told: str
    ) -> str:
        meant = set(one.meant)
        if "Traceback" in told or "bug" in told:
            return f"a bug: {told}"
        if gone - meant:
            return f"removed somebody else: {sorted(gone - meant)}"
        if code == 0 and not meant:
            return NOBODY if proof else "proven for nobody"
        if code == 0:
            left = sorted(meant - gone)
            if left:
                return f"ended with 0, and {left} stay"
            return REMOVED if proof == 0 else f"removed, and verify ends with {proof}"
        if proof == 0:
            return f"ended with {code}, and verify with 0"
        if not changed:
            return REFUSED if not gone else f"refused, and {sorted(gone)} gone"
        return IN_PART if code == 3 else f"ended with {code} after it had begun"

    def _left(self, results: Path, who: str) -> bool:
        """Whether anything there names a person, told by other means than those of `verify`."""
        pattern = re.compile("|".join(self.names[who]).encode())
        for path in results.rglob("*"):
            if pattern.search(str(path.relative_to(results)).encode()):
                return True
            if path.is_file():
                content = path.read_bytes()
                if path.suffix == ".parquet":
                    content += pd.read_parquet(path).to_csv().encode()
                elif path.suffix == ".gz":
                    content += gzip.decompress(content)
                if pattern.search(content):
                    return True
        return False

    def _stages(self, results: Path, *, all_of_them: bool) -> None:
        self.source.withdrawals.touch()
        stages = Stages(self.source, Settings(), results)
        with threshold_in_place_of_the_network():
            if all_of_them:
                stages.all()
            stages.assemble()

    @staticmethod
    def _cohortvol(*words: object) -> tuple[int, str]:
        stream, logger = io.StringIO(), logging.getLogger()
        handlers = logger.handlers[:]
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            code = cli.run([str(word) for word in words])
        logger.handlers[:] = handlers
        return code, stream.getvalue()


def _snapshot(results: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in results.rglob("*") if path.is_file()}
