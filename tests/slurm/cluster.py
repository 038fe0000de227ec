"""A Slurm of one's own: munged, slurmctld and some slurmd on the loopback, all state in one folder, no systemd, any user."""

import contextlib
import getpass
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
NODES = ("n1", "n2")
DAEMONS = ("munged", "slurmctld", "slurmd")
# Daemons are not on everyone's path.
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
ENDED = frozenset("BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY TIMEOUT".split())
"""States from which a job does not come back by itself."""

_SETTINGS = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A requeued job starts once the credential of its last start has expired: after two minutes, or after 5 s, the least there is.
AuthInfo=socket={directory}/munge/socket,cred_expire=5
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/%n.pid
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/%n
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# The nodes have as many cores as we say.
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# A job whose time has come, or whose node is back, is looked for each minute otherwise.
SchedulerParameters=batch_sched_delay=0,sched_interval=1
# Ports that scripts make of a job's number are not those of another cluster on this machine.
FirstJobId={first_job}
MinJobAge=3600
JobRequeue=1
# A task that does not end when it is told to is to be seen, and not put out of the way after half a minute.
KillWait=300
ReturnToService=2
# How soon a node that does not answer is given up.
SlurmdTimeout={node_timeout}
MessageTimeout=5
MailProg=/bin/true
"""

_GPUS = 8
"""Of each node; empty files, which can be asked for and no more."""


def missing() -> list[str]:
    """Return the daemons that are not installed."""
    return [name for name in DAEMONS if shutil.which(name, path=_PATH) is None]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_for(condition: Callable[[], bool], what: Callable[[], str], timeout: float) -> None:
    """Wait until a condition holds; raises AssertionError with what there is to say, where it does not come."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what()}"
        time.sleep(0.1)


class _Daemon:
    """A daemon in the foreground and all that comes of it."""

    def __init__(self, words: list[str], environment: dict[str, str], log: Path) -> None:
        keeper = [sys.executable, "-I", str(Path(__file__).with_name("keeper.py"))]
        with log.open("ab") as output:
            self._keeper = subprocess.Popen(
                [*keeper, *words], env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output
            )

    def kill(self) -> None:
        """End it and everything that it started, at once."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait(timeout=30)


@dataclass(frozen=True)
class Job:
    """A job, by its number; of an array, `number_index`."""

    cluster: "Cluster"
    id: str

    @property
    def fields(self) -> dict[str, str]:
        """What `scontrol show job` says: JobState, ExitCode, Restarts, StdOut, ..."""
        shown = self.cluster.client("scontrol", "show", "job", "--oneliner", self.id)
        return dict(re.findall(r"(\S+?)=(\S*)", shown))

    @property
    def state(self) -> str:
        """PENDING, RUNNING, COMPLETED, ..."""
        return self.fields["JobState"]

    @property
    def log(self) -> str:
        """The output so far, of every attempt."""
        path = Path(self.fields["StdOut"])
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def wait(self, timeout: float = 180) -> dict[str, str]:
        """Wait until the job has ended for good; return its fields."""
        wait_for(lambda: self.state in ENDED, self.account, timeout)
        return self.fields

    def wait_for_state(self, state: str, restarts: int = 0, timeout: float = 60) -> None:
        """Wait until the job is in a state, having been restarted so many times."""

        def there() -> bool:
            fields = self.fields
            assert fields["JobState"] == state or fields["JobState"] not in ENDED, self.account()
            return fields["JobState"] == state and int(fields["Restarts"]) == restarts

        wait_for(there, self.account, timeout)

    def wait_for_lines(self, file: Path, count: int, timeout: float = 90) -> None:
        """Wait until a file that the job writes has so many lines."""

        def there() -> bool:
            if file.exists() and file.read_text(encoding="utf-8").count("\n") >= count:
                return True
            assert self.state not in ENDED, self.account()
            return False

        wait_for(there, self.account, timeout)

    def signal(self, name: str) -> None:
        """Signal the batch shell alone, as `--signal=B:` does, but at an instant of one's choice."""
        self.cluster.client("scancel", "--batch", f"--signal={name}", self.id)

    def cancel(self) -> None:
        """Cancel the job as a person does."""
        self.cluster.client("scancel", self.id)

    def account(self) -> str:
        """All that there is to say of the job, for the message of an assertion."""
        return f"{self.fields}\n{self.log}"


class Cluster:
    """munged, slurmctld and two nodes; `client` runs a Slurm command against them."""

    def __init__(self, directory: Path, node_timeout: int = 300) -> None:
        """Start the daemons with their state under `directory`; raises AssertionError where they do not come up.

        A node that does not answer for `node_timeout` seconds is given up; the default is Slurm's own.
        """
        self.directory = directory
        self.environment = {**os.environ, "SLURM_CONF": str(directory / "slurm.conf"), "PATH": _PATH}
        # Of a Slurm that the tests themselves may run under, nothing reaches this one.
        for name in [name for name in self.environment if name.startswith(("SLURM_", "SBATCH_")) and name != "SLURM_CONF"]:
            del self.environment[name]
        self._daemons: dict[str, _Daemon] = {}
        munge = directory / "munge"
        for folder in (munge, directory / "state", *(directory / node for node in NODES)):
            folder.mkdir()
        for number in range(_GPUS):
            (directory / f"gpu{number}").touch()
        (directory / "gres.conf").write_text(f"Name=gpu File={directory}/gpu[0-{_GPUS - 1}]\n")
        (munge / "key").touch(mode=0o600)
        (munge / "key").write_bytes(os.urandom(128))
        munge.chmod(0o711)
        try:
            files = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
            # Forced, since it otherwise wants a socket that all users reach.
            words = ["--foreground", "--force", "--num-threads=1", *(f"--{key}={munge / name}" for key, name in files.items())]
            self._start("munged", words)
            wait_for((munge / "socket").exists, lambda: self.logs, 10)
            self._start_slurm(node_timeout)
        except BaseException:
            self.stop()
            raise

    def _start_slurm(self, node_timeout: int) -> None:
        """Start the rest; another program may take a port that was free a moment ago, so it is tried again."""
        for attempt in range(3):
            controller, *ports = _free_ports(1 + len(NODES))
            host = socket.gethostname().split(".")[0]
            settings = _SETTINGS.format(
                directory=self.directory,
                host=host,
                user=getpass.getuser(),
                port=controller,
                first_job=random.SystemRandom().randrange(1000, 900_000),
                node_timeout=node_timeout,
            )
            for node, port in zip(NODES, ports, strict=True):
                settings += f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 Gres=gpu:{_GPUS}\n"
            settings += "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60\n"
            settings += "PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF\n"
            (self.directory / "slurm.conf").write_text(settings)
            self._start("slurmctld", ["-D", "-c"])
            for node in NODES:
                self._start("slurmd", ["-D", "-N", node], node)
            try:
                wait_for(self._idle, lambda: self.logs, 20)
                return
            except AssertionError:
                if attempt == 2:
                    raise
                for name in ("slurmctld", *NODES):
                    self.kill(name)

    def _start(self, program: str, words: list[str], name: str | None = None) -> None:
        name = name or program
        self._daemons[name] = _Daemon([program, *words], self.environment, self.directory / f"{name}.output")

    def _idle(self) -> bool:
        states = self.attempt("sinfo", "--noheader", "--Node", "--partition=all", "--format=%T").stdout.split()
        return states == ["idle"] * len(NODES)

    def kill(self, name: str) -> None:
        """End a daemon, or a node with its steps and their tasks, at once, as a power cut does."""
        self._daemons.pop(name).kill()

    @property
    def logs(self) -> str:
        """What the daemons said."""
        files = sorted([*self.directory.glob("*.log"), *self.directory.glob("*.output"), *self.directory.glob("munge/log")])
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in files)

    def client(self, *words: str, cwd: Path = ROOT, **environment: str) -> str:
        """Run a Slurm command and return what it prints; raises AssertionError where it fails."""
        ended = self.attempt(*words, cwd=cwd, **environment)
        assert ended.returncode == 0, f"{words}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def attempt(self, *words: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command that may fail, from the repository's root unless it is said where."""
        return subprocess.run(words, cwd=cwd, env=self.environment | environment, capture_output=True, text=True, timeout=240)

    def submit(self, *words: str, cwd: Path = ROOT, **environment: str) -> Job:
        """Run `sbatch` with options, a script and its arguments; return the job."""
        return Job(self, self.client("sbatch", "--parsable", *words, cwd=cwd, **environment).strip())

    def stop(self) -> None:
        """End every daemon, step and task."""
        for name in reversed(list(self._daemons)):
            self.kill(name)


@contextlib.contextmanager
def running_cluster(directory: Path, node_timeout: int = 300) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts."""
    cluster = Cluster(directory, node_timeout)
    try:
        yield cluster
    finally:
        cluster.stop()
