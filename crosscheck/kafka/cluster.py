"""A real Apache Kafka cluster (KRaft, brokers that are controllers too) on loopback, from the jars of Maven Central."""

import hashlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
CENTRAL = os.environ.get("MAVEN_CENTRAL", "https://repo1.maven.org/maven2")
LOG4J = """
Configuration:
  Appenders:
    Console: {name: out, PatternLayout: {pattern: "%d %p %m (%c)%n"}}
  Loggers:
    Root: {level: warn, AppenderRef: {ref: out}}
"""


def jars(folder: pathlib.Path) -> list[str]:
    """The jars of jars.txt, each with the digest that stands there; those that are missing are fetched."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for line in (HERE / "jars.txt").read_text().splitlines():
        coordinates, digest = line.split()
        group, artifact, version = coordinates.split(":")
        jar = folder / f"{artifact}-{version}.jar"
        if not jar.exists() or hashlib.sha256(jar.read_bytes()).hexdigest() != digest:
            address = f"{CENTRAL}/{group.replace('.', '/')}/{artifact}/{version}/{jar.name}"
            with urllib.request.urlopen(address, timeout=60) as answer:
                data = answer.read()
            if hashlib.sha256(data).hexdigest() != digest:
                raise SystemExit(f"{address} is not what jars.txt says")
            part = jar.with_suffix(".part")
            part.write_bytes(data)
            part.rename(jar)
        found.append(str(jar))
    return found


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Cluster:
    def __init__(self, folder: pathlib.Path, cache: pathlib.Path, brokers: int, log_settings: dict[str, str] | None = None):
        self.folder, self.brokers = folder, brokers
        self.classpath = ":".join(jars(cache / "kafka-jars"))
        self.ports = [(free_port(), free_port()) for _ in range(brokers)]
        self.processes: list[subprocess.Popen | None] = [None] * brokers
        self.id = "kilterkilterkilterkilt"[:22]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "log4j2.yaml").write_text(LOG4J)
        copies = min(3, brokers)
        voters = ",".join(f"{n + 1}@127.0.0.1:{controller}" for n, (_, controller) in enumerate(self.ports))
        for n, (port, controller) in enumerate(self.ports):
            settings = {
                "process.roles": "broker,controller",
                "node.id": n + 1,
                "controller.quorum.voters": voters,
                "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
                "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
                "controller.listener.names": "CONTROLLER",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
                "log.dirs": folder / f"data-{n + 1}",
                "auto.create.topics.enable": "false",
                "default.replication.factor": copies,
                "min.insync.replicas": max(1, copies - 1),
                "offsets.topic.replication.factor": copies,
                "offsets.topic.num.partitions": 4,
                "transaction.state.log.replication.factor": copies,
                "transaction.state.log.min.isr": max(1, copies - 1),
                "transaction.state.log.num.partitions": 4,
                "group.initial.rebalance.delay.ms": 0,
                "broker.session.timeout.ms": 3000,
                "broker.heartbeat.interval.ms": 500,
                "num.network.threads": 2,
                "num.io.threads": 2,
                "log.cleaner.enable": "false",
                **(log_settings or {}),
            }
            path = folder / f"server-{n + 1}.properties"
            path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
            self.java("kafka.tools.StorageTool", "format", "--cluster-id", self.id, "--config", str(path), "--ignore-formatted")

    def java(self, main: str, *arguments: str):
        command = ["java", "-Xmx256m", f"-Dlog4j2.configurationFile={self.folder}/log4j2.yaml", "-cp", self.classpath, main, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    @property
    def addresses(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port, _ in self.ports)

    def start(self, n: int):
        command = [
            "java", "-Xms192m", "-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            f"-Dlog4j2.configurationFile={self.folder}/log4j2.yaml", "-cp", self.classpath, "kafka.Kafka",
            str(self.folder / f"server-{n + 1}.properties"),
        ]
        with open(self.folder / f"broker-{n + 1}.log", "ab") as out:
            self.processes[n] = subprocess.Popen(command, stdout=out, stderr=out)

    def start_all(self):
        for n in range(self.brokers):
            self.start(n)
        for n in range(self.brokers):
            self.wait(n)

    def wait(self, n: int, seconds: float = 120):
        """Until the broker answers."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            process = self.processes[n]
            if process is None or process.poll() is not None:
                raise SystemExit(f"broker {n + 1} has ended:\n" + self.tail(n))
            try:
                socket.create_connection(("127.0.0.1", self.ports[n][0]), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"broker {n + 1} does not answer:\n" + self.tail(n))

    def tail(self, n: int) -> str:
        return "\n".join((self.folder / f"broker-{n + 1}.log").read_text(errors="replace").splitlines()[-20:])

    def kill(self, n: int):
        process = self.processes[n]
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        self.processes[n] = None

    def pause(self, n: int):
        """A broker that is there and says nothing: to the others a network that is cut."""
        self.processes[n].send_signal(signal.SIGSTOP)

    def resume(self, n: int):
        self.processes[n].send_signal(signal.SIGCONT)

    def stop(self):
        for n in range(self.brokers):
            if self.processes[n] is not None:
                self.processes[n].send_signal(signal.SIGCONT)
            self.kill(n)

    def remove(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
