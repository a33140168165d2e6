"""The page that leads through a study is done as it stands, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import warm

PAGE = Path(__file__).resolve().parents[2] / "docs" / "study.md"
BIN = Path(sys.executable).parent
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_command_of_the_page_does_what_the_page_says(tmp_path):
    said = []
    for kind, block in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        program = f"{sys.executable} - <<'END'\n{block}END\n" if kind == "python" else block
        said.append(f"echo '$ {block.splitlines()[0]}'\n{program}")
    path = os.pathsep.join(map(str, [warm.programs(), BIN, os.environ["PATH"]]))
    done = subprocess.run(
        ["bash", "-e"],
        input="".join(said),
        cwd=tmp_path,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    study = tmp_path / "my-study"
    scans = pd.read_parquet(study / "results" / "scans.parquet")
    assert len(scans) == 4
    assert set(scans["state"]) == {"done"}
    assert (study / "decisions.csv").is_file()
    assert (study / "results" / "report" / "index.html").is_file()
    assert (study / "page" / "index.html").is_file()
    plan = done.stdout.split("$ cohortvol status")[1].split("$ cohortvol review")[0]
    assert "nothing" in plan.lower(), plan
    assert "liver" in done.stdout.split("$ import pandas")[1]
