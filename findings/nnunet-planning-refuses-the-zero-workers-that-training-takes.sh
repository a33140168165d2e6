#!/usr/bin/env bash
# nnunetv2: nnUNet_n_proc_DA=0, with which training loads its data in its own process, stops
# planning with an error of torch.
#
# Expected: nnUNet_n_proc_DA is the number of processes that augment data while a network is
# trained; 0 is "none, do it here" (the trainer then takes a SingleThreadedAugmenter), and planning
# augments nothing. So with 0 exported for a whole session `nnUNetv2_plan_and_preprocess` works as
# without it.
# Seen (nnunetv2 2.8.1, torch 2.13.0, Python 3.11): the planner hands the same number to
# torch.set_num_threads, which refuses 0: "set_num_threads expects a positive integer". Fingerprints
# are made before that, no plans are written. With 1, or without the variable, it plans. A script
# that trains without workers sets the variable between planning and training.
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
    labels = np.zeros((32, 32, 24), np.uint8)
    labels[8:20, 8:20, 6:16] = 1
    image = (100 * labels + rng.normal(0, 10, labels.shape)).astype(np.int16)
    for kind, data, name in (("imagesTr", image, f"c{case}_0000"), ("labelsTr", labels, f"c{case}")):
        (raw / kind).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data, np.diag([2.0, 2.0, 3.0, 1.0])), raw / kind / f"{name}.nii.gz")
(raw / "dataset.json").write_text(json.dumps({
    "channel_names": {"0": "MR"}, "labels": {"background": 0, "box": 1}, "numTraining": 2,
    "file_ending": ".nii.gz",
}))
PYTHON
ok=yes
plan() {
    local wanted=$1 code=0 said made=no
    rm -rf "$nnUNet_preprocessed"
    said=$("${@:2}" "$folder/venv/bin/nnUNetv2_plan_and_preprocess" -d 1 -c 2d -np 1 \
        --no_pp 2>&1) || code=$?
    [ -e "$nnUNet_preprocessed/Dataset001_Boxes/nnUNetPlans.json" ] && made=yes
    echo "${*:2}: exit $code, plans written: $made"
    grep -m1 "set_num_threads expects" <<<"$said" || true
    [ "$made" = "$wanted" ] || ok=no
}
plan no env nnUNet_n_proc_DA=0
plan yes env nnUNet_n_proc_DA=1
plan yes env -u nnUNet_n_proc_DA
[ $ok = yes ] && echo "as described" || { echo "changed"; exit 1; }
