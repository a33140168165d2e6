"""nnU-Net's postprocessing file is read without running what is in it; pieces are nnU-Net's."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest
from nnunetv2.postprocessing.remove_connected_components import (
    remove_all_but_largest_component_from_segmentation as keep,
)

from cohortvol.errors import ModelError
from cohortvol.models.postprocessing import KEEP_LARGEST, read_postprocessing
from cohortvol.stages.segment.parts import with_largest

GIVEN = ([np.int64(1), np.int64(2), np.int64(300)], np.int64(2), (1, 2), [(1, 2), 300])
"""As nnU-Net has them: all labels, one, a region, and regions."""
STEPS = ((1, 2, 300), (2,), (1, 2), (1, 2, 300))


def test_both_files_of_nnunet_say_the_same(tmp_path):
    arguments = [{"labels_or_regions": given} for given in GIVEN]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(([keep] * len(GIVEN), arguments)))
    plain = json.loads(json.dumps(arguments, default=int))
    written = {"postprocessing_fns": [KEEP_LARGEST] * 4, "postprocessing_kwargs": plain}
    (tmp_path / "a.json").write_text(json.dumps(written))
    assert read_postprocessing(tmp_path / "a.pkl") == STEPS
    assert read_postprocessing(tmp_path / "a.json") == STEPS
    (tmp_path / "none.pkl").write_bytes(pickle.dumps(([], [])))
    assert read_postprocessing(tmp_path / "none.pkl") == ()


class Malicious:
    """Unpickles into a call, as a hostile file would."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (([keep], []), "ValueError"),
        (([np.argmax], [{"labels_or_regions": 1}]), "would load numpy.argmax"),
        (([keep], [{"labels_or_regions": np.float64(1)}]), "no whole numbers"),
        (([keep], [{"labels_or_regions": 1, "threshold": 3}]), "it gives labels_or_regions, thres"),
        (([keep], [{"labels_or_regions": []}]), "no label indices"),
        (([keep], [{"labels_or_regions": -1}]), "no label indices"),
        (([keep], [{"labels_or_regions": [[[1]]]}]), "no label indices"),
        ({"a": 1}, "no postprocessing of nnU-Net v2"),
    ],
)
def test_anything_else_is_refused(tmp_path, content, message):
    path = tmp_path / "postprocessing.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ModelError, match=message):
        read_postprocessing(path)


def test_a_file_that_would_run_code_does_not(tmp_path):
    path, marker = tmp_path / "postprocessing.pkl", tmp_path / "code_ran"
    path.write_bytes(pickle.dumps(([keep], [{"labels_or_regions": Malicious(marker)}])))
    with pytest.raises(ModelError, match=r"refused: it would load \w+\.mkdir"):
        read_postprocessing(path)
    assert not marker.exists()
    path.write_bytes(b"not a pickle")
    with pytest.raises(ModelError, match="nnUNetv2_find_best_configuration"):
        read_postprocessing(path)


@pytest.mark.parametrize("labels", [(1,), (2,), (1, 2), (3,), (1, 3)])
def test_the_pieces_that_stay_are_nnunets(labels):
    rng = np.random.default_rng(5)
    for density in (0.02, 0.1, 0.4):
        found = rng.choice(3, (9, 8, 7), p=[1 - density, density / 2, density / 2]).astype(np.uint8)
        kept = with_largest(found, labels)
        assert kept.dtype == found.dtype
        assert np.array_equal(kept, keep(found, list(labels)))


def test_pieces_as_large_as_the_largest_all_stay():
    found = np.zeros((5, 5, 5), np.uint8)
    found[0, 0, :2] = found[4, 4, :2] = found[2, 2, 2] = 1
    assert np.bincount(with_largest(found, [1]).ravel())[1] == 4
