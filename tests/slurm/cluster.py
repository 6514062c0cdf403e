"""A real SLURM cluster on loopback: two nodes with a pretend GPU each, with or without accounting.

Everything lives in one folder (configuration, key, sockets, logs, database), nothing in /etc, so
that several of them can run side by side. Needs root and the Debian packages in NEEDED.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

NEEDED = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
}
NODES = ("n1", "n2")
MAX_ARRAY = 11

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=bf_interval=1,sched_min_interval=100000,default_queue_depth=50
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=5
MessageTimeout=3
SlurmctldTimeout=30
KillWait=3
MinJobAge=20
MaxArraySize={max_array}
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=2 RealMemory=4000 Gres=gpu:1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=2 RealMemory=4000 Gres=gpu:1
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
{accounting}
"""
ACCOUNTING = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoragePass={folder}/munge.socket
"""
DBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mysql}
StorageUser=root
StorageLoc=slurm
"""


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    packages = [package for program, package in NEEDED.items() if not which(program)]
    if packages:
        return f"SLURM is not installed (apt-get install {' '.join(packages)})"
    return "" if os.geteuid() == 0 else "a test cluster needs root"


def which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class Cluster:
    """The daemons, and how to stop, start and kill them."""

    def __init__(self, folder: Path, accounting: bool):
        self.folder, self.accounting = folder, accounting
        self.env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen] = {}
        self.hurried: set[tuple[str, str]] = set()  # jobs and how often they had been requeued
        self.ports = dict(zip(("ctld", "n1", "n2", "dbd", "mysql"), free_ports(5), strict=True))

    def __enter__(self) -> "Cluster":
        try:
            self._write()
            self.start("munged")
            until(lambda: (self.folder / "munge.socket").exists(), 10, "munged")
            if self.accounting:
                self._start_accounting()
            for daemon in ("slurmctld", *NODES):
                self.start(daemon)
            until(self.idle, 40, f"both nodes idle; logs in {self.folder}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception) -> None:
        for daemon in reversed(list(self.daemons)):
            self.stop(daemon)
        kill(self.processes())  # steps outlive their slurmd

    def start(self, name: str) -> None:
        """Start a daemon by name: munged, mariadbd, slurmdbd, slurmctld, or a node's slurmd."""
        at = self.folder
        command = {
            "munged": f"munged --foreground --force --socket={at}/munge.socket "
            f"--key-file={at}/munge.key --pid-file={at}/munge.pid --seed-file={at}/munge.seed "
            f"--log-file={at}/munge.log",
            "mariadbd": f"mariadbd --no-defaults --user=root --skip-grant-tables "
            f"--datadir={at}/mysql --socket={at}/mysql.socket --pid-file={at}/mysql.pid "
            f"--port={self.ports['mysql']} --bind-address=127.0.0.1 --skip-networking=0 "
            "--innodb-flush-log-at-trx-commit=0",
            "slurmdbd": "slurmdbd -D",
            "slurmctld": f"slurmctld -D -f {at}/slurm.conf",
        }.get(name, f"slurmd -D -N {name} -f {at}/slurm.conf").split()
        log = (self.folder / f"{name}.out").open("ab")
        program = [which(command[0]), *command[1:]]
        self.daemons[name] = subprocess.Popen(
            program, stdout=log, stderr=log, env=self.env, cwd=self.folder, start_new_session=True
        )

    def stop(self, name: str, how: int = signal.SIGTERM) -> None:
        daemon = self.daemons.pop(name)
        daemon.send_signal(how)
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def ask(self, *command: str) -> str:
        """The output of a SLURM command; raises where it fails."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def hurry(self) -> None:
        """Let requeued jobs begin in five seconds: SLURM has them wait for two minutes.

        Not at once: the step of the first time has the same id and may still be on its way out.
        """
        options = {"env": self.env, "capture_output": True, "text": True}
        fields = "JobArrayID:30,RestartCnt:10,Reason:30"
        waiting = subprocess.run(["squeue", "-h", "-r", "-t", "PD", "-O", fields], **options)
        for line in waiting.stdout.splitlines():
            job, restarts, reason = line.split(None, 2)
            if reason.strip() == "BeginTime" and (job, restarts) not in self.hurried:
                self.hurried.add((job, restarts))
                change = ["scontrol", "update", f"jobid={job}", "starttime=now+5"]
                subprocess.run(change, **options)

    def idle(self) -> bool:
        """Whether both nodes are up with nothing on them."""
        done = subprocess.run(
            ["sinfo", "-h", "-N", "-o", "%T"], env=self.env, capture_output=True, text=True
        )
        return done.stdout.split() == ["idle", "idle"]

    def clear(self) -> None:
        """Cancel what is left of a test and bring dead nodes back."""
        for name in ("slurmctld", *NODES):
            if name not in self.daemons:
                self.start(name)
        until(lambda: self.ask("scancel", "-u", "root") is not None, 20, "scancel")
        # steps too: one that ended while there was no controller tries to tell it for a minute
        kill(self.processes(of="SLURM_JOB_ID=") + self.processes(called="slurmstepd"))
        for node in NODES:
            change = ["scontrol", "update", f"nodename={node}", "state=resume"]
            subprocess.run(change, env=self.env, capture_output=True)
        until(self.idle, 120, "both nodes idle again")

    def processes(self, of: str = "", called: str = "") -> list[int]:
        """Processes under this cluster's configuration, by a variable they have or their name."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = entry.read_bytes().decode(errors="replace")
                name = (entry.parent / "comm").read_text()
            except OSError:
                continue
            pid = int(entry.parent.name)
            ours = f"SLURM_CONF={self.folder}" in variables and pid != os.getpid()
            if ours and of in variables and called in name:
                found.append(pid)
        return found

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        os.chmod(self.folder, 0o755)
        for name in ("state", "mysql"):
            (self.folder / name).mkdir()
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        os.chmod(self.folder / "munge.key", 0o400)
        (self.folder / "gpu").write_text("")
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu\n")
        values = {"folder": self.folder, "host": socket.gethostname(), "max_array": MAX_ARRAY}
        accounting = ACCOUNTING.format(folder=self.folder, **self.ports) if self.accounting else ""
        conf = CONF.format(**values, **self.ports, accounting=accounting)
        (self.folder / "slurm.conf").write_text(conf)
        (self.folder / "slurmdbd.conf").write_text(DBD_CONF.format(**values, **self.ports))
        os.chmod(self.folder / "slurmdbd.conf", 0o600)

    def _start_accounting(self) -> None:
        install = "mariadb-install-db --no-defaults --user=root --skip-test-db"
        command = f"{install} --datadir={self.folder}/mysql".split()
        subprocess.run(command, check=True, capture_output=True)
        self.start("mariadbd")
        until(lambda: answers(self.ports["mysql"]), 30, "mariadbd")
        self.start("slurmdbd")
        until(lambda: answers(self.ports["dbd"]), 60, "slurmdbd")
        self.ask("sacctmgr", "-i", "add", "cluster", "test")


def kill(processes: list[int]) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):  # it may have ended by itself
            os.kill(pid, signal.SIGKILL)


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for something to become true."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except AssertionError:
            pass
        assert time.monotonic() < give_up, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.1)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
