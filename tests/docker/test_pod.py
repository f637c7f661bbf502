"""The example of a pod for GPU tasks is one that Kubernetes and the executor accept."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
POD = ROOT / "docker" / "gpu-pod.yaml"
PROVIDER = "airflow.providers.cncf.kubernetes"

# In a process of its own: importing the executor fixes Airflow's configuration.
CONSTRUCT = f"""
import datetime, json, sys
from kubernetes.client import ApiClient
from {PROVIDER}.executors.kubernetes_executor_utils import get_base_pod_from_template
from {PROVIDER}.pod_generator import PodGenerator
pod = PodGenerator.construct_pod(
    dag_id="heal_realign", task_id="realign.train", pod_id="train-1", try_number=1, kube_image=None,
    date=datetime.datetime(2026, 11, 30), args=["run"], pod_override_object=None, namespace="heal",
    scheduler_job_id="1", run_id="nightly", map_index=0,
    base_worker_pod=get_base_pod_from_template(sys.argv[1], None),
)
print(json.dumps(ApiClient().sanitize_for_serialization(pod)))
"""


def template() -> dict[str, Any]:
    return dict(yaml.safe_load(POD.read_text()))


def test_kubernetes_knows_every_field() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate of requirements-dev.txt")
    newest = validate.latest_version()
    validate.validate(template(), newest, strict=True)
    with pytest.raises(validate.ValidationError):
        validate.validate(template() | {"spec": template()["spec"] | {"restart": "Never"}}, newest, strict=True)


def test_the_pod_has_the_worker_s_mounts() -> None:
    (container,) = template()["spec"]["containers"]
    assert container["name"] == "base"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"secrets": "/run/secrets", "shared-memory": "/dev/shm", "state": "/opt/airflow/var"}
    assert mounts.keys() == {volume["name"] for volume in template()["spec"]["volumes"]}
    assert "docker/gpu-pod.yaml" in (ROOT / "docker" / "airflow.Dockerfile").read_text()


@pytest.mark.skipif(
    find_spec("kubernetes_asyncio") is None, reason="apache-airflow-providers-cncf-kubernetes, for `make soak`"
)
def test_the_executor_makes_a_pod_of_it(tmp_path: Path) -> None:
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path)}
    command = [sys.executable, "-c", CONSTRUCT, POD]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    made = json.loads(done.stdout)
    (container,) = made["spec"].pop("containers")
    (wanted,) = template()["spec"].pop("containers")
    assert container["args"] == ["run"]
    assert made["metadata"]["namespace"] == "heal"
    wanted["env"] = container["env"]  # the executor adds a variable
    assert {name: container[name] for name in wanted} == wanted
    others = {name: value for name, value in template()["spec"].items() if name != "containers"}
    assert {name: made["spec"][name] for name in others} == others
