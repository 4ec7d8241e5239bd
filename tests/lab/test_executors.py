"""Every executor does every job once, and nothing that a job does to itself reaches the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import pliant.lab.executors as package
from pliant.errors import MissingExtraError, UnknownNameError
from pliant.lab.executors import (
    ALL,
    Event,
    ExecutorError,
    Job,
    Limits,
    LocalExecutor,
    RayExecutor,
    SerialExecutor,
    SlurmExecutor,
    create,
    local,
    opened,
)
from pliant.lab.store import StorageFullError

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    # Spawned workers get this process's path, and must find the workloads under any of pytest's import modes.
    sys.path.insert(0, HERE)

import workloads  # noqa: E402

EVERY = ["serial", "local:1", "local:2"]
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let spawned workers import the executors without what ``pliant`` and ``pliant.lab`` import beside them (torch,
    seconds for each of the many workers below). That it works shows that executors need none of it."""
    root = tmp_path_factory.mktemp("light")
    lab = Path(package.__file__).parents[1]
    (root / "pliant" / "lab").mkdir(parents=True)
    (root / "pliant" / "__init__.py").write_text(f"__path__.append({str(lab.parent)!r})\n")
    (root / "pliant" / "lab" / "__init__.py").write_text(f"__path__[:] = [{str(lab)!r}]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(root), *sys.path])
        yield root


def environment(light: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(light), os.environ.get("PYTHONPATH", "")])}


def driving(script: Path, light: Path) -> subprocess.Popen[str]:
    """A driver of its own, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, script],
        env=environment(light),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(executor: str, jobs: Sequence[Job], work: package.Work = workloads.work) -> list[Event]:
    events: list[Event] = []
    create(executor).run(jobs, work, events.append)
    return events


def of(events: Sequence[Event], job: Job) -> list[Event]:
    return [event for event in events if event.key == job.key]


def kinds(events: Sequence[Event], job: Job) -> list[str]:
    return [event.kind for event in of(events, job)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie that nobody collects (as in a container without an init) has ended all the same.
    status = Path(f"/proc/{pid}/stat")
    try:
        return not status.parent.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return not Path("/proc").exists()


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# Names


def test_create() -> None:
    assert isinstance(create("serial"), SerialExecutor)
    executor = create("local:4")
    assert isinstance(executor, LocalExecutor)
    assert executor.workers == 4
    default = create("local")
    assert isinstance(default, LocalExecutor)
    assert default.workers == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else default.workers > 0
    for text in ("serial", "local", "local:3"):
        assert create(create(text).name).name == create(text).name
    assert list(ALL) == ["serial", "local", "ray", "slurm"]


@pytest.mark.parametrize("text", ["local:0", "local:x", "local:", "local:-1", "local:1.5", "local:²", "local:99999"])
def test_bad_numbers_of_workers(text: str) -> None:
    with pytest.raises(ExecutorError, match=f"'{text}' must give the number of worker processes"):
        create(text)


def test_other_bad_executors() -> None:
    with pytest.raises(UnknownNameError, match=r"no executor named 'locale'\. Did you mean 'local'"):
        create("locale")
    with pytest.raises(UnknownNameError, match="Known: local, ray, serial, slurm"):
        create("")
    with pytest.raises(ExecutorError, match="'serial:2'"):
        create("serial:2")
    with pytest.raises(ExecutorError, match="at least 1"):
        LocalExecutor(0)


def test_settings(tmp_path: Path) -> None:
    executor = create("local:3,memory_gb=2,silent_minutes=0.5")
    assert isinstance(executor, LocalExecutor)
    assert (executor.workers, executor.name) == (3, "local:3")
    assert executor._bounds == local._Bounds(2.0, Limits(None, 0.5))
    (tmp_path / "local.toml").write_text("workers = 2\nminutes = 10\n")
    executor = create(str(tmp_path / "local.toml"))
    assert isinstance(executor, LocalExecutor)
    assert executor.workers == 2
    assert executor._bounds.limits == Limits(10.0)
    (tmp_path / "gpus.toml").write_text('executor = "slurm"\npartition = "gpu"\nminutes = 90\ngpus = 1\nshared = false\n')
    assert create(str(tmp_path / "gpus.toml")) == SlurmExecutor(partition="gpu", minutes=90.0, gpus=1, shared=False)
    assert create("slurm,partition=gpu") == SlurmExecutor(partition="gpu")
    for text, address in (
        ("ray", None),
        ("ray:auto", "auto"),
        ("ray:10.0.0.1:6379", "10.0.0.1:6379"),
        ("ray://h:1", "ray://h:1"),
    ):
        executor = create(f"{text},gpus=0.25,cpus=2")
        assert isinstance(executor, RayExecutor)
        assert (executor.address, executor._gpus, executor._cpus, executor.name) == (address, 0.25, 2.0, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("local:2,colour=red", r"no setting 'colour'\. It has: workers, memory_gb"),
        ("local:2,memory_gb=-1", r"'memory_gb' of the executor 'local' is a number above 0, not -1"),
        ("local:2,minutes=soon", "is a number above 0, not 'soon'"),
        ("local:2,workers", "'workers' is not a setting"),
        ("serial,cpus=1", "no setting 'cpus'. It has: none"),
        ("slurm:gpu", "takes no argument"),
        ("slurm,gpus=true", "a whole number above 0, not True"),
        ("slurm,cluster=moon", "slurm or local, not 'moon'"),
        ("ray:", "must give the address"),
        ("nowhere.toml", "cannot be read from nowhere.toml"),
    ],
)
def test_bad_settings(text: str, message: str) -> None:
    with pytest.raises(ExecutorError, match=message):
        create(text)


@pytest.mark.parametrize("content", ["workers = ", b"\xff\xfe", 'executor = "moon"'])
def test_bad_files(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "local.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UnknownNameError if "moon" in str(content) else ExecutorError):
        create(str(path))


@pytest.mark.parametrize(("text", "package"), [("ray", "ray"), ("slurm,cluster=local", "submitit")])
def test_a_missing_package_is_named(text: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'pliant\[lab,{text.partition(',')[0]}\]'"):
        run(text, [Job("a", "b")])


# What every executor owes


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("executor", EVERY)
def test_every_job_is_done_once(executor: str, tmp_path: Path) -> None:
    jobs = workloads.jobs(tmp_path, ["square"] * 7 + ["raise", "mistake", "leave", "report badly"] + ["square"] * 5)
    events = run(executor, jobs)
    for number, job in enumerate(jobs):
        found = of(events, job)
        assert {event.attempt for event in found} == {1}
        assert len(workloads.attempts(tmp_path, job)) == 1
        if "square" in job.key:
            assert [event.kind for event in found] == ["started", "progress", "progress", "progress", "finished"]
            assert [event.data for event in found[1:4]] == [{"step": step, "number": number} for step in range(3)]
            assert (tmp_path / f"{job.key}.result").read_text() == str(number**2)
        else:
            assert [event.kind for event in found] == ["started", "failed"]
    messages = {event.key[4:]: event.message for event in events if event.kind == "failed"}
    assert messages["raise"].startswith("ValueError: no such number (at workloads.py:")
    assert messages["raise"].endswith(" in work)")
    assert messages["mistake"] == "DomainError: alpha must be positive, not -1. Choose a positive alpha."
    assert messages["leave"].startswith("SystemExit: 3")
    assert messages["report badly"].startswith("ValueError: could not convert string to float: 'low'")
    started = [event.key for event in events if event.kind == "started"]
    assert started == [job.key for job in jobs]


@pytest.mark.parametrize("executor", EVERY)
def test_no_jobs(executor: str) -> None:
    assert run(executor, []) == []


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("executor", ["serial", "local:2"])
def test_a_full_disk_stops_the_run(executor: str, tmp_path: Path) -> None:
    jobs = workloads.jobs(tmp_path, ["fill the disk"] + ["square"] * 20)
    with pytest.raises(StorageFullError, match="no space left to write x"):
        run(executor, jobs)
    assert not workloads.attempts(tmp_path, jobs[-1])


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("executor", ["serial", "local:2"])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_of_the_listener_is_the_callers(executor: str, error: type[BaseException], tmp_path: Path) -> None:
    jobs = workloads.jobs(tmp_path, ["square"] * 5)

    def listen(event: Event) -> None:
        if event.kind == "progress":
            raise error

    with pytest.raises(error):
        create(executor).run(jobs, workloads.work, listen)
    assert not workloads.attempts(tmp_path, jobs[-1])
    for job in jobs:
        for pid in workloads.attempts(tmp_path, job):
            assert pid == os.getpid() or not alive(pid)


def test_serial_takes_any_callable() -> None:
    done: list[str] = []
    events = run("serial", [Job("a", "x"), Job("b", "y")], lambda job, report: done.append(job.payload))
    assert done == ["x", "y"]
    assert [event.kind for event in events] == ["started", "finished"] * 2


# Deaths


@posix
@pytest.mark.usefixtures("light")
def test_deaths_cost_only_the_jobs_that_died(tmp_path: Path) -> None:
    tasks = ["die once", "square", "die", "exit", "square", "raise", "die with a child", "hang up", "poison"]
    jobs = workloads.jobs(tmp_path, [*tasks, *["square"] * 12])
    begun = time.monotonic()
    events = run("local:2", jobs)
    os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    # The work sleeps for a minute where a death or a hang-up is not noticed at once.
    assert time.monotonic() - begun < 40
    by_task = {task: next(job for job in jobs if job.key.endswith(task)) for task in tasks}

    for job in jobs:
        if job.key.endswith("square"):
            assert kinds(events, job)[-1] == "finished"
            assert (tmp_path / f"{job.key}.result").exists()
            assert len(workloads.attempts(tmp_path, job)) == 1

    for task in ("die once", "die with a child"):
        started, retrying, again, finished = of(events, by_task[task])
        assert (started.kind, retrying.kind, again.kind, finished.kind) == ("started", "retrying", "started", "finished")
        assert (started.attempt, retrying.attempt, again.attempt, finished.attempt) == (1, 1, 2, 2)
        assert retrying.message == "worker died: SIGKILL (often the out-of-memory killer)"
        first, second = workloads.attempts(tmp_path, by_task[task])
        assert first != second

    for task, cause in (("die", "SIGKILL (often the out-of-memory killer)"), ("exit", "exit code 7")):
        assert kinds(events, by_task[task]) == ["started", "retrying"] * 2 + ["started", "failed"]
        last = of(events, by_task[task])[-1]
        assert last.attempt == 3
        assert last.message == f"worker died: {cause}, in each of 3 attempts"
        assert len(set(workloads.attempts(tmp_path, by_task[task]))) == 3

    assert kinds(events, by_task["hang up"]) == ["started", "retrying", "started", "finished"]
    assert of(events, by_task["hang up"])[1].message == "worker died: it closed its connection and was killed"

    assert kinds(events, by_task["raise"]) == ["started", "failed"]
    assert kinds(events, by_task["poison"]) == ["started", "failed"]
    (poisoned,) = workloads.attempts(tmp_path, by_task["poison"])
    later = [pid for job in jobs[9:] for pid in workloads.attempts(tmp_path, job)]
    assert poisoned not in later[1:], "a worker that a runtime error may have spoilt takes no more jobs"

    pids = {pid for job in jobs for pid in workloads.attempts(tmp_path, job)}
    assert not [pid for pid in pids if alive(pid)]


@posix
@pytest.mark.usefixtures("light")
def test_a_worker_that_dies_between_jobs_costs_nothing(tmp_path: Path) -> None:
    jobs = workloads.jobs(tmp_path, ["square"] * 6)
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if event.kind == "finished" and event.key == jobs[2].key:
            # The worker is idle at this very moment, and the next job is sent to a corpse.
            (pid,) = workloads.attempts(tmp_path, jobs[2])
            os.kill(pid, signal.SIGKILL)
            assert wait_for(lambda: not alive(pid), 5)

    create("local:1").run(jobs, workloads.work, listen)
    for job in jobs:
        assert kinds(events, job)[-1] == "finished"
    assert Counter(event.kind for event in events)["retrying"] <= 1
    assert len({pid for job in jobs for pid in workloads.attempts(tmp_path, job)}) == 2


@posix
@pytest.mark.usefixtures("light")
def test_what_a_worker_said_before_it_died_counts(tmp_path: Path) -> None:
    jobs = workloads.jobs(tmp_path, ["finish and die", "square"])
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if event.kind == "started" and event.key == jobs[0].key:
            # Busy for so long that the result and the death are found together.
            assert wait_for(lambda: bool(workloads.attempts(tmp_path, jobs[0])), 10)
            (pid,) = workloads.attempts(tmp_path, jobs[0])
            assert wait_for(lambda: not alive(pid), 10)

    create("local:1").run(jobs, workloads.work, listen)
    for job in jobs:
        assert kinds(events, job)[-1] == "finished"
        assert len(workloads.attempts(tmp_path, job)) == 1


@pytest.mark.usefixtures("light")
def test_workers_are_warm_and_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "77")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setattr(local, "_cores", lambda: 6)
    jobs = workloads.jobs(tmp_path, ["threads"] * 8)
    events = run("local:2", jobs)
    data = [event.data for event in events if event.kind == "progress"]
    assert data == [{"OMP_NUM_THREADS": 3.0, "MKL_NUM_THREADS": 3.0}] * 8
    assert os.environ["OMP_NUM_THREADS"] == "77"
    assert "MKL_NUM_THREADS" not in os.environ
    pids = {pid for job in jobs for pid in workloads.attempts(tmp_path, job)}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids


@posix
@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("hang once", "silent_minutes=0.02", "it hung: there was no sign of it for 0.02 minutes, and it was ended"),
        ("hang once", "minutes=0.02", "it took longer than the limit of 0.02 minutes and was ended"),
        pytest.param(
            "swell once",
            "memory_gb=0.25",
            "GB of memory, more than the limit of 0.25 GB, and was ended",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="needs /proc"),
        ),
    ],
)
def test_limits(tmp_path: Path, task: str, settings: str, message: str) -> None:
    jobs = workloads.jobs(tmp_path, [task, "square"])
    events = run(f"local:2,{settings}", jobs)
    assert kinds(events, jobs[0]) == ["started", "progress", "retrying", "started", "finished"]
    assert message in of(events, jobs[0])[2].message
    assert kinds(events, jobs[1])[-1] == "finished"
    first, second = workloads.attempts(tmp_path, jobs[0])
    assert first != second
    assert not alive(first)


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(("given", "seen"), [("4,7", {"4", "7"}), ("3", {"3"}), ("", {""})])
def test_gpus_are_taken_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, seen: set[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    jobs = workloads.jobs(tmp_path, ["device"] * 6)
    run("local:2", jobs)
    found = {(tmp_path / f"{job.key}.result").read_text() for job in jobs}
    # One worker may do all the work before the other has started.
    assert found <= seen
    assert os.environ["CUDA_VISIBLE_DEVICES"] == given
    assert [local._devices()[slot % 2] for slot in range(4)] == ["4", "7", "4", "7"] if given == "4,7" else True


# Work that cannot travel


class Locked:
    """Holds what no pickle holds."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, job: Job, report: package.Report) -> None:
        raise AssertionError


@pytest.mark.parametrize("work", [lambda job, report: None, Locked()], ids=["lambda", "lock"])
def test_work_that_cannot_be_pickled(work: package.Work, tmp_path: Path) -> None:
    with pytest.raises(ExecutorError, match=r"top level of a module that can be imported.*--on serial"):
        run("local:1", workloads.jobs(tmp_path, ["square"]), work)


@pytest.mark.usefixtures("light")
def test_work_that_arrives_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExecutorError, match=r"cannot be sent to worker processes.*len\(\).*--on serial"):
        run("local:2", workloads.jobs(tmp_path, ["square"]), workloads.Unreadable())


def test_workers_that_do_not_start(light: Path, tmp_path: Path) -> None:
    """The mistake that everybody makes once: a script without a guard, which every worker runs again."""
    script = tmp_path / "study.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {HERE!r})\n"
        "from pathlib import Path\n"
        "import workloads\n"
        "from pliant.lab.executors import create\n"
        "from pliant.errors import PliantError\n"
        f"jobs = workloads.jobs(Path({str(tmp_path)!r}), ['square'])\n"
        "try:\n"
        "    create('local:1').run(jobs, workloads.work, print)\n"
        "except PliantError as error:\n"
        "    print('told:', error)\n"
    )
    done = subprocess.run(
        [sys.executable, script], env=environment(light), capture_output=True, text=True, timeout=60, check=False
    )
    told = done.stdout.splitlines()[-1]
    assert told.startswith("told: Worker processes die before they take any work")
    assert "exit code 1" in told
    assert '`if __name__ == "__main__":`' in told


# Several runs of one executor


def pids(directory: Path, jobs: Sequence[Job]) -> set[int]:
    return {pid for job in jobs for pid in workloads.attempts(directory, job)}


def folders(tmp_path: Path, *names: str) -> list[Path]:
    found = [tmp_path / name for name in names]
    for folder in found:
        folder.mkdir()
    return found


@pytest.mark.usefixtures("light")
def test_workers_stay_warm_from_run_to_run_and_end_with_the_block(tmp_path: Path) -> None:
    first, second, third = folders(tmp_path, "first", "second", "third")
    seen: list[set[int]] = []
    with opened("local:2") as executor:
        for folder, work in (
            (first, workloads.work),
            (second, workloads.Reader(second, "second")),
            (third, workloads.Reader(third, "third")),
        ):
            # Each "meet" waits for the other, so both workers take one.
            jobs = workloads.jobs(folder, ["meet", "meet", "square", "raise", "square"])
            events: list[Event] = []
            executor.run(jobs, work, events.append)
            assert [kinds(events, job)[-1] for job in jobs] == ["finished"] * 3 + ["failed", "finished"]
            seen.append(pids(folder, jobs))
        executor.run([], workloads.work, events.append)
        assert len(seen[0]) == 2
        assert seen[0] == seen[1] == seen[2]
        assert all(alive(pid) for pid in seen[0])
    assert not any(alive(pid) for pid in seen[0])
    for folder in (second, third):
        released = (folder / "released").read_text().splitlines()
        assert sorted(released) == sorted(f"{folder.name} {pid}" for pid in seen[0])
    jobs = workloads.jobs(tmp_path, ["square"])
    executor.run(jobs, workloads.work, events.append)
    assert not any(alive(pid) for pid in pids(tmp_path, jobs)), "afterwards they end with their run again"


@posix
@pytest.mark.usefixtures("light")
def test_a_worker_killed_between_runs_is_replaced(tmp_path: Path) -> None:
    first, second = folders(tmp_path, "first", "second")
    with opened("local:2") as executor:
        jobs = workloads.jobs(first, ["meet", "meet"])
        executor.run(jobs, workloads.work, lambda event: None)
        killed, kept = sorted(pids(first, jobs))
        os.kill(killed, signal.SIGKILL)
        assert wait_for(lambda: not alive(killed), 5)
        events: list[Event] = []
        jobs = workloads.jobs(second, ["meet", "meet", "square"])
        executor.run(jobs, workloads.Reader(second, "second"), events.append)
        assert Counter(event.kind for event in events)["retrying"] == 0
        assert [kinds(events, job)[-1] for job in jobs] == ["finished"] * 3
        found = pids(second, jobs)
        assert kept in found
        assert killed not in found
        assert len(found) == 2
    assert not any(alive(pid) for pid in found)


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("change", ["cores", "devices", "environment", "folder", "path"])
def test_a_worker_that_inherited_other_settings_is_replaced(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_cores", lambda: 6)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    first, second = folders(tmp_path, "first", "second")
    with opened("local:1") as executor:
        events: list[Event] = []
        jobs = workloads.jobs(first, ["threads", "device"])
        executor.run(jobs, workloads.work, events.append)
        (before,) = pids(first, jobs)
        if change == "cores":
            monkeypatch.setattr(local, "_cores", lambda: 3)
        elif change == "devices":
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
        elif change == "environment":
            monkeypatch.setenv("PLIANT_DATA", str(tmp_path))
        elif change == "folder":
            monkeypatch.chdir(tmp_path)
        else:
            monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
        jobs = workloads.jobs(second, ["threads", "device"])
        executor.run(jobs, workloads.work, events.append)
        (after,) = pids(second, jobs)
        assert before != after
        assert not alive(before)
    threads = [event.data["OMP_NUM_THREADS"] for event in events if event.kind == "progress"]
    assert threads == [6.0, 3.0 if change == "cores" else 6.0]
    assert (second / f"{jobs[1].key}.result").read_text() == ("7" if change == "devices" else "4")


@pytest.mark.usefixtures("light")
def test_what_a_library_sets_for_itself_replaces_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    with opened("local:1") as executor:
        for folder in folders(tmp_path, "first", "second"):
            jobs = workloads.jobs(folder, ["square"])
            executor.run(jobs, workloads.work, lambda event: None)
            found.append(pids(folder, jobs))
            monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert found[0] == found[1]


@posix
@pytest.mark.usefixtures("light")
def test_limits_hold_in_a_later_run(tmp_path: Path) -> None:
    first, second = folders(tmp_path, "first", "second")
    with opened("local:1,silent_minutes=0.02") as executor:
        jobs = workloads.jobs(first, ["square"])
        executor.run(jobs, workloads.work, lambda event: None)
        # Longer than the limit, which is of jobs: an idle worker has nothing to give a sign of.
        time.sleep(1.5)
        events: list[Event] = []
        later = workloads.jobs(second, ["hang once", "square"])
        executor.run(later, workloads.work, events.append)
        assert kinds(events, later[0]) == ["started", "progress", "retrying", "started", "finished"]
        assert pids(first, jobs) == set(workloads.attempts(second, later[0])[:1])


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.usefixtures("light")
def test_under_a_limit_of_memory_each_run_has_new_workers(tmp_path: Path) -> None:
    first, second = folders(tmp_path, "first", "second")
    with opened("local:1,memory_gb=4") as executor:
        found = []
        for folder in (first, second):
            jobs = workloads.jobs(folder, ["square"])
            executor.run(jobs, workloads.work, lambda event: None)
            found.append(pids(folder, jobs))
            assert not any(alive(pid) for pid in found[-1])
    assert found[0].isdisjoint(found[1])


@pytest.mark.usefixtures("light")
def test_a_run_that_ends_with_an_error_leaves_no_worker(tmp_path: Path) -> None:
    first, second, third = folders(tmp_path, "first", "second", "third")
    with opened("local:2") as executor:
        jobs = workloads.jobs(first, ["meet", "meet"])
        executor.run(jobs, workloads.work, lambda event: None)
        with pytest.raises(ExecutorError, match="cannot be sent to worker processes"):
            executor.run(workloads.jobs(second, ["square"]), workloads.Unreadable(), lambda event: None)
        assert not any(alive(pid) for pid in pids(first, jobs)), "not even those that this run did not need"
        jobs = workloads.jobs(third, ["square"])
        executor.run(jobs, workloads.work, lambda event: None)
        assert pids(third, jobs)


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize("executor", ["serial", "local:1", "ray", "slurm,cluster=local"])
def test_every_executor_can_be_opened(executor: str, tmp_path: Path) -> None:
    with opened(executor) as found:
        assert type(found) is type(create(executor))
        if executor in EVERY:
            jobs = workloads.jobs(tmp_path, ["square"])
            found.run(jobs, workloads.work, lambda event: None)
            assert len(pids(tmp_path, jobs)) == 1
    assert not [pid for pid in pids(tmp_path, workloads.jobs(tmp_path, ["square"])) if pid != os.getpid() and alive(pid)]


# The driver's own end


@posix
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_the_driver(light: Path, tmp_path: Path, end: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, workloads.__file__, "local:2", tmp_path, "4"],
        env=environment(light),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as driver:
        jobs = workloads.jobs(tmp_path, ["sleep"] * 4)
        try:
            assert wait_for(lambda: sum(len(workloads.attempts(tmp_path, job)) for job in jobs) == 2, 30)
            pids = [pid for job in jobs for pid in workloads.attempts(tmp_path, job)]
            assert all(alive(pid) for pid in pids)
            if end == signal.SIGINT:
                # A terminal sends it to the workers too, perhaps before the driver.
                for pid in pids:
                    os.kill(pid, end)
                time.sleep(0.2)
                os.killpg(driver.pid, end)
            else:
                driver.send_signal(end)
            assert wait_for(lambda: not any(alive(pid) for pid in pids), 2)
            _, errors = driver.communicate(timeout=10)
        finally:
            driver.kill()
    if end == signal.SIGINT:
        assert "KeyboardInterrupt" in errors
        assert errors.count("Traceback") == 1, "the workers print none"
    else:
        assert driver.returncode == -end
    assert sum(len(workloads.attempts(tmp_path, job)) for job in jobs) == 2


@posix
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_idle_worker_outlives_the_driver(light: Path, tmp_path: Path, end: signal.Signals) -> None:
    script = tmp_path / "idle.py"
    script.write_text(
        "import sys, time\n"
        f"sys.path.insert(0, {HERE!r})\n"
        "from pathlib import Path\n"
        "import workloads\n"
        "from pliant.lab.executors import opened\n"
        "if __name__ == '__main__':\n"
        "    with opened('local:2') as executor:\n"
        f"        executor.run(workloads.jobs(Path({str(tmp_path)!r}), ['meet'] * 2), workloads.work, lambda event: None)\n"
        "        print('idle', flush=True)\n"
        "        time.sleep(60)\n"
    )
    with driving(script, light) as driver:
        assert driver.stdout is not None
        try:
            assert driver.stdout.readline() == "idle\n"
            idle = pids(tmp_path, workloads.jobs(tmp_path, ["meet"] * 2))
            assert len(idle) == 2
            assert all(alive(pid) for pid in idle)
            os.killpg(driver.pid, end) if end == signal.SIGINT else driver.send_signal(end)
            assert wait_for(lambda: not any(alive(pid) for pid in idle), 5)
            _, errors = driver.communicate(timeout=10)
        finally:
            driver.kill()
    assert errors.count("Traceback") == (1 if end == signal.SIGINT else 0), "the workers print none"


@posix
def test_an_interrupt_while_workers_start(light: Path, tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(
        "import os, sys, time\n"
        f"sys.path.insert(0, {HERE!r})\n"
        "from pathlib import Path\n"
        "import workloads\n"
        "from pliant.lab.executors import create\n"
        "if __name__ == '__main__':\n"
        f"    create('local:2').run(workloads.jobs(Path({str(tmp_path)!r}), ['square'] * 4), workloads.work, print)\n"
        "else:\n"
        # In one piece: both workers write to the same pipe.
        "    os.write(1, f'{os.getpid()}\\n'.encode())\n"
        "    time.sleep(60)\n"
    )
    with driving(script, light) as driver:
        assert driver.stdout is not None
        try:
            starting = [int(driver.stdout.readline()) for _ in range(2)]
            for pid in starting:
                os.kill(pid, signal.SIGINT)
            assert not wait_for(lambda: not all(alive(pid) for pid in starting), 0.3), "it is the driver's to end them"
            os.killpg(driver.pid, signal.SIGINT)
            # Both ends of the pipes are closed only when the workers are gone as well.
            _, errors = driver.communicate(timeout=10)
        finally:
            driver.kill()
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")


@posix
def test_a_worker_watches_its_driver_where_the_kernel_does_not(light: Path, tmp_path: Path) -> None:
    """The way of macOS and Windows: a thread that waits for the parent's end."""
    script = tmp_path / "watch.py"
    script.write_text(
        "import multiprocessing, os, time\n"
        "from pliant.lab.executors import local\n"
        "def child():\n"
        "    local._death_signal = lambda: False\n"
        "    local._die_with(os.getppid())\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.get_context('spawn').Process(target=child).start()\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, script], env=environment(light), stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        try:
            pid = int(driver.stdout.readline())
        finally:
            driver.kill()
    assert wait_for(lambda: not alive(pid), 2)


# The arrow


def test_executors_import_no_torch_and_no_study(light: Path) -> None:
    code = "import sys, pliant.lab.executors; print(*(n for n in sys.modules if n.startswith('pliant') or n == 'torch'))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(light), capture_output=True, text=True, check=True)
    lab = "pliant.lab"
    assert set(done.stdout.split()) == {
        "pliant",
        "pliant.errors",
        lab,
        f"{lab}.store",
        f"{lab}.executors",
        *(f"{lab}.executors.{name}" for name in ("interface", "serial", "local", "ray", "remote", "slurm")),
    }
