"""``snakemake`` and ``cohortvol`` in processes of their own that need not import anything first.

A run of the workflow starts ten processes, each of which imports for 2 to 6 s what the one before
did. Here one process imports all of it, does nothing else, and splits itself for every command,
which is the real one, with its own words, folder, environment, open files and end. Jobs come here
too, through ``BASH_ENV``, which the shell of each reads first.

Tests that kill processes or ask for their numbers start them the ordinary way, and so does one run
in ``workflow/test_run.py`` to whose bytes others are held: what was split off orders sets alike.

Run as a program it is that one process, with the path of its socket; it ends with its input.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

MAIN = {"snakemake": "snakemake.cli", "cohortvol": "cohortvol.cli"}
"""Module of each program; its `main` is the program."""

IMPORTED_LATER = (
    *("snakemake.executors.local", "snakemake.scheduling.greedy", "snakemake.report"),
    *("cohortvol.workflow.run", "cohortvol.workflow.plan", "cohortvol.tools.status"),
    *("cohortvol.tools.verify.quick", "cohortvol.tools.verify.folder"),
    *("cohortvol.stages.manifest", "cohortvol.stages.ingest", "cohortvol.stages.segment.infer"),
    *("cohortvol.stages.measure", "cohortvol.stages.assemble", "cohortvol.stages.analyse"),
    *("cohortvol.stages.report", "cohortvol.tools.train.run"),
)

PROGRAM = """#!{python} -IS
import json, os, socket, sys
request = json.dumps([{name!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as way:
    way.connect({place!r})
    socket.send_fds(way, [len(request).to_bytes(4)], [0, 1, 2])
    way.sendall(request)
    sys.exit(int(way.recv(4) or b"1"))
"""


def run(
    *words: str | Path, cwd: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command, of which the first word is ``snakemake`` or ``cohortvol``, and what it said."""
    folder = programs()
    return subprocess.run(
        [folder / words[0], *words[1:]],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "BASH_ENV": str(folder / "bash_env"), **(environment or {})},
    )


@cache
def programs() -> Path:
    """Folder of the programs, each of which hands on what it is given; there while this lasts."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    place = folder / "socket"
    for name in MAIN:
        program = folder / name
        program.write_text(PROGRAM.format(python=sys.executable, name=name, place=str(place)))
        program.chmod(0o700)
    (folder / "bash_env").write_text(f"PATH={folder}:$PATH\n")
    server = _server(place)
    while not place.exists():
        assert server.poll() is None, "the process to be split did not start"
        time.sleep(0.05)
    return folder


@cache
def _server(place: Path) -> subprocess.Popen[bytes]:
    """The process to be split; when this one ends, so does its input."""
    return subprocess.Popen([sys.executable, __file__, place], stdin=subprocess.PIPE)


def serve(place: str) -> str:
    """Wait for commands; this returns once for each, in its own process, with its program."""
    running: dict[int, tuple[int, socket.socket]] = {}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place + ".new")
        server.listen()
        os.rename(place + ".new", place)
        while True:
            ways = (way for _, way in running.values())
            ready = {*select.select([server, sys.stdin, *running, *ways], [], [])[0]}
            if sys.stdin in ready:  # who could ask has ended
                shutil.rmtree(Path(place).parent)
                sys.exit()
            for ended in ready & running.keys():
                os.close(ended)
                _answer(*running.pop(ended))
            for child, way in running.values():
                if way in ready:  # nobody waits for it any more
                    os.kill(child, signal.SIGKILL)
            if server in ready:
                way, _ = server.accept()
                size, files, _, _ = socket.recv_fds(way, 4, 3)
                with way.makefile("rb") as stream:
                    request = json.loads(stream.read(int.from_bytes(size)))
                if not (child := os.fork()):
                    break
                running[os.pidfd_open(child)] = child, way
                for file in files:
                    os.close(file)
    for other in (way, *(way for _, way in running.values())):
        other.close()
    name, words, folder, environment = request
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [str(Path(sys.executable).with_name(name)), *words]
    return name


def _answer(child: int, way: socket.socket) -> None:
    """Say how a command ended."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with way, suppress(OSError):
        way.sendall(str(code if code >= 0 else 128 - code).encode())


def _start_as_python_does() -> None:
    """Look for modules where the environment says, and import what it has imported first."""
    places = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = filter(None, places)  # the first is the folder of this program
    sys.modules.pop("sitecustomize", None)
    with suppress(ModuleNotFoundError):
        importlib.import_module("sitecustomize")


def _end_at_once() -> None:
    """Without taking apart what was imported, which takes as long as some commands do."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    code = 1
    atexit.register(_end_at_once)  # before all others, so that it is called after them
    for module in (*MAIN.values(), *IMPORTED_LATER):
        importlib.import_module(module)
    gc.freeze()
    program = serve(sys.argv[1])
    _start_as_python_does()
    try:
        importlib.import_module(MAIN[program]).main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
