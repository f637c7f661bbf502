"""A full or read-only disk, no memory, a server without resources: named with a cure, retried where that helps."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psycopg
import pytest

from heal_tasks.core.errors import HealError, RetryableError, StepError, StoreError
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.faults import named_fault
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.store.db import Connection, beside, connect
from heal_tasks.store.runs.runs import RunRepository

DISK_MB = 1
TOO_MUCH = np.zeros(2 << 20, dtype=np.uint8)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this account may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def by_hand(folder: Path) -> None:
    (folder / "text").write_bytes(TOO_MUCH.tobytes())


def by_numpy(folder: Path) -> None:
    np.save(folder / "array.npy", TOO_MUCH)


def by_numpy_archive(folder: Path) -> None:
    np.savez(folder / "arrays.npz", TOO_MUCH)


def by_safetensors(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": TOO_MUCH}, folder / "a.safetensors")


def by_torch(folder: Path) -> None:
    import torch

    torch.save(torch.zeros(2 << 20, dtype=torch.uint8), folder / "a.pt")


@pytest.mark.parametrize("write", [by_hand, by_numpy, by_numpy_archive, by_safetensors, by_torch])
def test_a_full_disk_is_retried_and_half_an_artifact_is_removed(
    write: Callable[[Path], None], small_disk: Path, auto: Connection, settings: Settings
) -> None:
    def body(context: Context) -> Outcome:
        with context.artifacts.writing("models/one") as folder:
            write(folder)
        return Outcome(refs={"model_uri": context.artifacts.uri("models/one")})

    step = Step("probe", body, None)
    full = settings.model_copy(update={"artifacts_uri": str(small_disk)})
    with pytest.raises(
        RetryableError, match=r"step probe: the disk is full .* bytes are free in .*, then run it again"
    ):
        step.run(full, Manifest(run_id="r"))
    assert list(small_disk.iterdir()) == []
    (row,) = RunRepository(auto).steps_of("r")
    assert "the disk is full" in row.message
    assert step.run(settings, Manifest(run_id="r")).text("model_uri"), "the same run goes on when there is space"


def test_a_full_disk_that_another_error_hides_is_found(settings: Settings) -> None:
    for outer in (StepError("training process 0 failed"), ValueError("no")):
        try:
            try:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/data/file")
            except OSError as error:
                raise outer from error
        except (StepError, ValueError) as error:
            named = named_fault(error, "step train", settings)
            assert isinstance(named, RetryableError)
            assert "disk is full (OSError: [Errno 122] Disk quota exceeded: '/data/file')" in str(named)


def no_memory_of_numpy() -> None:
    np.zeros(1 << 60, dtype=np.uint8)


def no_memory_of_torch() -> None:
    import torch

    torch.zeros(1 << 60, dtype=torch.uint8)


def no_memory_of_the_system() -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def no_memory_of_libpq() -> None:
    raise psycopg.OperationalError("out of memory for query result")


@pytest.mark.parametrize("take", [no_memory_of_numpy, no_memory_of_torch, no_memory_of_the_system, no_memory_of_libpq])
def test_no_memory_is_named_and_tried_again(take: Callable[[], None], auto: Connection, settings: Settings) -> None:
    def body(context: Context) -> Outcome:
        take()
        return Outcome()

    words = (
        r"step probe: there is no memory left \(.+\); run fewer tasks at a time, or give this machine .* more memory"
    )
    with pytest.raises(RetryableError, match=words):
        Step("probe", body, None).run(settings, Manifest(run_id="r"))
    (row,) = RunRepository(auto).steps_of("r")
    assert row.message.startswith("failed: probe: there is no memory left")


def test_an_error_with_a_better_cure_for_want_of_memory_stays(settings: Settings) -> None:
    try:
        try:
            raise MemoryError
        except MemoryError as error:
            raise StepError("out of memory with 1 texts at a time; lower HEAL_TRAIN_MAX_TOKENS") from error
    except StepError as error:
        assert named_fault(error, "step train", settings) is None
    failed = named_fault(StepError("training process 0 failed: can't allocate memory: tried 4 bytes"), "step train")
    assert isinstance(failed, RetryableError)


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EMFILE, RetryableError, "too many files are open .* raise `ulimit -n`"),
        (errno.EIO, RetryableError, "input/output error .* failing disk"),
        (errno.EROFS, StepError, "read-only .*/data/x.* mount it writable"),
        (errno.EACCES, StepError, "permission is denied .*/data/x.* give this account the right"),
        (errno.EFBIG, StepError, "larger than is allowed .* `ulimit -f"),
    ],
)
def test_other_faults_of_the_file_system_are_named(number: int, kind: type[HealError], words: str) -> None:
    error = named_fault(OSError(number, os.strerror(number), "/data/x"), "step mine")
    assert type(error) is kind
    with pytest.raises(kind, match=f"step mine: .*{words}"):
        raise error


def test_other_errors_stay_what_they_are() -> None:
    for error in (ValueError("x"), FileNotFoundError(errno.ENOENT, "no such file"), StepError("wrong"), KeyError("a")):
        assert named_fault(error, "step mine") is None
    handled = ValueError("wrong, found while something else was handled")
    handled.__context__ = PermissionError(errno.EACCES, "permission denied", "/data/x")
    assert named_fault(handled, "step mine") is None


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        ("53100", RetryableError, "the disk of the database server is full; free space there"),
        ("53200", RetryableError, "no memory left; lower HEAL_INDEX_MEMORY_MB"),
        ("53300", RetryableError, "takes no more connections; raise its max_connections"),
        ("57014", RetryableError, "the database server refused"),
        ("40P01", RetryableError, "run it again"),
        ("54000", StoreError, "the database refused a value"),
        ("F0000", StepError, "the database server refused"),
        ("25006", RetryableError, "takes no writes, as a standby does"),
        ("42501", StepError, "GRANT heal_pipeline TO it"),
    ],
)
def test_the_servers_faults_are_named(state: str, kind: type[HealError], words: str, settings: Settings) -> None:
    def body(context: Context) -> Outcome:
        context.conn.execute(f"DO $$ BEGIN RAISE SQLSTATE '{state}' USING MESSAGE = 'could not'; END $$".encode())
        return Outcome()

    with pytest.raises(kind, match=f"step probe: .*{words}") as raised:
        Step("probe", body, None).run(settings, Manifest(run_id="r"))
    assert type(raised.value) is kind


def test_a_server_without_free_connections_names_the_cure(auto: Connection, settings: Settings) -> None:
    role = "nobody_may_connect"
    with suppress(psycopg.errors.DuplicateObject):
        auto.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p' CONNECTION LIMIT 0".encode())
    url = psycopg.conninfo.make_conninfo(settings.require_database_url(), user=role, password="p")
    cure = "raise max_connections or the role's CONNECTION LIMIT"
    with pytest.raises(RetryableError, match=cure):
        connect(url)
    auto.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1".encode())
    with connect(url) as only, pytest.raises(RetryableError, match=cure):
        beside(only)
    auto.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0".encode())
