"""A real Slurm cluster on one Debian machine: four nodes with two GPUs each that do nothing.

No process of a job can have more than twice the memory that the job asked for (VSizeFactor); what
it has reserved counts, used or not.

    python tests/slurm/lab.py start     # installs Debian's packages where they are missing
    python tests/slurm/lab.py stop
    python tests/slurm/lab.py run -- snakemake --profile slurm ...

Needs root. The configuration has to lie in /etc/slurm, as Snakemake's plugin takes SLURM_CONF away;
a file there that is not ours is never touched.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path("/var/lib/cohortvol-lab")
CONFIGURATION = Path("/etc/slurm")
MARK = "# Written by tests/slurm/lab.py of cohortvol; stop takes it away.\n"
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
NODES = ("n1", "n2", "n3", "n4")
GPUS_PER_NODE = 2
START_LIMIT_SECONDS = 60.0

SLURM_CONF = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=20
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdSpoolDir={folder}/spool/%n
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
JobAcctGatherParams=OverMemoryKill
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
SlurmdTimeout=20
KillWait=10
JobRequeue=1
MinJobAge=300
VSizeFactor=200
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
NodeName=n[1-4] NodeHostname={host} NodeAddr=127.0.0.1 Port=[17001-17004] CPUs=8 Sockets=1 \
CoresPerSocket=8 ThreadsPerCore=1 RealMemory=64000 Gres=gpu:fake:{gpus} State=UNKNOWN
PartitionName=gpu Nodes=n[1-4] Default=YES MaxTime=1-00:00:00 DefaultTime=10 State=UP \
PriorityTier=10 PreemptMode=OFF
PartitionName=short Nodes=n[1-4] MaxTime=10 MaxMemPerNode=30000 State=UP PreemptMode=OFF
PartitionName=scavenge Nodes=n[1-4] MaxTime=1-00:00:00 State=UP PriorityTier=1 \
PreemptMode=REQUEUE GraceTime=5
"""


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["start", "stop", "run"])
    parser.add_argument("command", nargs="*", help="with run: what to run while the cluster is up")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("lab.py: Slurm's daemons are started by root")
    if options.action == "stop":
        stop()
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        start()
        if options.action == "start":
            return 0
        return subprocess.call(options.command)
    finally:
        if options.action == "run":
            stop()


def start() -> None:
    """Bring the cluster up, and wait until all of its nodes are idle."""
    install()
    written = CONFIGURATION / "slurm.conf"
    if written.exists() and not written.read_text().startswith(MARK):
        sys.exit(f"lab.py: {written} is of another cluster; it is left alone")
    stop()
    for name in ("state", "run", "log", "dev", *(f"spool/{node}" for node in NODES)):
        (FOLDER / name).mkdir(parents=True, exist_ok=True)
    for number in range(GPUS_PER_NODE):
        os.mknod(FOLDER / "dev" / f"nvidia{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    host = socket.gethostname().split(".")[0]
    CONFIGURATION.mkdir(exist_ok=True)
    written.write_text(MARK + SLURM_CONF.format(host=host, folder=FOLDER, gpus=GPUS_PER_NODE))
    (CONFIGURATION / "gres.conf").write_text(
        f"{MARK}NodeName=n[1-4] Name=gpu Type=fake "
        f"File={FOLDER}/dev/nvidia[0-{GPUS_PER_NODE - 1}]\n"
    )
    if subprocess.run(["munge", "-n"], capture_output=True).returncode:
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge", "munge")
        subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True)
    subprocess.run(["slurmctld"], check=True)
    for node in NODES:
        start_node(node)
    wait_for_nodes()


def install() -> None:
    """Debian's packages, where one is missing."""
    if all(shutil.which(name) for name in ("slurmctld", "slurmd", "squeue", "munged")):
        return
    quiet = {"stdout": subprocess.DEVNULL, "check": True}
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-q"], env=environment, **quiet)
    words = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *PACKAGES]
    subprocess.run(words, env=environment, **quiet)


def start_node(node: str) -> None:
    """Start the daemon of one node."""
    subprocess.run(["slurmd", "-N", node], check=True)


def wait_for_nodes() -> None:
    """Return once every node is idle; end with the daemons' last words where that never comes."""
    words = ["sinfo", "--noheader", "--Node", "--partition", "gpu", "--format", "%T"]
    end = time.monotonic() + START_LIMIT_SECONDS
    states: list[str] = []
    while time.monotonic() < end:
        states = subprocess.run(words, capture_output=True, text=True).stdout.split()
        if len(states) == len(NODES) and set(states) == {"idle"}:
            return
        time.sleep(0.5)
    for log in sorted((FOLDER / "log").glob("*.log")):
        print(f"== {log}", *log.read_text().splitlines()[-15:], sep="\n", file=sys.stderr)
    sys.exit(f"lab.py: the nodes are {states or 'unknown'} after {START_LIMIT_SECONDS:.0f} s")


def stop() -> None:
    """End the daemons and their jobs, and take the configuration away."""
    for path in sorted((FOLDER / "run").glob("*.pid"), reverse=True):
        kill(path, signal.SIGTERM)
    subprocess.run(["pkill", "-KILL", "-f", "^slurmstepd"], check=False)
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name in ("slurm.conf", "gres.conf"):
        path = CONFIGURATION / name
        if path.exists() and path.read_text().startswith(MARK):
            path.unlink()


def kill(pid_file: Path, number: signal.Signals) -> None:
    """Send a signal to the daemon of a pid file, and wait a little for it to be gone."""
    try:
        pid = int(pid_file.read_text())
        os.kill(pid, number)
        for _ in range(100):
            os.kill(pid, 0)
            time.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
    except (OSError, ValueError):
        return


if __name__ == "__main__":
    sys.exit(main())
