"""Which files of a BIDS dataset are scans, and which sidecars are about them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path

from cohortvol.errors import ConfigError, ManifestError
from cohortvol.stages.manifest.channels import column_of

_NAME = re.compile(
    r"(?P<stem>(?P<entities>(?:[a-z]+-[0-9A-Za-z+]+_)*)(?P<suffix>[0-9A-Za-z]+))"
    r"\.(?P<kind>nii|nii\.gz|json)"
)

_NOT_SCANS = frozenset({"defacemask", "dseg", "mask", "probseg"})
_QUANTITY = re.compile(r".*map|PDFF|MTsat|MTR", re.ASCII)
"""Suffixes of images whose values are a quantity, worked out from several images: such as T1map."""
_NOT_GREY = frozenset({"phase", "real", "imag"})

_NOT_WANTED = -1

SUFFIX = "suffix"
"""Stands among the entities of a channel for the last part of the name."""

Labels = Sequence[str | int | None]


@dataclass(frozen=True)
class Choice:
    """Which images are scans.

    Parameters
    ----------
    datatype : str
        Name of the folder they lie in.
    suffix : sequence of str
        Suffixes in order of preference: of a session the images with the first one that is
        there are taken. Empty takes every image but maps of a quantity.
    entities : mapping of str to sequence
        Labels in order of preference for an entity, such as ``{"acq": ["dixon"], "run": [1]}``;
        other images are left out. A number is that index, however many zeros it is written with;
        None is an image without the entity.
    channels : sequence of mappings
        Where a scan is several images: what tells each of them from the others in its name, such
        as ``[{"acq": "water"}, {"acq": "fat"}]``; ``suffix`` is the last part of a name. What one
        of them names, an image of another has not unless that names it too.
    companions : mapping of str to mapping
        What tells the image of a companion, in the same folder, from its scan, such as
        ``{"fat_fraction": {"suffix": "PDFF"}}``; their names are equal in all else.

    Raises
    ------
    ConfigError
        If channels cannot be told apart by what they name.
    """

    datatype: str = "anat"
    suffix: Sequence[str] = ()
    entities: Mapping[str, Labels] = field(default_factory=dict)
    channels: Sequence[Mapping[str, str | int | None]] = ()
    companions: Mapping[str, Mapping[str, str | int | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        chosen = {*self.entities, *([SUFFIX] if self.suffix else [])}
        if twice := sorted(chosen & self._telling):
            raise ConfigError(
                f"bids: channels are told apart by {', '.join(twice)}, by which scans are chosen "
                "too\n  Leave that out of `entities` and `suffix`: a channel says what it wants."
            )
        if len({SUFFIX in channel for channel in self.channels}) > 1:
            raise ConfigError(
                "bids: every channel needs a suffix where one has; every name has one"
            )

    @property
    def _telling(self) -> set[str]:
        """What channels are told apart by."""
        return {name for channel in self.channels for name in channel}

    def scans_of(self, images: Iterable[Image]) -> list[Scan]:
        """The scans of one session.

        With channels, images are of one scan whose names are equal in all that no channel names.
        """
        there = list(images)
        return [
            replace(scan, companions=self._companions_of(scan.first, there))
            for scan in self._without_companions(there)
        ]

    def _without_companions(self, images: Iterable[Image]) -> list[Scan]:
        admitted = self._of_session(images)
        if not self.channels:
            return [Scan(image.stem, (image,)) for image in admitted]
        found: dict[str, list[list[Image]]] = {}
        for image in admitted:
            for place, channel in enumerate(self.channels):
                if all(_is(image, name, channel.get(name)) for name in self._telling):
                    scan_id = self._common(image)
                    found.setdefault(scan_id, [[] for _ in self.channels])[place].append(image)
        return [
            Scan(scan_id, channels)
            for scan_id, by_channel in found.items()
            for channels in zip_longest(*by_channel)
        ]

    def _companions_of(self, scan: Image, images: Iterable[Image]) -> dict[str, Image]:
        """Images of a session that are a scan's, by name; where several would do, none is."""
        found = {}
        for name, telling in self.companions.items():
            free = {*telling, *self._telling}
            alike = [
                image
                for image in images
                if all(_is(image, part, label) for part, label in telling.items())
                and _said(image, free) == _said(scan, free)
            ]
            if len(alike) == 1:
                found[name] = alike[0]
        return found

    def _common(self, image: Image) -> str:
        """What the names of all channels of a scan have in common, with the first one's suffix."""
        kept = [f"{name}-{of}" for name, of in image.entities.items() if name not in self._telling]
        return "_".join([*kept, str(self.channels[0].get(SUFFIX, image.suffix))])

    def lacking(self, scan: Scan) -> str | None:
        """Which channels a scan has no image of, in words; None where it has all."""
        gone = [
            " and ".join(f"{name}: {label}" for name, label in channel.items())
            + f" ({column_of(n)})"
            for n, channel in enumerate(self.channels, start=1)
            if scan.channels[n - 1] is None
        ]
        return f"no image of {', '.join(gone)}" if gone else None

    def _of_session(self, images: Iterable[Image]) -> list[Image]:
        """Those of one session's images that are scans, or channels of one."""
        ranked = [(self._rank(image), image) for image in images if self._may_be_scan(image)]
        admitted = [(rank, image) for rank, image in ranked if _NOT_WANTED not in rank]
        best = min((rank for rank, _ in admitted), default=())
        return [image for rank, image in admitted if rank == best]

    def _may_be_scan(self, image: Image) -> bool:
        asked = "part" in {*self.entities, *self._telling}
        is_grey = asked or image.entities.get("part") not in _NOT_GREY
        named = {*self.suffix, *(channel.get(SUFFIX) for channel in self.channels)}
        is_weighted = image.suffix in named or not _QUANTITY.fullmatch(image.suffix)
        return is_grey and is_weighted and image.suffix not in _NOT_SCANS

    def _rank(self, image: Image) -> tuple[int, ...]:
        """How far down each list of preferences an image stands."""
        of_suffix = [_place(image.suffix, self.suffix)] if self.suffix else []
        of_entities = (
            _place(image.entities.get(name), labels) for name, labels in self.entities.items()
        )
        return (*of_suffix, *of_entities)


@dataclass(frozen=True)
class Image:
    """One image file, by what its name says."""

    name: str
    folder: str
    session: str
    stem: str
    suffix: str
    entities: Mapping[str, str]
    sidecars: tuple[str, ...]


@dataclass(frozen=True)
class Scan:
    """What becomes a row of the manifest.

    Attributes
    ----------
    scan_id : str
    channels : sequence of Image or None
        In their order; None where there is none.
    companions : mapping of str to Image
        Those that there are.
    """

    scan_id: str
    channels: Sequence[Image | None]
    companions: Mapping[str, Image] = field(default_factory=dict)

    @property
    def first(self) -> Image:
        """The first image that there is."""
        return next(image for image in self.channels if image is not None)


@dataclass(frozen=True)
class Sidecar:
    path: str
    suffix: str
    entities: frozenset[tuple[str, str]]


def is_nifti(name: str) -> bool:
    """Whether a file's name is one of NIfTI, and not hidden."""
    return name.lower().endswith((".nii", ".nii.gz")) and not name.startswith(".")


def image_of(
    folder: str, name: str, subject: str, session: str, sidecars: Iterable[Sidecar]
) -> Image | None:
    """What the name of an image says; None if it is no name of BIDS, or of another session.

    Parameters
    ----------
    folder, name : str
        Where it is.
    subject, session : str
        Folders it is in, such as ``sub-01``; `session` may be empty.
    sidecars : iterable of Sidecar
        All there are in its folder and those above.
    """
    match = _NAME.fullmatch(name)
    if match is None or not name.startswith("_".join(filter(None, (subject, session))) + "_"):
        return None
    entities = _entities(match["entities"])
    return Image(
        name=name,
        folder=folder,
        session=session,
        stem=match["stem"],
        suffix=match["suffix"],
        entities=entities,
        sidecars=_applicable(sidecars, match["suffix"], entities),
    )


def _entities(text: str) -> dict[str, str]:
    """``sub-01_run-1_`` as a mapping."""
    pairs = (part.partition("-")[::2] for part in text.split("_") if part)
    return dict(pairs)


def sidecars_of(folder: str, names: Iterable[str]) -> list[Sidecar]:
    """JSON files of a folder that may be about images."""
    found = []
    for name in names:
        match = _NAME.fullmatch(name) if name.endswith(".json") else None
        if match:
            entities = frozenset(_entities(match["entities"]).items())
            found.append(Sidecar(os.path.join(folder, name), match["suffix"], entities))
    return found


def _applicable(
    sidecars: Iterable[Sidecar], suffix: str, entities: Mapping[str, str]
) -> tuple[str, ...]:
    """Sidecars with the image's suffix and no entity that it lacks, the most general first."""
    fit = [one for one in sidecars if one.suffix == suffix and one.entities <= entities.items()]
    fit.sort(key=lambda one: (one.path.count(os.sep), len(one.entities), one.path))
    return tuple(one.path for one in fit)


def _is(image: Image, name: str, wanted: str | int | None) -> bool:
    """Whether an image has this label of an entity, or this suffix."""
    label = image.suffix if name == SUFFIX else image.entities.get(name)
    return _place(label, (wanted,)) != _NOT_WANTED


def _said(image: Image, free: Collection[str]) -> dict[str, str]:
    """What a name says, but for some parts."""
    said = {**image.entities, SUFFIX: image.suffix}
    return {part: label for part, label in said.items() if part not in free}


def _place(label: str | None, wanted: Labels) -> int:
    """Position of a label among those wanted, or `_NOT_WANTED`."""
    for place, one in enumerate(wanted):
        if label == one:
            return place
        if isinstance(one, int) and label is not None and label.isdigit() and int(label) == one:
            return place
    return _NOT_WANTED


def _piece(glob: str) -> str:
    """One character of a pattern, or what stands for others, as a regular expression."""
    if len(glob) == 1 or not glob.startswith("["):
        return _REGEX_OF.get(glob, re.escape(glob))
    negated = glob[1] in "!^"
    members = re.sub(r"([\\\[\]^&~|])", r"\\\1", glob[1 + negated : -1])
    return f"[{'^/' if negated else ''}{members}]"


def ignored_by(path: Path) -> Callable[[str], bool]:
    """What the patterns of a .bidsignore, which are those of a .gitignore, leave out.

    Raises
    ------
    ManifestError
        For a pattern that takes back another (``!``), which this reader does not know, and for
        brackets from a later character to an earlier one.
    """
    if not path.is_file():
        return lambda _: False
    patterns = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("!"):
            raise ManifestError(f"{path}: {text!r}: patterns with ! are not understood")
        if text and not text.startswith("#"):
            patterns.append(_as_regex(text))
    try:
        matcher = re.compile("|".join(patterns)) if patterns else None
    except re.error as error:
        raise ManifestError(f"{path}: brackets that are not understood: {error.msg}") from None
    return lambda below: matcher is not None and matcher.fullmatch(below) is not None


_GLOBS = re.compile(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^]/]*\]|.", re.DOTALL)
_REGEX_OF = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def _as_regex(pattern: str) -> str:
    """A .gitignore pattern as a regular expression for a path below the dataset."""
    anchored = "/" in pattern.rstrip("/")
    body = "".join(_piece(glob) for glob in _GLOBS.findall(pattern.strip("/")))
    return (body if anchored else f"(.*/)?{body}") + "(/.*)?"
