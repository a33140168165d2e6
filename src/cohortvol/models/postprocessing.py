"""nnU-Net's postprocessing file: of which labels the largest piece is kept, and nothing else of it.

``nnUNetv2_find_best_configuration`` and ``nnUNetv2_determine_postprocessing`` write it as
``postprocessing.pkl`` and, the same for people, as ``postprocessing.json``. A pickle is a program:
here it names functions that are never called, and its numbers are read by this module.

Light on purpose, like `cohortvol.models.card`: nothing here imports torch or numpy.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from cohortvol.errors import ModelError
from cohortvol.models.files import MOST_BYTES, read_object, shown

KEEP_LARGEST = "remove_all_but_largest_component_from_segmentation"
"""The one step that nnU-Net knows."""
_MODULE = "nnunetv2.postprocessing.remove_connected_components"
_LABELS, _BACKGROUND = "labels_or_regions", "background_label"

Steps = tuple[tuple[int, ...], ...]


def read_postprocessing(path: Path) -> Steps:
    """The steps of a postprocessing file, in their order: `keep_largest` of a part.

    Each is the labels of which nnU-Net keeps the largest connected piece, all of them together.

    Raises
    ------
    ModelError
        If the file holds anything else.
    """
    path = Path(path)
    try:
        functions, arguments = _from_json(path) if path.suffix == ".json" else _from_pickle(path)
        return tuple(
            _step(function, given) for function, given in zip(functions, arguments, strict=True)
        )
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever an unpickler meets in a file that is damaged
        raise ModelError(
            f"{path}: no postprocessing of nnU-Net v2 ({type(error).__name__}: "
            f"{shown(str(error), 200)})\n"
            "  It is the postprocessing.pkl or .json that nnUNetv2_find_best_configuration names."
        ) from error


def _from_json(path: Path) -> tuple[list[Any], list[Any]]:
    content = read_object(path)
    return content["postprocessing_fns"], content["postprocessing_kwargs"]


def _from_pickle(path: Path) -> tuple[list[Any], list[Any]]:
    with open(path, "rb") as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes")
    functions, arguments = _Unpickler(io.BytesIO(content)).load()
    return functions, arguments


def _step(function: Any, arguments: Any) -> tuple[int, ...]:
    if function != KEEP_LARGEST:
        raise ValueError(f"it names {shown(str(function))}, which this version does not know")
    if set(arguments) - {_LABELS, _BACKGROUND} or arguments.get(_BACKGROUND, 0) != 0:
        raise ValueError(f"it gives {', '.join(shown(str(name)) for name in arguments)}")
    given = arguments[_LABELS]
    labels: list[int] = []
    for one in given if isinstance(given, list | tuple) else [given]:
        labels += one if isinstance(one, list | tuple) else [one]
    if not labels or not all(type(label) is int and 0 < label < 2**16 for label in labels):
        raise ValueError("its labels are no label indices")
    return tuple(dict.fromkeys(labels))


class _Unpickler(pickle.Unpickler):
    """Knows three names, none of which is what nnU-Net and numpy mean by it."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (_MODULE, KEEP_LARGEST):
            return KEEP_LARGEST
        if (module, name) == ("numpy", "dtype"):
            return _Kind
        if (module, name) in {(f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")}:
            return _whole_number
        raise ValueError(f"refused: it would load {shown(module)}.{shown(name)}")


class _Kind:
    """Stands for a numpy type, of which the name says all."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Its order of bytes and the like."""
        if state[1] not in ("<", "|", "="):
            raise ValueError("its numbers are stored in another order of bytes")


def _whole_number(kind: Any, content: Any) -> int:
    """What numpy stores of a whole number."""
    if not (isinstance(kind, _Kind) and kind.name in ("i1", "i2", "i4", "i8", "u1", "u2", "u4")):
        raise ValueError("its labels are no whole numbers")
    return int.from_bytes(content, "little", signed=kind.name.startswith("i"))
