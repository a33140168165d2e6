"""The rules of the house, read from the source: who may import whom, and what is never written."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cohortvol
from cohortvol.tools.doctor.software import pins, required

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "cohortvol"
WORKER = "stages.segment"
USERS_OF_THE_WORKER = {"tools.judge"}
NETWORK_USERS = {WORKER, "tools.train"}
MODULES = sorted(SOURCE.rglob("*.py"))


def name_of(path):
    """Dotted name of a module below cohortvol."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


NAMES = {name_of(path) for path in MODULES}
FLOORS = {  # of the package's docstring: every part by how far below the roof it stands
    part: number
    for number, line in enumerate(re.findall(r"^    (\S.*)$", cohortvol.__doc__, re.M))
    for part in re.split(r"   +", line)[0].split()
}


def room_of(name):
    """The part of the house, or the stage or tool, that a module belongs to."""
    first, _, rest = name.partition(".")
    return f"{first}.{rest.split('.')[0]}" if first in ("stages", "tools") else first


def may_import(room, other):
    """Whether modules of a room may import those of another."""
    floor, below = (FLOORS[name.split(".")[0]] for name in (room, other))
    return floor < below or room == other or (room in USERS_OF_THE_WORKER and other == WORKER)


def imported(tree):
    """Full names of the modules that a syntax tree imports, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_imported(tree):
    """Modules of cohortvol that a syntax tree imports."""
    names = {name.partition(".")[2] for name in imported(tree) if name.startswith("cohortvol.")}
    known = {name if name in NAMES else name.rpartition(".")[0] for name in names}
    return (known & NAMES) - {""}


def strangers_of(name, tree):
    """What a module imports that its place does not allow."""
    room = room_of(name)
    return {other for other in modules_imported(tree) if not may_import(room, room_of(other))}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_what_its_place_allows(path):
    name = name_of(path)
    if name:
        assert strangers_of(name, ast.parse(path.read_text(encoding="utf-8"))) == set()


@pytest.mark.parametrize(
    ("name", "line", "allowed"),
    [
        ("stages.measure.volumes", "from cohortvol.stages.ingest import run", False),
        ("stages.measure.volumes", "from cohortvol.stages.measure import shard", True),
        ("models.card", "import cohortvol.stages.segment.worker", False),
        ("tools.verify.folder", "from cohortvol.tools.status import counting", False),
        ("tools.evaluate.run", "from cohortvol.stages.segment import infer", False),
        ("tools.judge.calibrate", "from cohortvol.stages.segment import infer", True),
        ("store.files", "from cohortvol.compute import cuda", False),
        ("store.files", "from cohortvol import errors", True),
    ],
)
def test_the_rule_of_the_house_tells_right_from_wrong(name, line, allowed):
    assert (strangers_of(name, ast.parse(line)) == set()) == allowed


def test_no_module_imports_itself_by_way_of_others():
    imports = {
        name_of(path): modules_imported(ast.parse(path.read_text(encoding="utf-8")))
        for path in MODULES
    }
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_no_file_is_too_long_to_be_read_at_once():
    files = [*MODULES, *ROOT.glob("workflow/**/*.smk"), ROOT / "Snakefile"]
    files += [*ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]
    most = {".py": 400, ".smk": 150, "": 150}
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path.name: n for path, n in lines.items() if n > most[path.suffix]} == {}


def test_rules_and_studies_name_the_version_of_the_package_that_they_go_with():
    named = {
        "workflow/cohort.smk": r'^check_rules\(of="(.+)"\)$',
        "workflow/training.smk": r'^check_rules\(of="(.+)"\)$',
        "study/Snakefile": r'^include: workflow_for\(study="(.+)"\)$',
    }
    for name, line in named.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        assert re.findall(line, text, re.M) == [cohortvol.__version__]


def test_one_module_alone_looks_inside_snakemake():
    users = set()
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if {name.split(".")[0] for name in imported(tree)} & {"snakemake"}:
            users.add(name_of(path))
    assert users == {"workflow.engine", "workflow.settings"}
    inside = re.compile(r"\bworkflow\.\w+")
    for path in [*ROOT.glob("workflow/**/*.smk"), ROOT / "Snakefile"]:
        code = re.sub(r"#.*|\bcohortvol\.workflow\.\w+", "", path.read_text(encoding="utf-8"))
        assert inside.findall(code) == [], path


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_torch_and_nnunet_are_imported_only_where_networks_run(path):
    if room_of(name_of(path)) in NETWORK_USERS or name_of(path).startswith("models.networks"):
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
        names = {name for name in names if not name.startswith("urllib.parse")}  # words alone
        if found := {name.split(".")[0] for name in names} & networks:
            users[name_of(path)] = found
    assert users == {"models.weights": {"urllib"}, "store.locks": {"socket"}}
    assert set(re.findall(r"socket\.(\w+)", (SOURCE / "store" / "locks.py").read_text())) == {
        "gethostname"
    }


def test_the_command_line_imports_a_stage_only_inside_its_subcommand():
    for path in (SOURCE / "cli").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef)], [])
        outside = {name for name in modules_imported(top) if room_of(name) != "cli"}
        assert outside <= {"errors", "store.files", "store.machine"}, path.name


def test_planning_the_workflow_loads_no_table_and_no_network():
    script = (
        "import sys, cohortvol.config, cohortvol.errors, cohortvol.store.files, "
        "cohortvol.workflow.run, cohortvol.models.card, cohortvol.store.records;"
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
