#!/usr/bin/env bash
# nnunetv2: of a cascade, the inference instructions leave out its first stage.
#
# Expected: nnUNetv2_find_best_configuration ends by printing, and by writing into
# inference_instructions.txt, the commands that predict with what it found best. Its function for
# them (generate_inference_command) has a branch for cascades: first the command of the stage before,
# then the one of the cascade with -prev_stage_predictions pointing at its output.
# Seen (nnunetv2 2.8.1, Python 3.11): of 3d_cascade_fullres, planned by nnU-Net itself, one command,
# without -prev_stage_predictions and without the command of 3d_lowres. The branch looks for
# "previous_stage" among the names of the configurations, where no planner puts it: it is a field of
# the cascade's configuration. Even if it were taken, the first command would be lost, as the variable
# that holds it is assigned anew below. Whoever follows the instructions has to know that
# nnUNetv2_predict needs the label maps of 3d_lowres.
# Exits 1 where this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    nnunetv2==2.8.1 torch==2.13.0 2>/dev/null
export nnUNet_raw=$folder/raw nnUNet_preprocessed=$folder/preprocessed nnUNet_results=$folder/results
"$folder/venv/bin/python" - <<'PYTHON'
import json, os
from pathlib import Path
import nibabel as nib, numpy as np

raw = Path(os.environ["nnUNet_raw"], "Dataset001_Boxes")
rng = np.random.default_rng(0)
for case in range(2):
    labels = np.zeros((160, 160, 120), np.uint8)
    labels[40:100, 40:100, 30:80] = 1
    image = (100 * labels + rng.normal(0, 10, labels.shape)).astype(np.int16)
    for kind, data, name in (("imagesTr", image, f"c{case}_0000"), ("labelsTr", labels, f"c{case}")):
        (raw / kind).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, np.eye(4)), raw / kind / f"{name}.nii.gz")
(raw / "dataset.json").write_text(json.dumps({
    "channel_names": {"0": "MR"}, "labels": {"background": 0, "box": 1}, "numTraining": 2,
    "file_ending": ".nii.gz",
}))
PYTHON
"$folder/venv/bin/nnUNetv2_plan_and_preprocess" -d 1 -np 1 --no_pp -gpu_memory_target 1 >/dev/null 2>&1
"$folder/venv/bin/python" - <<'PYTHON'
import os, shutil
from pathlib import Path
from nnunetv2.evaluation.find_best_configuration import generate_inference_command

plans = Path(os.environ["nnUNet_preprocessed"], "Dataset001_Boxes", "nnUNetPlans.json")
trained = Path(os.environ["nnUNet_results"], "Dataset001_Boxes",
               "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres")
trained.mkdir(parents=True)
shutil.copy(plans, trained / "plans.json")  # as training leaves it there
said = generate_inference_command("Dataset001_Boxes", "3d_cascade_fullres", folds=(0,))
print("said of the cascade:", said)
told = "-prev_stage_predictions" in said or "3d_lowres" in said
print("the first stage is told:", told)
print("changed" if told else "as described")
raise SystemExit(told)
PYTHON
