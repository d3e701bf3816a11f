"""What the programs here share: building the C programs, children, the machine, noise, CSV."""

import csv
import datetime
import json
import os
import platform
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
LIBRARIES = {"dotload": ["-lssl", "-lcrypto"]}
TRIES_WHEN_NOISY = 3


def work_directory(name):
    """A directory of this user's own for binaries, configurations and logs; kept for a look later."""
    return tempfile.mkdtemp(prefix=f"dnslob-{name}-")


def compile_c(name, directory):
    """Compiles perf/src/NAME.c and gives the path of the program."""
    out = os.path.join(directory, name)
    source = os.path.join(HERE, "src", f"{name}.c")
    subprocess.run(["cc", "-O2", "-march=native", "-Wall", "-Wextra", "-o", out, source, "-lm",
                    *LIBRARIES.get(name, [])], check=True)
    return out


def dnslob_binary(given=None):
    """The build that packages hold (profile dist), made now unless one was given."""
    if given:
        return os.path.abspath(given)
    subprocess.run(["cargo", "build", "--profile", "dist", "--quiet"], check=True, cwd=ROOT)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    return os.path.join(target, "dist", "dnslob")


class Child:
    """A program under test: started in the foreground, ended by its pid, its output in a log."""

    def __init__(self, command, directory, name, cpus=None):
        self.name = name
        self.command = command
        self.log_path = os.path.join(directory, f"{name}.log")
        pin = (lambda: os.sched_setaffinity(0, cpus)) if cpus else None
        with open(self.log_path, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            cwd=directory, preexec_fn=pin)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def check(self):
        """Ends the whole run if the program has ended by itself."""
        code = self.process.poll()
        if code is not None:
            with open(self.log_path, encoding="utf-8", errors="replace") as log:
                sys.exit(f"{self.name} ended with {code}:\n{log.read()[-2000:]}")

    def stop(self):
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(6)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def pids(self):
        """The process and its descendants (nginx has a worker)."""
        return descendants(self.process.pid)


def descendants(pid):
    found = [pid]
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
            for child in f.read().split():
                found += descendants(int(child))
    except OSError:
        pass
    return found


def rss_mb(pids):
    """Resident memory of the processes, MB."""
    total_kb = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status", encoding="ascii") as f:
                total_kb += sum(int(line.split()[1]) for line in f if line.startswith("VmRSS"))
        except OSError:
            pass
    return total_kb / 1024


def kernel_memory():
    """Bytes that all TCP sockets of the machine hold in buffers, and that the kernel's slabs hold."""
    page = os.sysconf("SC_PAGE_SIZE")
    with open("/proc/net/sockstat", encoding="ascii") as f:
        words = next(line.split() for line in f if line.startswith("TCP:"))
    with open("/proc/meminfo", encoding="ascii") as f:
        slab_kb = next(int(line.split()[1]) for line in f if line.startswith("Slab:"))
    return int(words[words.index("mem") + 1]) * page, slab_kb * 1024


def cpu_seconds(pids):
    """CPU time of all threads of the processes so far, from schedstat (nanosecond grain)."""
    total_ns = 0
    for pid in pids:
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as f:
                    total_ns += int(f.read().split()[0])
        except OSError:
            pass
    return total_ns / 1e9


def wait_for(what, condition, seconds, child=None):
    """Polls until the condition holds; ends the run with a message if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if child:
            child.check()
        if time.monotonic() > deadline:
            sys.exit(f"gave up after {seconds} s: {what}")
        time.sleep(0.02)


def udp_port_bound(port):
    """Whether some process has a UDP socket bound to that port (from /proc/net/udp)."""
    wanted = f":{port:04X}"
    with open("/proc/net/udp", encoding="ascii") as f:
        return any(line.split()[1].endswith(wanted) for line in f if ":" in line.split()[0])


def tcp_port_bound(port):
    """Whether some process listens on that TCP port (from /proc/net/tcp)."""
    listening = "0A"
    wanted = f":{port:04X}"
    with open("/proc/net/tcp", encoding="ascii") as f:
        fields = [line.split() for line in f]
    return any(words[3] == listening and words[1].endswith(wanted) for words in fields)


def open_files_limit():
    """Raises the limit of open files of this process and its children as far as it may; gives it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def run_load(command, child):
    """Runs a load generator against a running program and gives its figures and whether they are noisy."""
    pids = child.pids()
    for pid in pids:
        command = command + ["-p", str(pid)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    child.check()
    try:
        row = json.loads(out.stdout)
    except json.JSONDecodeError:
        sys.exit(f"{child.name}: {' '.join(command)} said: {out.stdout} {out.stderr}")
    row["rss_mb"] = round(rss_mb(pids), 1)
    others = row["cpu0_busy"] - row["cpu_share"]
    row["noisy"] = int(row["nice_percent"] > 5 or row["steal_percent"] > 3 or others > 0.06)
    return row


class Silent:
    """A stream load generator run with -i: entered when its idle connections are open, ended by leaving.

    `count` are those that had their answer, `figures` what it prints at its end.
    """

    def __init__(self, command):
        self.command, self.count, self.figures = command, 0, None

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        first = self.process.stdout.readline()
        if not first:
            sys.exit(f"{' '.join(self.command)} said: {self.process.communicate()[1]}")
        self.count = json.loads(first)["idle"]
        return self

    def __exit__(self, kind, *_):
        self.process.terminate()
        out, err = self.process.communicate(timeout=30)
        if out:
            self.figures = json.loads(out)
        elif not kind:
            sys.exit(f"{' '.join(self.command)} said: {err}")


def until_quiet(measure):
    """The row that `measure` gives; measured again when it is noisy, up to twice."""
    for _ in range(TRIES_WHEN_NOISY):
        row = measure()
        if not row["noisy"]:
            break
    return row


def quiet_rows(rows):
    """Those without noise, or all if there are none."""
    return [row for row in rows if not row["noisy"]] or rows


def medians(rows, keys):
    return {key: statistics.median(row[key] for row in rows) for key in keys}


def shown(command, work):
    """A command line as it goes into a row: without the directories of this run."""
    return " ".join(shlex.quote(word.replace(work, "WORK").replace(ROOT, ".")) for word in command)


def busy_cores(seconds=0.5):
    """How many cores' worth of CPU the machine uses while this program sleeps."""
    def used():
        with open("/proc/stat", encoding="ascii") as f:
            fields = [int(x) for x in f.readline().split()[1:9]]
        return sum(fields) - fields[3] - fields[4]
    before = used()
    time.sleep(seconds)
    return (used() - before) / CLOCK_TICKS / seconds


def require_quiet(tolerate, limit=0.10, patience=20):
    """Waits for the machine to be idle; ends the run if it is not, unless that is tolerated."""
    deadline = time.monotonic() + patience
    while (busy := busy_cores()) > limit:
        if time.monotonic() > deadline:
            message = f"the machine is not quiet: {busy:.2f} cores are in use by others"
            if not tolerate:
                sys.exit(message + " (--tolerate-noise measures all the same)")
            print(f"warning: {message}; figures will be marked noisy", file=sys.stderr)
            return


def raise_priority():
    """Puts this session's scheduling group before others', where that is allowed."""
    try:
        os.setsid()
    except OSError:
        pass
    try:
        with open("/proc/self/autogroup", "w", encoding="ascii") as f:
            f.write("-20")
    except OSError:
        pass


def machine():
    """The machine, as it goes into each row of results."""
    model = "unknown"
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo", encoding="ascii") as f:
        memory_gb = int(f.readline().split()[1]) / 1024 / 1024
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": f"{os.cpu_count()} CPUs, {memory_gb:.0f} GB",
        "cpu": model,
        "kernel": platform.release(),
        "revision": revision(),
    }


def revision():
    """The commit that was measured, with a + if the tree has changes of its own."""
    try:
        out = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True,
                             text=True, check=True)
        return out.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def version_of(command):
    """First line that a program prints about its version."""
    try:
        out = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "not installed"
    return ((out.stdout or out.stderr).strip().splitlines() or ["unknown"])[0]


class Results:
    """Rows of a run, written to a CSV file as they come."""

    def __init__(self, path, fixed):
        self.fixed = fixed
        self.path = path
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        self.file = open(path, "w", newline="", encoding="utf-8")
        self.writer = None

    def add(self, row):
        row = {**row, **self.fixed}
        if self.writer is None:
            self.writer = csv.DictWriter(self.file, fieldnames=list(row), extrasaction="ignore")
            self.writer.writeheader()
        self.writer.writerow(row)
        self.file.flush()
