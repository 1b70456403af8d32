"""The manifests as Kustomize builds them: valid by the schemas of a named Kubernetes, restricted, and consistent with
what hashweir reads, asks for and promises.
Long because each promise of the manifests is read off the same built objects.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from hashweir import wiring
from hashweir.adapters.redis import RedisStore
from hashweir.adapters.redis_link import Access
from hashweir.config import PREFIX, Config, load
from hashweir.lifecycle import Health
from hashweir.sets import commands
from hashweir.sets.canary_set import ensure_canary
from hashweir.wiring import SystemClock
from tests.integration.test_store_tls_acl import READ, WRITE
from tests.servers.store import ValkeyServer
from tests.tools.kustomize import KustomizeError, build

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
VERSION = "1.33"
"""The oldest Kubernetes whose API has everything that is used, native sidecars included, as stable."""
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
ALONE = ["base", "strimzi", "overlays/example"]

Manifest = dict[str, Any]


@cache
def built(folder: Path) -> str:
    return build(folder)


def manifests(name: str) -> list[Manifest]:
    """The objects of a folder below `deploy/kubernetes`."""
    return list(yaml.safe_load_all(built(KUBERNETES / name)))


def only(objects: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    (found,) = [one for one in objects if one["kind"] == kind and name in (None, one["metadata"]["name"])]
    return found


def pods(objects: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod template with its owner's name."""
    for one in objects:
        if one["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            yield one["metadata"]["name"], one["spec"]["template"]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def check(one: Manifest) -> None:
    """Raises ValidationError where an object does not fit its schema; KeyError where there is none to hold it to."""
    if "." in one["apiVersion"].split("/")[0] and not one["apiVersion"].split("/")[0].endswith(".k8s.io"):
        schema = json.loads((KUBERNETES / "schemas" / f"{one['kind']}.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(one)
    else:
        kubernetes_validate.validate(one, VERSION, strict=True)


@pytest.mark.parametrize("name", ALONE)
def test_every_object_fits_its_schema(name: str) -> None:
    """No field that the API does not know; a custom resource without a schema of ours is an error, not a warning."""
    objects = manifests(name)
    assert objects
    for one in objects:
        check(one)


@pytest.mark.parametrize("component", COMPONENTS)
def test_each_component_works_alone(component: str) -> None:
    """Over the base and nothing else it builds, and what it makes is valid."""
    overlay = {
        "resources": ["../../deploy/kubernetes/base"],
        "components": [f"../../deploy/kubernetes/components/{component}"],
    }
    folder = ROOT / ".cache" / f"kustomize-{component}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    for one in yaml.safe_load_all(build(folder)):
        check(one)


def test_what_is_wrong_is_refused(tmp_path: Path) -> None:
    """The checks above can fail: a misspelt field, in an object of Kubernetes and in each kind of others."""
    seen = set()
    for one in [*manifests("overlays/example"), *manifests("strimzi")]:
        if one["kind"] in ("ServiceAccount", "ConfigMap", "Namespace"):
            continue
        wrong = copy.deepcopy(one)
        wrong["spec"]["repliccas"] = 1
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            check(wrong)
        seen.add(one["kind"])
    assert {"ScaledObject", "TriggerAuthentication", "KafkaTopic", "KafkaUser", "StatefulSet"} <= seen
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n")
    with pytest.raises(KustomizeError, match=r"missing\.yaml"):
        build(tmp_path)


def test_every_pod_is_restricted() -> None:
    """Each container fits the restricted Pod Security Standard; its root is read-only, its memory bounded."""
    for owner, pod in pods(manifests("overlays/example")):
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"], owner
        assert security["runAsUser"] > 0, owner
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        assert pod["spec"]["automountServiceAccountToken"] is False, owner
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod["spec"].keys(), owner
        kinds = {kind for volume in pod["spec"]["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "secret", "projected", "emptyDir"}, owner
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, owner
            assert "memory" in container["resources"]["limits"], owner


def test_secrets_are_files() -> None:
    """No secret stands in a manifest, and none in an environment."""
    for name in ALONE:
        objects = manifests(name)
        assert not [one for one in objects if one["kind"] == "Secret"]
        for _, pod in pods(objects):
            for container in containers(pod):
                assert "envFrom" not in container
                for variable in container.get("env", []):
                    assert "secretKeyRef" not in variable.get("valueFrom", {})
                    assert not re.search(r"PASSWORD$|SECRET$|TOKEN$", variable["name"])


def provided(pod: Manifest, container: Manifest, objects: list[Manifest]) -> dict[str, str]:
    """The files that a container's volumes give it, with their content; secrets have one of ours."""
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    files: dict[str, str] = {}
    for mount in container["volumeMounts"]:
        volume = volumes.get(mount["name"], {})  # or a claim, which is empty at first
        if "configMap" in volume:
            found = only(objects, "ConfigMap", volume["configMap"]["name"])["data"]
        elif "projected" in volume:
            sources = [source["secret"] for source in volume["projected"]["sources"]]
            found = {item["path"]: "s3cret" for source in sources for item in source["items"]}
        elif "secret" in volume:
            items = volume["secret"].get("items", [{"path": "password"}, {"path": "ca.crt"}])
            found = {item["path"]: "s3cret" for item in items}
        else:
            found = {}
        files |= {f"{mount['mountPath']}/{name}": content for name, content in found.items()}
    return files


def configured(
    owner: str, objects: list[Manifest], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Config, dict[str, str]]:
    """The configuration that a container of ours reads, and the files that it is given."""
    pod = dict(pods(objects))[owner]
    container = pod["spec"]["containers"][0]
    files = provided(pod, container, objects)
    for path, content in files.items():
        (folder / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (folder / path[1:]).write_text(content)
    values: dict[str, str] = {}
    for variable in container["env"]:
        value = f"{owner}-0" if "valueFrom" in variable else variable["value"]
        values[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], value)
    for name, value in values.items():
        if name.startswith(PREFIX):
            monkeypatch.setenv(name, str(folder / value[1:]) if value in files else value)
    return load(), files


@pytest.mark.parametrize("overlay", ["base", "overlays/example"])
def test_the_worker_reads_its_configuration(overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key and variable exists, every file that one names is mounted, and the pod fits what was configured."""
    objects = manifests(overlay)
    config, files = configured("hashweir", objects, tmp_path, monkeypatch)
    wiring.require(config, "kafka.bootstrap", "store.url")
    assert config.kafka.instance_id == config.worker.instance == "hashweir-0"
    assert config.kafka.sasl_password.get_secret_value() == config.store.password.get_secret_value() == "s3cret"
    assert {config.kafka.ssl_ca_file, config.store.tls_ca_file} <= files.keys()
    assert config.scan.require_fences == "seccomp"
    assert config.worker.canary_period_seconds > 0, "or HashweirCanaryMissing never fires"

    pod = only(objects, "StatefulSet", "hashweir")["spec"]["template"]["spec"]
    worker = pod["containers"][0]
    assert pod["terminationGracePeriodSeconds"] >= config.worker.drain_seconds + 5
    assert int(worker["resources"]["requests"]["cpu"]) == config.scan.processes
    assert {port["name"]: port["containerPort"] for port in worker["ports"]} == {"metrics": config.metrics.port}
    assert config.metrics.host == "0.0.0.0"
    answered = {f"/{name}" for name in dir(Health(SystemClock(), {})) if not name.startswith("_")}
    for kind, path in {"startupProbe": "/started", "livenessProbe": "/live", "readinessProbe": "/ready"}.items():
        assert worker[kind]["httpGet"] == {"path": path, "port": "metrics"}
        assert path in answered
    start = worker["startupProbe"]["periodSeconds"] * worker["startupProbe"]["failureThreshold"]
    assert start > config.kafka.connect_budget_seconds + config.store.connect_budget_seconds


def test_the_job_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes what the workers will look for."""
    objects = manifests("overlays/example")
    job, _ = configured("hashweir-create", objects, tmp_path / "job", monkeypatch)
    worker, _ = configured("hashweir", objects, tmp_path / "worker", monkeypatch)
    assert (job.store, job.limits) == (worker.store, worker.limits)
    assert job.kafka == worker.kafka.model_copy(update={"instance_id": ""})


@pytest.mark.parametrize(("name", "lane"), [("hashweir", ""), ("hashweir-long", ".long")])
def test_scaling_fits_the_group(name: str, lane: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KEDA asks for the lag of this group on this topic, and never for more workers than there are partitions."""
    objects = manifests("overlays/example")
    config, _ = configured(name, objects, tmp_path, monkeypatch)
    scaled = only(objects, "ScaledObject", name)["spec"]
    worker = only(objects, "StatefulSet", name)
    assert (scaled["scaleTargetRef"]["kind"], scaled["scaleTargetRef"]["name"]) == ("StatefulSet", name)
    assert "replicas" not in worker["spec"], "two would own one number"
    assert 1 <= scaled["minReplicaCount"] <= scaled["maxReplicaCount"] <= config.kafka.topic_partitions
    asked = scaled["triggers"][0]["metadata"]
    assert asked["consumerGroup"] == f"{config.kafka.group}{lane}"
    assert asked["topic"] == f"{config.kafka.topic_prefix}uploads{lane}"
    assert asked["bootstrapServers"] == config.kafka.bootstrap
    assert asked["username"] == config.kafka.sasl_username
    assert asked["sasl"].replace("_", "") == config.kafka.sasl_mechanism.lower().replace("-", "")
    assert (asked["tls"] == "enable") == config.kafka.security_protocol.endswith("SSL")
    assert asked["offsetResetPolicy"] == config.kafka.first_position


def test_a_long_worker_differs_in_its_topic_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is relayed without somebody who reads it, and the two StatefulSets share no pod."""
    objects = manifests("overlays/example")
    short, long = (only(objects, "StatefulSet", name)["spec"] for name in ("hashweir", "hashweir-long"))
    assert configured("hashweir", objects, tmp_path, monkeypatch)[0].worker.relay_long
    labels = long["template"]["metadata"]["labels"]
    assert long["selector"]["matchLabels"].items() <= labels.items()
    assert not short["selector"]["matchLabels"].items() <= labels.items()
    assert long["serviceName"] == only(objects, "Service", "hashweir-long")["metadata"]["name"]
    (one,), (other,) = (each["template"]["spec"]["containers"] for each in (short, long))
    assert (one.pop("args"), other.pop("args")) == (["work"], ["work", "--long"])
    assert one == other
    assert short["template"]["spec"]["volumes"] == long["template"]["spec"]["volumes"]


def test_topics_and_rights_are_those_that_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hashweir check` finds nothing to complain of in Strimzi's topics; the user may do what a worker does."""
    config, _ = configured("hashweir", manifests("overlays/example"), tmp_path, monkeypatch)
    objects = manifests("strimzi")
    topics = {one["metadata"]["name"]: one["spec"] for one in objects if one["kind"] == "KafkaTopic"}
    plans = {plan.name: plan for plan in wiring.topic_plans(config)}
    assert topics.keys() == plans.keys()
    for name, plan in plans.items():
        assert topics[name]["partitions"] == plan.partitions
        assert topics[name]["replicas"] == plan.replication
        assert plan.settings().items() <= {key: str(value) for key, value in topics[name]["config"].items()}.items()
    user = only(objects, "KafkaUser")
    assert user["metadata"]["name"] == config.kafka.sasl_username
    granted = [
        (rule["resource"]["type"], rule["resource"]["patternType"], rule["resource"]["name"], set(rule["operations"]))
        for rule in user["spec"]["authorization"]["acls"]
    ]
    for lane in ("", ".long"):
        assert ("group", "literal", f"{config.kafka.group}{lane}", {"Read", "Describe"}) in granted
        assert ("topic", "literal", f"{config.kafka.topic_prefix}uploads{lane}", {"Read"}) in granted
    prefixed = next(rights for kind, how, name, rights in granted if (kind, how) == ("topic", "prefix"))
    assert {"Write", "Describe"} <= prefixed


def selects(policy: Manifest, labels: dict[str, str]) -> bool:
    return bool(policy["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items())


@pytest.mark.parametrize("name", ["hashweir", "hashweir-long"])
def test_the_network_is_closed_but_for_what_is_needed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is denied to everybody; a worker reaches names, Kafka and the store at the ports it is told to use."""
    objects = manifests("overlays/example")
    config, _ = configured(name, objects, tmp_path, monkeypatch)
    policies = [one for one in objects if one["kind"] == "NetworkPolicy"]
    nothing = only(objects, "NetworkPolicy", "nothing")["spec"]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    labels = only(objects, "StatefulSet", name)["spec"]["template"]["metadata"]["labels"]
    out = [rule for one in policies if selects(one, labels) for rule in one["spec"].get("egress", [])]
    assert all(rule["to"] for rule in out), "somewhere, not anywhere"
    open_ports = {port["port"] for rule in out for port in rule["ports"]}
    store = int(config.store.url.split(":")[2].split("/")[0])
    assert open_ports == {53, int(config.kafka.bootstrap.split(":")[1]), store, 4317}
    into = [rule for one in policies if selects(one, labels) for rule in one["spec"].get("ingress", [])]
    assert {port["port"] for rule in into for port in rule["ports"]} == {config.metrics.port}
    valkey = only(objects, "StatefulSet", "valkey")["spec"]["template"]["metadata"]["labels"]
    ingress = [rule for one in policies if selects(one, valkey) for rule in one["spec"].get("ingress", [])]
    assert [rule["from"] for rule in ingress] == [
        [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "hashweir"}}}]
    ]


@pytest.mark.parametrize("name", ["hashweir", "hashweir-long"])
def test_a_disruption_takes_one_worker_at_a_time(name: str) -> None:
    """The budget is about the pods of the workers."""
    objects = manifests("overlays/example")
    budget = only(objects, "PodDisruptionBudget", name)["spec"]
    labels = only(objects, "StatefulSet", name)["spec"]["template"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


@pytest.mark.parametrize("name", ["hashweir", "hashweir-long"])
def test_the_sidecar_is_a_native_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts before the worker, stays, and is what the worker's spans are sent to, over loopback."""
    objects = manifests("overlays/example")
    config, _ = configured(name, objects, tmp_path, monkeypatch)
    pod = only(objects, "StatefulSet", name)["spec"]["template"]
    (sidecar,) = pod["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert "startupProbe" in sidecar
    ((_, text),) = provided(pod, sidecar, objects).items()
    listens = yaml.safe_load(text)["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert config.tracing.endpoint == f"http://{listens}/v1/traces"


def valkey_settings() -> dict[str, str]:
    lines = (KUBERNETES / "components" / "valkey" / "valkey.conf").read_text().splitlines()
    return dict(line.split(None, 1) for line in lines if line and not line.startswith("#"))


def test_the_store_keeps_what_it_answered() -> None:
    """Append-only, synced on every write, behind TLS and an ACL file that is mounted; full before its pod is."""
    objects = manifests("overlays/example")
    pod = only(objects, "StatefulSet", "valkey")["spec"]["template"]
    files = provided(pod, pod["spec"]["containers"][0], objects)
    settings = valkey_settings()
    assert (settings["appendonly"], settings["appendfsync"], settings["save"]) == ("yes", "always", '""')
    assert (settings["port"], settings["maxmemory-policy"]) == ("0", "noeviction")
    assert settings["aclfile"] in files
    # A quarter is left for buffers and for what a fork copies.
    limit = pod["spec"]["containers"][0]["resources"]["limits"]["memory"]
    assert 0 < int(settings["maxmemory"].removesuffix("gb")) <= 0.75 * int(limit.removesuffix("Gi"))
    claims = only(objects, "StatefulSet", "valkey")["spec"]["volumeClaimTemplates"]
    assert [claim["metadata"]["name"] for claim in claims] == ["data"]


@pytest.mark.store
async def test_a_real_valkey_takes_these_settings_and_lets_hashweir_in() -> None:
    """With the settings and the ACL that are shipped, `check --create` works; the rights are those found sufficient."""
    rules = (KUBERNETES / "components" / "valkey" / "users.acl.example").read_text().splitlines()
    name, _, digest, keys, *rights = rules[1].split()[1:]
    assert rules[0] == "user default off"
    assert digest == "#SHA256-OF-THE-PASSWORD"
    assert rights == [*READ.split(), *WRITE.split(), "+function|load"]
    rule = f"{name} on #{sha256(b's3cret word').hexdigest()} {keys} {' '.join(rights)}"
    # Where files are and which port it has is the fixture's (without TLS, which this build of Valkey has not).
    own = ("port", "tls-port", "tls-cert-file", "tls-key-file", "tls-auth-clients", "aclfile", "dir")
    shipped = [(f"--{key}", value.strip('"')) for key, value in valkey_settings().items() if key not in own]
    with ValkeyServer(users=[rule], settings=[word for pair in shipped for word in pair]) as server:
        access = Access(url=server.url, username=name, password="s3cret word")
        store = RedisStore(access, "hashweir")
        try:
            assert await store.create(2)
            assert await ensure_canary(store, commands.LOCAL)
            assert len(await store.heads()) == 2
        finally:
            await store.close()
