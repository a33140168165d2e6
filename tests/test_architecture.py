"""The rules of the house, read from the source: who may import whom, and what is never written."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cohortvol.tools.doctor.software import pins, required

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "cohortvol"
FOUNDATION = {
    "cluster",
    "errors",
    "files",
    "flow",
    "kept",
    "storage",
    "machine",
    "keys",
    "geometry",
    "intervals",
    "tables",
    "reasons",
    "structures",
    "config",
    "cuda",
    "profiles",
    "installation",
    "nifti",
    "models",
    "model_files",
    "catalogue",
    "overlap",
    "partitions",
    "weights",
    "text_table",
    "withdrawals",
    "removals",
    "records",
    "resources",
    "style",
    "pages",
    "ranges",
}
STAGES = {
    "manifest",
    "ingest",
    "segment",
    "measure",
    "agreement",
    "assemble",
    "analyse",
    "report",
    "plan",
    "status",
    "verify",
    "derivatives",
    "simulate",
    "train",
    "check",
    "doctor",
    "bundle",
    "evaluate",
}
NETWORK_USERS = {"networks", "segment", "train"}
MODULES = sorted(SOURCE.rglob("*.py"))


def part_of(path):
    """The module or package directly below cohortvol that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(tree):
    """Full names of the modules that a syntax tree imports, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported(tree):
    """Parts of cohortvol that a syntax tree imports."""
    known = {part_of(path) for path in MODULES}
    names = {name.split(".")[1] for name in imported(tree) if name.startswith("cohortvol.")}
    return names & known


def allowed(part):
    """Parts of cohortvol that a part may import."""
    if part in FOUNDATION:
        return FOUNDATION | {part}
    if part == "cli":
        return FOUNDATION | STAGES | {"cli", "networks"}
    if part == "plan":  # tells what the manifest stage will write, and what is damaged
        return FOUNDATION | {"plan", "manifest", "verify"}
    extra = {"networks"} if part in NETWORK_USERS else set()
    return FOUNDATION | extra | {part}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_only_what_its_place_allows(path):
    part = part_of(path)
    strangers = parts_imported(ast.parse(path.read_text(encoding="utf-8"))) - allowed(part)
    assert strangers == set(), f"{part} imports {strangers}"


def test_every_part_has_its_place_in_these_rules():
    parts = {part_of(path) for path in MODULES} - {"__init__"}
    assert parts - FOUNDATION - STAGES - {"cli", "networks"} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_torch_and_nnunet_are_imported_only_where_networks_run(path):
    if part_of(path) in NETWORK_USERS:
        return
    heavy = {"torch", "nnunetv2", "dynamic_network_architectures", "batchgenerators"}
    roots = {name.split(".")[0] for name in imported(ast.parse(path.read_text(encoding="utf-8")))}
    assert roots & heavy == set()


def test_nothing_but_the_fetching_of_weights_speaks_to_a_network():
    networks = set(
        "urllib http requests httpx aiohttp ftplib smtplib socket ssl sentry_sdk".split()
    )
    users = {}
    for path in MODULES:
        names = imported(ast.parse(path.read_text(encoding="utf-8")))
        if found := {name.split(".")[0] for name in names} & networks:
            users[part_of(path)] = found
    assert users == {"weights": {"urllib"}, "files": {"socket"}}
    assert set(re.findall(r"socket\.(\w+)", (SOURCE / "files.py").read_text())) == {"gethostname"}


def test_the_command_line_imports_a_stage_only_inside_its_subcommand():
    for path in (SOURCE / "cli").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef)], [])
        assert parts_imported(top) <= {"errors", "files", "machine", "cli"}, path.name


def test_planning_the_workflow_loads_no_table_and_no_network():
    script = (
        "import sys, cohortvol.config, cohortvol.errors, cohortvol.store.files, "
        "cohortvol.workflow.flow, cohortvol.models.card, cohortvol.store.records;"
        "print(*sorted({'pandas', 'pyarrow', 'numpy', 'torch', 'nibabel'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (loaded.stdout.strip(), loaded.stderr) == ("", "")


FORBIDDEN = {
    r"weights_only\s*=\s*False": "a checkpoint could run code of its own",
    r"\bpickle\.loads?\(": "a pickle could run code of its own",
    r"allow_pickle\s*=\s*True": "a pickle could run code of its own",
    r"shell\s*=\s*True": "a file name could become a command",
    r"os\.system\(": "a file name could become a command",
    r"yaml\.load\((?!.*Loader=_StrictLoader)": "PyYAML's own rules read `no` as False",
    r"(?<![.\w])(eval|exec)\(": "text from a file could become code",
    r"# (TODO|FIXME|XXX)": "an issue remembers, a comment does not",
    r"^\s*except:": "it would swallow what nobody expected",
}


def test_every_join_says_what_it_expects():
    """Rows that stand twice on both sides would be multiplied in silence."""
    silent = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                given = {keyword.arg for keyword in node.keywords}
                if node.func.attr == "merge" and "validate" not in given:
                    silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert silent == []


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_no_module_writes_what_is_dangerous(pattern):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in MODULES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(pattern, line)
    ]
    assert found == [], FORBIDDEN[pattern]


def test_there_is_no_drawer_for_everything_else():
    names = {path.stem for path in MODULES}
    assert names & {"utils", "util", "helpers", "helper", "misc", "common"} == set()


def test_every_module_says_what_it_is_for():
    silent = [p for p in MODULES if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
    assert silent == []


def test_environments_pin_what_the_tests_ran_in():
    pinned = pins((ROOT / "constraints.txt").read_text())
    for path in (ROOT / "envs").glob("*.yaml"):
        for name, version in re.findall(r"- ([\w-]+)==(\S+)$", path.read_text(), re.M):
            assert pinned[canonicalize_name(name)] == version, f"{path.name}: {name}"


def test_every_dependency_is_pinned_as_it_is_asked_for_and_is_in_an_environment():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(line) for line in project["dependencies"]]
    extra = [
        Requirement(line) for lines in project["optional-dependencies"].values() for line in lines
    ]
    pinned = pins((ROOT / "constraints.txt").read_text())
    for requirement in asked + extra:
        version = pinned.get(canonicalize_name(requirement.name), "none")
        assert requirement.specifier.contains(version, prereleases=True), requirement.name
    texts = [path.read_text() for path in (ROOT / "envs").glob("*.yaml")]
    installed = {canonicalize_name(name) for text in texts for name in re.findall(NAME, text)}
    driver = {"snakemake", "jinja2"} - installed  # jobs start no workflow of their own
    assert {canonicalize_name(requirement.name) for requirement in asked} - installed == driver


NAME = re.compile(r"- ([\w-]+)==")


def test_every_package_that_is_installed_for_cohortvol_is_pinned():
    pinned = pins((ROOT / "constraints.txt").read_text())
    assert {name for name, _ in required("cohortvol")} - set(pinned) == set()
