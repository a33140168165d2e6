"""Published weights on their way to a model folder: found on this machine, or fetched once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from cohortvol.errors import ModelError, TemporaryError
from cohortvol.models.catalogue import KnownModel, KnownWeights
from cohortvol.store.files import commit_text, make_folder, sha256_of
from cohortvol.store.locks import lock

TIMEOUT_SECONDS = 60.0
CHUNK_BYTES = 2**20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")

Tell = Callable[[int, int | None], None]
"""Called with the bytes that have come and the bytes there are, as far as known."""


def places(home: str) -> list[Path]:
    """Folders in which a publisher's own program keeps weights, where they exist.

    Parameters
    ----------
    home : str
        ``totalsegmentator``, ``mrsegmentator``, ``vibesegmentator``, or empty for none of them.

    Returns
    -------
    list of Path
        First ``$COHORTVOL_WEIGHTS``, then those that the program's variables name, then those in
        which it keeps weights of its own accord, of its version today before those of earlier ones.
    """
    wanted = [_named("COHORTVOL_WEIGHTS"), *(_HOMES[home]() if home else ())]
    return list(dict.fromkeys(place for place in wanted if place is not None and place.is_dir()))


def _of_totalsegmentator() -> list[Path | None]:
    home = _named("TOTALSEG_HOME_DIR") or _of_user(".totalsegmentator")
    return [_named("TOTALSEG_WEIGHTS_PATH"), home / "nnunet" / "results"]


def _of_mrsegmentator() -> list[Path | None]:
    """Until its version 1.3 it kept weights beside its own code."""
    package = _package("mrsegmentator")
    return [_named("MRSEG_WEIGHTS_PATH"), _of_user(".mrsegmentator"), package]


def _of_vibesegmentator() -> list[Path | None]:
    """Run by TPTBox today, by a program of its own before."""
    package = _package("TPTBox")
    return [
        _named("VIBESEG_WEIGHTS_PATH"),
        _named("TOTALVIBE_WEIGHTS_PATH"),
        package and package / "segmentation" / "nnUNet" / "nnUNet_results",
    ]


_HOMES: dict[str, Callable[[], list[Path | None]]] = {
    "totalsegmentator": _of_totalsegmentator,
    "mrsegmentator": _of_mrsegmentator,
    "vibesegmentator": _of_vibesegmentator,
}


def _named(variable: str) -> Path | None:
    """What a variable names, if it is set."""
    return Path(os.environ[variable]) if os.environ.get(variable) else None


def _of_user(name: str) -> Path:
    """Not by Path.home(), which fails for an account without a home."""
    return Path(os.path.expanduser(f"~/{name}"))


def _package(name: str) -> Path | None:
    """Folder of a package that is installed beside this one; it is not imported."""
    found = find_spec(name)
    return Path(found.origin).parent if found is not None and found.origin else None


def locate(model: KnownModel, given: Sequence[Path]) -> list[Path]:
    """Folder or zip of every part of a known model.

    Parameters
    ----------
    given : sequence of Path
        Places to look: the folder or the zip itself, or a folder that holds it. `places` of its
        publisher if empty.

    Raises
    ------
    ModelError
        Naming every part that is not there, and where it is published.
    """
    where = given or places(model.home)
    found = [_locate(weights, where) for weights in model.parts]
    if len(model.parts) == 1 and found == [None]:
        found = [_itself(where, alone=len(given) == 1)]
    missing = [
        f"  {' or '.join(part.folders)}  ({part.url or f'{model.access}, see {model.source}'})"
        for part, place in zip(model.parts, found, strict=True)
        if place is None
    ]
    if missing:
        looked = ", ".join(map(str, where)) or "any place of its publisher's program"
        fetched = f", or `cohortvol models fetch {model.id}`" if model.fetchable else ""
        raise ModelError(
            f"model {model.id}: weights not found in {looked} (MOD_MISSING)\n"
            + "\n".join(missing)
            + f"\n  Name the folders or zips that hold them{fetched}."
        )
    return [place for place in found if place is not None]


def _itself(where: Sequence[Path], alone: bool) -> Path | None:
    """The place that is a trained nnU-Net itself, by any name; the one given, if alone."""
    if alone:
        return where[0] if where[0].exists() else None
    return next((place for place in where if (place / "plans.json").is_file()), None)


def _locate(weights: KnownWeights, where: Sequence[Path]) -> Path | None:
    patterns = [name for folder in weights.folders for name in (folder, f"{folder}.zip")]
    for place in where:
        if any(place.match(pattern) for pattern in patterns):
            return place
        inside = [path for pattern in patterns for path in sorted(place.glob(pattern))]
        if inside:
            return inside[0]
    return None


def fetch(url: str, folder: Path, sha256: str | None = None, tell: Tell | None = None) -> Path:
    """Download a file into a folder, going on where an earlier download was cut.

    Parameters
    ----------
    url : str
        Where it is published.
    folder : Path
        Where it is put, under the last part of its address; its sha256 beside it.
    sha256 : str, optional
        What its bytes must be. Without it they must be what was recorded when the file was
        fetched into this folder before.
    tell : callable, optional
        Told of progress.

    Returns
    -------
    Path
        The complete file; not downloaded again where it is there and unchanged.

    Raises
    ------
    ModelError
        If the bytes are not the ones named, or the address does not answer with the file.
    TemporaryError
        If the connection broke; the next call goes on from there.
    InUseError
        If another process is fetching it.
    """
    final = make_folder(folder) / urlsplit(url).path.rsplit("/", 1)[-1]
    record = final.with_name(f"{final.name}.sha256")
    expected = sha256 or (record.read_text().split()[0] if record.is_file() else None)
    with lock(final.with_name(f".{final.name}.lock"), f"{final}: {{owner}} is fetching it"):
        if final.is_file():
            found = _check(final, expected, url)
        else:
            partial = final.with_name(f".{final.name}.part")
            _download(url, partial, tell)
            found = _check(partial, expected, url)
            os.replace(partial, final)
        commit_text(record, f"{found}  {final.name}\n")
    return final


def _check(path: Path, expected: str | None, url: str) -> str:
    found = sha256_of(path)
    if expected is not None and found != expected.lower():
        path.unlink()
        raise ModelError(
            f"{url}: not the file expected (MOD_CHECKSUM)\n  sha256 {found}\n"
            f"  expected {expected.lower()}\n"
            "  The file was removed. Fetch it again; if that does not help, ask who published it."
        )
    return found


def _download(url: str, partial: Path, tell: Tell | None) -> None:
    here = partial.stat().st_size if partial.exists() else 0
    request = Request(url, headers={"Range": f"bytes={here}-"} if here else {})  # noqa: S310
    try:
        with urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            begins = _CONTENT_RANGE.match(answer.headers.get("Content-Range") or "")
            here = int(begins[1]) if begins else 0
            length = answer.headers.get("Content-Length")
            total = here + int(length) if length else None
            with open(partial, "r+b" if here else "wb") as stream:
                stream.seek(here)
                stream.truncate()
                while chunk := answer.read(CHUNK_BYTES):
                    stream.write(chunk)
                    here += len(chunk)
                    if tell is not None:
                        tell(here, total)
                stream.flush()
                os.fsync(stream.fileno())
    except HTTPError as error:
        if error.code == 416:  # all of it had come already
            return
        raise ModelError(f"{url}: {error.code} {error.reason}") from error
    except (URLError, TimeoutError, ConnectionError) as error:
        raise _cut(url, here, error) from error
    if total is not None and here < total:
        raise _cut(url, here, f"{total - here} bytes missing")


def _cut(url: str, here: int, why: object) -> TemporaryError:
    return TemporaryError(
        f"{url}: the connection broke after {here} bytes ({why})\n"
        "  Run the same command again, it goes on from there. Without internet on this machine,\n"
        "  run it on one that has."
    )
