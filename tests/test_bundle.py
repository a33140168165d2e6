"""`cohortvol bundle`: a folder that installs without a network, and knows when it is not whole.

The package bundled here is a small one with the name, the extra and the files of cohortvol, so that
pip gets, builds and installs for real, but from a folder of wheels in place of an index.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cohortvol import cli
from cohortvol.errors import ConfigError, InstallationError, TemporaryError
from cohortvol.store.files import sha256_of
from cohortvol.tools import bundle
from cohortvol.tools.bundle import licences, wheels

REPOSITORY = Path(__file__).resolve().parents[1]
EMBEDDED = REPOSITORY / "models" / "embedded-v2"
NETWORKLESS = ["unshare", "--net", "--map-root-user"]

BACKEND = """
import os, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "cohortvol-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for path, text in {{
            "cohortvol_small.py": "def main(): import needed; print('runs with', needed.VERSION)",
            "cohortvol-1.0.dist-info/METADATA": {metadata!r},
            "cohortvol-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nTag: py3-none-any\\n"
                                             "Root-Is-Purelib: true\\n",
            "cohortvol-1.0.dist-info/entry_points.txt":
                "[console_scripts]\\ncohortvol=cohortvol_small:main\\n",
            "cohortvol-1.0.dist-info/RECORD": "",
        }}.items():
            wheel.writestr(zipfile.ZipInfo(path), text)
    return name
"""
METADATA = """\
Metadata-Version: 2.1
Name: cohortvol
Version: 1.0
License-Expression: Apache-2.0
Requires-Dist: needed>=1
Provides-Extra: slurm
Requires-Dist: plugin; extra == "slurm"
"""


def wheel(folder: Path, name: str, version: str, fields: str = "", texts: tuple = ()) -> Path:
    """A pure wheel that holds its version, with fields of its metadata and licence texts."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    content = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": head + fields + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
        **{f"{info}/{text}": "as is" for text in texts},
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for place, text in content.items():
            archive.writestr(zipfile.ZipInfo(place), text)
    return path


def write_index(folder: Path) -> Path:
    """The only folder in which pip looks: two versions of what is needed, and what is not."""
    folder.mkdir()
    wheel(folder, "needed", "1.5", "License: MIT\n", ("licenses/", "licenses/LICENSE.txt"))
    wheel(folder, "needed", "2.0")
    wheel(folder, "plugin", "3.0", "Classifier: License :: OSI Approved :: MIT License\n")
    wheel(folder, "stranger", "1.0")
    return folder


def write_repository(folder: Path) -> Path:
    """A checkout with the workflow of this one and a package that builds in a moment."""
    folder.mkdir()
    for name in ("Snakefile", "LICENSE", "CITATION.cff", "README.md"):
        shutil.copy(REPOSITORY / name, folder)
    for name in ("workflow", "config", "profiles", "reports", "envs"):
        shutil.copytree(REPOSITORY / name, folder / name)
    (folder / "config" / "manifest.csv").write_text("scan_id,image\nDoe^Jane,a.nii\n")
    (folder / "constraints.txt").write_text("needed==1.5\n")
    (folder / "backend.py").write_text(BACKEND.format(metadata=METADATA))
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "cohortvol"\nversion = "1.0"\n'
    )
    return folder


def look_in(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pip take its wheels from a folder alone."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")


@pytest.fixture
def index(tmp_path, monkeypatch):
    folder = write_index(tmp_path / "index")
    look_in(folder, monkeypatch)
    return folder


@pytest.fixture
def repository(tmp_path):
    return write_repository(tmp_path / "checkout")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A bundle as it was made, and what was said of it."""
    folder = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as monkeypatch:
        look_in(write_index(folder / "index"), monkeypatch)
        repository = write_repository(folder / "checkout")
        checked = bundle.make(repository, folder / "bundle", [EMBEDDED])
    return folder / "bundle", checked


@pytest.fixture
def made(original, tmp_path):
    """A copy of it to be changed."""
    return shutil.copytree(original[0], tmp_path / "bundle", symlinks=True), original[1]


@pytest.mark.slow
def test_it_holds_the_wheels_of_the_constraints_the_models_and_the_workflow(made):
    folder, checked = made
    assert sorted(path.name for path in (folder / "wheels").iterdir()) == [
        "cohortvol-1.0-py3-none-any.whl",
        "needed-1.5-py3-none-any.whl",
        "plugin-3.0-py3-none-any.whl",
    ]
    assert (checked.n_wheels, checked.models) == (3, ("embedded-v2",))
    inside = folder / "repository"
    assert (inside / "slurm" / "config.yaml").samefile(inside / "profiles/slurm/config.yaml")
    for path in (REPOSITORY / "workflow").rglob("*.smk"):
        copy = inside / path.relative_to(REPOSITORY)
        assert copy.read_bytes() == path.read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "SHA256SUMS", "licences", "repository", "requirements.txt", "wheels",
    ]  # fmt: skip


def test_no_table_of_people_is_brought_along(made):
    folder, _ = made
    assert (folder / "repository" / "config" / "config.yaml").is_file()
    assert not list(folder.rglob("manifest.csv"))


def test_no_place_of_this_machine_is_written(original):
    folder, _ = original
    for path in (*folder.glob("*.*"), folder / "SHA256SUMS", *folder.glob("licences/*.tsv")):
        assert str(folder.parent) not in path.read_text()
        assert os.uname().nodename not in path.read_text().split()


def test_the_sums_are_those_that_sha256sum_checks(made):
    folder, _ = made
    command = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(command, cwd=folder).returncode == 0
    (folder / "wheels" / "needed-1.5-py3-none-any.whl").write_bytes(b"other")
    assert subprocess.run(command, cwd=folder, capture_output=True).returncode == 1


@pytest.mark.slow
def test_equal_sources_give_equal_bundles(made, repository, index, tmp_path):
    folder, _ = made
    bundle.make(repository, tmp_path / "again", [EMBEDDED])
    assert (tmp_path / "again" / "SHA256SUMS").read_bytes() == (folder / "SHA256SUMS").read_bytes()


def test_licences_are_those_of_the_wheels_and_of_the_models(made):
    folder, _ = made
    with open(folder / "licences" / "licences.tsv", newline="") as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream, delimiter="\t")}
    stated = {name: row["licence"] for name, row in rows.items()}
    assert stated == {
        "cohortvol": "Apache-2.0",
        "needed": "MIT",
        "plugin": "MIT License",
        "embedded-v2": "CC-BY-SA-4.0",
    }
    assert (folder / "licences" / "needed" / "LICENSE.txt").read_text() == "as is"
    assert rows["needed"]["texts"] == "1"


def test_a_package_that_says_nothing_of_its_licence_is_told(tmp_path):
    path = wheel(tmp_path, "silent", "1.0", "License: UNKNOWN\n")
    found = wheels.Wheel(path, "silent", "1.0", sha256_of(path))
    assert [(row[3], texts) for row, texts in licences.of_wheels([found])] == [("not stated", {})]


def install_lines(text: str) -> list[str]:
    """Commands of a text that make the environment, without the folders they are in."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [
        re.sub(r"\S*/(cohortvol-env|cohortvol)\b", "ENV", line.strip())
        for line in joined.splitlines()
        if re.match(r"\s*(python3 -m venv|sha256sum|\S+/bin/python -m pip)", line)
    ]


def test_the_readme_and_the_container_install_in_the_same_way(made):
    folder, _ = made
    container = (REPOSITORY / "envs" / "cohortvol.def").read_text()
    own = [line.replace(" --no-cache-dir", "") for line in install_lines(container)]
    assert len(own) == 3
    assert own == install_lines((folder / "README.md").read_text())


def shell(script: str, home: Path, **more):
    """Run a script as a user whose home is `home`, without a network where that can be had."""
    without = NETWORKLESS if subprocess.run([*NETWORKLESS, "true"]).returncode == 0 else []
    path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    environment = {"PATH": path, "HOME": str(home), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [*without, "sh", "-euc", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, **more)


@pytest.mark.slow
def test_the_commands_of_the_readme_install_it_without_a_network(made, tmp_path):
    folder, _ = made
    home = tmp_path / "home"
    home.mkdir()
    commands = re.findall(r"^    (.*)$", (folder / "README.md").read_text(), re.M)
    until = next(i for i, line in enumerate(commands) if line.startswith("source"))
    script = "\n".join(commands[:until]).replace("FOLDER_OF_THIS_FILE", str(folder))
    ended = shell(f"{script}\n~/cohortvol-env/bin/cohortvol", home)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1] == "runs with 1.5"
    assert (home / "cohortvol" / "models" / "embedded-v2" / "card.json").is_file()
    assert (home / "cohortvol" / "slurm" / "config.yaml").is_file()
    wheel(folder / "wheels", "needed", "1.5", "License: other\n")
    anyway = script.replace("--quiet SHA256SUMS", "SHA256SUMS || true")
    refused = shell(anyway, tmp_path / "other-home")
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr


@pytest.mark.slow
def test_what_the_container_runs_when_it_is_built_leaves_a_cohortvol_that_runs(made, tmp_path):
    folder, _ = made
    root = tmp_path / "root"
    shutil.copytree(folder, root / "bundle", symlinks=False)
    text = (REPOSITORY / "envs" / "cohortvol.def").read_text()
    post = re.search(r"^%post\n(.*?)^%", text, re.M | re.S)[1].replace("/opt/", f"{root}/")
    ended = shell(f"{post}\n{root}/cohortvol/bin/cohortvol", tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert sorted(path.name for path in root.iterdir()) == ["cohortvol", "licences", "workflow"]


@pytest.mark.slow
def test_an_interrupted_call_is_gone_on_with_from_what_there_is(
    repository, index, tmp_path, monkeypatch
):
    folder = tmp_path / "bundle"
    own = wheels.resolve
    monkeypatch.setattr(wheels, "resolve", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        bundle.make(repository, folder, [EMBEDDED])
    with pytest.raises(InstallationError, match="no complete bundle"):
        bundle.check(folder)
    monkeypatch.setattr(wheels, "resolve", own)
    (index / "needed-1.5-py3-none-any.whl").unlink()  # it can come from nowhere else now
    assert bundle.make(repository, folder, [EMBEDDED]).n_wheels == 3
    assert bundle.make(repository, folder, [EMBEDDED]).n_wheels == 3


@pytest.mark.slow
def test_a_wheel_that_came_half_is_got_again(repository, index, tmp_path):
    half = tmp_path / "bundle" / ".downloads" / "needed-1.5-py3-none-any.whl"
    half.parent.mkdir(parents=True)
    half.write_bytes((index / half.name).read_bytes()[:200])
    bundle.make(repository, tmp_path / "bundle", [EMBEDDED])
    assert sha256_of(tmp_path / "bundle" / "wheels" / half.name) == sha256_of(index / half.name)


@pytest.mark.slow
def test_what_is_no_longer_wanted_goes(made, repository, index):
    folder, _ = made
    (repository / "constraints.txt").write_text("needed==2.0\n")
    (repository / "workflow" / "rules" / "report.smk").rename(
        repository / "workflow" / "rules" / "page.smk"
    )
    bundle.make(repository, folder, [])
    assert "needed-1.5-py3-none-any.whl" not in {path.name for path in folder.glob("wheels/*")}
    assert not (folder / "repository" / "models" / "embedded-v2").exists()
    assert not (folder / "repository" / "workflow" / "rules" / "report.smk").exists()
    assert (folder / "repository" / "workflow" / "rules" / "page.smk").exists()


@pytest.mark.slow
def test_a_wheel_that_is_not_to_be_had_is_temporary_and_nothing_looks_complete(
    repository, index, tmp_path
):
    (index / "plugin-3.0-py3-none-any.whl").unlink()
    with pytest.raises(TemporaryError, match="pip wheel failed"):
        bundle.make(repository, tmp_path / "bundle", [EMBEDDED])
    assert not (tmp_path / "bundle" / "SHA256SUMS").exists()


def rewrite(path: Path):
    path.write_bytes(path.read_bytes() + b" ")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: rewrite(f / "requirements.txt"), "requirements.txt: changed"),
        (lambda f: (f / "repository/Snakefile").unlink(), "repository/Snakefile: cannot be read"),
        (lambda f: wheel(f / "wheels", "stranger", "1.0"), "stranger-1.0-py3-none-any.whl: not in"),
        (
            lambda f: (f / "wheels/needed-1.5-py3-none-any.whl").unlink(),
            "no wheel of needed with its hash",
        ),
        (
            lambda f: rewrite(next(f.rglob("plans.json"))),
            "embedded-v2: its files are not the ones its card names",
        ),
        (lambda f: (f / "SHA256SUMS").unlink(), "no complete bundle"),
    ],
)
def test_what_is_missing_changed_or_added_is_named(made, change, told):
    folder, _ = made
    change(folder)
    with pytest.raises(InstallationError, match=re.escape(told)):
        bundle.check(folder)


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no checkout of cohortvol, it lacks Snakefile"):
        bundle.make(tmp_path, tmp_path / "bundle", [])
    assert list(tmp_path.iterdir()) == []


def test_the_command_makes_or_checks(made, capsys):
    folder, _ = made
    assert cli.run(["bundle"]) == 64
    assert cli.run(["bundle", "--out", "x", "--check", str(folder)]) == 64
    assert cli.run(["bundle", "--check", str(folder)]) == 0
    assert "3 wheels, models embedded-v2" in capsys.readouterr().out
