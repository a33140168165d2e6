"""From simulated bodies in the layout of TotalSegmentator to a model judged on its test."""

import nibabel as nib
import numpy as np
import pytest
import yaml

from cohortvol import cli
from cohortvol.anatomy.nifti import nifti_gz
from cohortvol.models.card import load_card
from cohortvol.store.tables import read_table
from cohortvol.tools.evaluate import SCHEMAS
from cohortvol.tools.simulate import anatomy, cohort
from cohortvol.tools.simulate.image import (
    ORGANS,
    Acquisition,
    acquire,
    contrasts,
    label_map_of,
    organ_masks,
    signal_of,
)
from subject_folders import write_meta, write_subject

RECIPE = {
    "id": "bodies",
    "title": "Simulated bodies",
    "licence": "CC0-1.0",
    "datasets": {
        "mri": {"folder": "", "layout": "totalsegmentator", "modality": "MR", "vocabulary": "852"}
    },
    "parts": {"organs": list(ORGANS)},
    "spacing_mm": [12.0, 12.0, 12.0],
    "base_features": 8,
    "max_features": 16,
    "planning_memory_gb": 0.2,
    "learning_rate": 0.01,
    "phases": [{"iterations": 40, "source_weights": {"real": 1.0}}],
    "n_folds": 2,
}


def write_body(folder, number):
    """One simulated person, T2 at 6 mm, with masks of all that the recipe names."""
    rng = np.random.default_rng([26, number])
    person = cohort.draw_subjects(1, rng)
    volumes = cohort.draw_volumes(person, rng).iloc[0].to_dict()
    row = person.iloc[0]
    bmi = row["weight_kg"] / (row["height_cm"] / 100) ** 2
    built = anatomy.build(volumes, row["height_cm"], bmi, rng)
    size = np.array(built.tissues.shape) * anatomy.SPACING_MM
    acquisition = Acquisition(
        "LPS", (6.0, 6.0, 8.0), tuple(built.affine[:3, 3] + size / 2), tuple(size)
    )
    means = contrasts()[cohort.SEQUENCES[0]].to_numpy()
    signal = signal_of(built.tissues, means, 0.04 * means, rng)
    image, affine = acquire(signal, built.affine, acquisition, rng)
    labels = label_map_of(organ_masks(built), built.affine, acquisition)
    masks = {name: labels == index for index, name in enumerate(ORGANS, 1)}
    scaled = np.rint(2000 * image / image.max()).astype(np.int16)
    write_subject(folder / f"s{number:04d}", scaled, masks, affine)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_trained_on_the_training_split_is_judged_on_the_test_split(tmp_path, monkeypatch):
    from cohortvol.stages.segment import Segmenter
    from cohortvol.tools.train.nnunet import ShortTrainer

    data, model = tmp_path / "data", tmp_path / "bodies"
    for number in range(6):
        write_body(data, number)
    write_meta(data, {f"s{n:04d}": "train" if n < 4 else "test" for n in range(6)})
    RECIPE["datasets"]["mri"]["folder"] = str(data)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    monkeypatch.setattr(ShortTrainer, "EPOCH_ITERATIONS", 20)
    work = ["--work", str(tmp_path / "work"), "--out", str(model)]
    assert cli.run(["train", "--recipe", str(tmp_path / "recipe.yaml"), *work]) == 0
    card = load_card(model)
    assert list(card.labels.values()) == list(ORGANS)
    trained = card.training["datasets"]["mri"]
    assert (trained["subjects"], trained["kept_for_test"]) == (4, 2)

    segmenter = Segmenter.load(model, device="cpu")
    (tmp_path / "found").mkdir()
    for place in sorted(data.glob("s*")):
        scan = nib.load(place / "mri.nii.gz")
        found, _ = segmenter.segment(scan.get_fdata(dtype=segmenter.dtype), scan.affine)
        (tmp_path / "found" / f"{place.name}.nii.gz").write_bytes(nifti_gz(found, scan.affine))
    words = ["--expert", data, "--split", "test", "--model", f"bodies={tmp_path / 'found'}",
             "--model-labels", f"bodies={model / 'card.json'}", "--published", "bodies=total_mr",
             "--bootstrap", "100", "--out", tmp_path / "out"]  # fmt: skip
    assert cli.run(["evaluate", *map(str, words)]) == 0
    pairs = read_table(tmp_path / "out" / "pairs.parquet", SCHEMAS["evaluate/pairs"])
    assert sorted(pairs["scan_id"].unique()) == ["s0004", "s0005"]
    assert set(pairs["structure"]) == set(ORGANS)
    assert pairs.groupby("structure")["dice"].mean()["liver"] > 0.4
    beside = read_table(tmp_path / "out" / "published.parquet", SCHEMAS["evaluate/published"])
    assert beside.set_index("structure")["published_dice"].to_dict() == {
        "liver": 0.960, "kidney_right": 0.932, "kidney_left": 0.944, "spleen": 0.927,
    }  # fmt: skip
