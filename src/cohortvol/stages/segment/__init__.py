"""segment: scan to label map, one resident worker per shard. torch is loaded when it is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cohortvol.stages.segment.worker import run_shard

if TYPE_CHECKING:
    from cohortvol.stages.segment.infer import Segmenter

__all__ = ["Segmenter", "run_shard"]


def __getattr__(name: str) -> Any:
    if name == "Segmenter":
        from cohortvol.stages.segment.infer import Segmenter

        return Segmenter
    raise AttributeError(name)
