"""What the measurements share: servers and their CPU time, the load generator, rounds in turn, tables."""

import contextlib
import json
import os
import pathlib
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

BENCH = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "kilter-bench"
KILTER = os.environ.get("KILTER") or str(CACHE / "target/release/kilter")
LOAD = str(CACHE / "target/release/kilter-load")
PYTHON = str(CACHE / "venv/bin/python")
CORES = len(os.sched_getaffinity(0))
TICKS = os.sysconf("SC_CLK_TCK")


def begin(title):
    """Sets up, says what is measured on which machine, and gives a folder that is gone at the end."""
    subprocess.run([str(BENCH / "setup")], check=True)
    return begin_with(title, subprocess.run([KILTER, "--version"], capture_output=True, text=True, check=True).stdout.strip())


def begin_with(title, version):
    """The same for a measurement that has set up what it needs."""
    # A server must not outlive an interrupted measurement.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"# {title}\n\n{machine(version)}\n", flush=True)
    return tempfile.TemporaryDirectory(prefix="kilter-bench-", dir=os.environ.get("BENCH_TMP") or CACHE)


def machine(version):
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    load = "/".join(f"{x:.1f}" for x in os.getloadavg())
    return (f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())} · {CORES} cores of {cpu}, {memory:.0f} GiB · "
            f"Linux {platform.release().split('-')[0]} · {version} · load before {load}")


def kilter(project, *args):
    done = subprocess.run([KILTER, "-C", str(project), *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"kilter {' '.join(map(str, args))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A server process with its children; `cpu()` is the CPU time all of them have used, in seconds."""

    def __init__(self, name, command, path, log, env=None, cwd=None, ready="/healthz", pause=0.1, patience=60):
        self.name, self.port = name, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.target = self.url + path
        command = [str(part).replace("PORT", str(self.port)) for part in command]
        # The peers' number-crunching libraries would fight over the cores for one row; one thread each is their best case.
        env = dict(os.environ, OMP_NUM_THREADS="1", **(env or {}))
        self.process = subprocess.Popen(command, env=env, cwd=cwd, stdout=open(log, "a"), stderr=subprocess.STDOUT, start_new_session=True)
        end = time.monotonic() + patience
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(self.url + ready, timeout=1)
                return
            if self.process.poll() is not None:
                break
            time.sleep(pause)
        sys.exit(f"{name} does not start:\n{open(log).read()[-2000:]}")

    def pids(self):
        children = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                parent = int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(pid))
        found, todo = [], [self.process.pid]
        while todo:
            found.append(todo.pop())
            todo += children.get(found[-1], [])
        return found

    def cpu(self):
        total = 0.0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
                total += (int(fields[11]) + int(fields[12])) / TICKS
        return total

    def memory(self):
        """Resident, in MiB."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                total += int(open(f"/proc/{pid}/statm").read().split()[1])
        return total * os.sysconf("SC_PAGE_SIZE") / 2**20

    def get(self, path):
        return json.load(urllib.request.urlopen(self.url + path, timeout=30))

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def kilter_up(project, path, name="Kilter", log=None):
    command = [KILTER, "-C", project, "--log", "warn", "up", "--no-files", "--listen", "127.0.0.1:PORT"]
    return Server(name, command, path, log or f"{project}/kilter.log")


def uvicorn(name, app, path, folder, workers=1, env=None):
    command = [PYTHON, "-m", "uvicorn", app, "--port", "PORT", "--workers", workers, "--no-access-log", "--log-level", "warning"]
    return Server(name, command, path, f"{folder}/{app.split(':')[0]}.log", env, cwd=BENCH / "peers")


def start_load(mode, target, requests, seconds, *more, first=False):
    """`first`: it runs before everything else on this machine, as if it were another one; for root."""
    command = [*(["chrt", "--rr", "1"] if first else []), LOAD, mode, target, "--requests", str(requests), "--seconds", str(seconds), *map(str, more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def end_load(process):
    text, _ = process.communicate()
    if process.returncode:
        sys.exit("the load generator failed")
    return json.loads(text)


def measured(server, mode, requests, seconds, *more, first=False):
    """One run of the load generator, with the server's CPU microseconds a request and a line, and how many cores others used."""
    busy, cpu, own, began = machine_busy(), server.cpu(), os.times(), time.time()
    run = end_load(start_load(mode, server.target, requests, seconds, *more, first=first))
    cpu, took, now = server.cpu() - cpu, time.time() - began, os.times()
    generator = now.children_user + now.children_system - own.children_user - own.children_system
    run["cpu_us"] = cpu * 1e6 / max(run["requests"], 1)
    run["cpu_us_line"] = cpu * 1e6 / max(run["lines"], 1)
    run["others"] = max(0.0, (machine_busy() - busy - cpu - generator) / took)
    if run["refused"] or run["failed"]:
        print(f"! {server.name}: {run['refused']} refused, {run['failed']} without an answer", flush=True)
    return run


def machine_busy():
    values = list(map(int, open("/proc/stat").readline().split()[1:9]))
    return (sum(values) - values[3] - values[4]) / TICKS


def median(runs, key):
    return statistics.median(run[key] for run in runs)


def number(x):
    """Three digits, thousands apart."""
    if x >= 1000:
        return f"{round(x, -(len(str(int(x))) - 3)):,.0f}".replace(",", " ")
    return f"{x:.3g}" if x < 100 else f"{x:.0f}"


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(cell if isinstance(cell, str) else number(cell) for cell in row) + " |")
    print(flush=True)


def fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    return pathlib.Path(folder)
