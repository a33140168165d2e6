"""Whether weights on this machine are those that a publisher says: by labels and by version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cohortvol.errors import ModelError
from cohortvol.models import catalogue
from cohortvol.models.files import inside, read_object, shown

VERSION = "version.json"
"""In which MRSegmentator says what weights it keeps."""


def check_labels(
    found: Mapping[int, str], expected: Mapping[int, str], rename: Mapping[str, str] | None = None
) -> None:
    """Raise ModelError unless labels of ``dataset.json`` are those expected.

    Parameters
    ----------
    found, expected : mapping of int to str
        Label index to the publisher's name.
    rename : mapping of str to str, optional
        The publisher's names to structures, where the index alone tells what a label is: then the
        indices must be those expected, and no name may be that of another label.
    """
    if dict(expected) == dict(found):
        return
    if rename is not None and set(found) == set(expected):
        known = {name: index for index, name in expected.items()}
        known |= {rename[name]: index for index, name in expected.items() if name in rename}
        if all(known.get(name, index) == index for index, name in found.items()):
            return
    outdated = catalogue.label_map(catalogue.OUTDATED)
    if found == {label: name for label, (name, _) in outdated.items()}:
        raise ModelError(
            "these are weights of TotalSegmentator MRI from before its release 2.5.0\n"
            "  Their labels from 32 on mean other structures (MOD_LABELMAP). Take the weights of\n"
            "  2.5.0 or later, or import them under a name of your own, with --id and --licence."
        )
    wrong = [
        f"{index}: {expected.get(index, 'nothing')} expected, {found.get(index, 'nothing')} found"
        for index in sorted({*expected, *found})
        if expected.get(index) != found.get(index)
    ]
    raise ModelError(
        "dataset.json does not have the labels expected (MOD_LABELMAP)\n"
        + "\n".join(f"  {line}" for line in wrong[:10])
    )


def check_version(trained: Path, expected: float | None) -> None:
    """Raise ModelError if the weights say of themselves that they are of another version."""
    if expected is None or not (trained / VERSION).is_file():
        return
    found = read_object(inside(trained, VERSION)).get("weights_version")
    if found != expected:
        raise ModelError(
            f"{trained / VERSION}: weights of version {shown(str(found))}; {expected} expected\n"
            "  Let their publisher's program bring them up to date, or import these under a name\n"
            "  of your own, with --id and --licence."
        )
