"""Files that cost more than they should: bounded in time and memory, refused alone, and the process of parsers."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from heal_tasks.core.errors import RetryableError
from heal_tasks.core.types import Record, Rejected, SourceFile
from heal_tasks.sources import parser_process
from heal_tasks.sources.chunking import chunk_text
from heal_tasks.sources.extract import UnreadableError
from heal_tasks.sources.parse import MAX_REJECTED_PER_FILE, read_records
from heal_tasks.sources.parser_process import ParserProcess
from tests.sources.parsing import FakeSource, accepted, parse

PAGE = b"<title>t</title>text"


@pytest.fixture
def process() -> Iterator[ParserProcess]:
    made = ParserProcess()
    yield made
    made.stop()


def ended(pid: int, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with pathlib.Path(f"/proc/{pid}/stat").open() as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    "part", ["<a ", "<!--", "</", "<![CDATA[", "<p>", "<b><p>", "&#", "<svg><title>", "<table><td>"]
)
def test_broken_html_takes_linear_time(part: str) -> None:
    start = time.monotonic()
    parse("x.html", "visible " + part * 20_000)
    assert time.monotonic() - start < 10  # quadratic parsers take minutes


def test_a_file_that_takes_too_long_is_refused_and_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser_process, "SECONDS", 0.5)
    monkeypatch.setattr(parser_process, "SECONDS_PER_MIB", 0.0)
    slow = "<p " + " ".join(f"a{number}=1" for number in range(200_000)) + ">x"  # a list of attributes that is searched
    (rejected,) = parse("slow.html", slow.ljust(900_000)[:900_000])
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "reading the file took longer than 0 s; save it again, or split it"
    monkeypatch.undo()
    assert accepted("x.html", PAGE).body == "text"


def test_a_file_that_needs_too_much_memory_is_refused_and_the_next_is_read(process: ParserProcess) -> None:
    with pytest.raises(UnreadableError, match="needed more than 1 GiB of memory; save it again, or split it"):
        process.extract("html", b"<p>text <b>bold</b>\n" * 1_500_000, 100)
    assert not process.is_usable()
    assert accepted("x.html", PAGE).body == "text"


def test_a_parser_that_crashes_costs_its_file(process: ParserProcess) -> None:
    os.kill(process.pid, signal.SIGSEGV)
    with pytest.raises(UnreadableError, match=r"crashed its parser \(exit code -11\)"):
        process.extract("html", PAGE, 100)
    assert not process.is_usable()


def test_a_process_that_ended_between_files_is_replaced() -> None:
    accepted("x.html", PAGE)
    pid = parser_process._of_thread.process.pid
    os.kill(pid, signal.SIGKILL)
    assert ended(pid)
    assert accepted("x.html", PAGE).body == "text"


def test_the_process_has_no_secrets_and_no_other_files(process: ParserProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEAL_DATABASE_URL", "postgresql://secret")
    process = ParserProcess()
    with pathlib.Path(f"/proc/{process.pid}/environ").open() as file:
        names = {entry.partition("=")[0] for entry in file.read().split("\0") if entry}
    assert names <= {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH"}
    with pathlib.Path(f"/proc/{process.pid}/limits").open() as file:
        limits = {line[:25].strip(): line[26:].split()[0] for line in file.read().splitlines()}
    assert [limits[name] for name in ("Max file size", "Max core file size", "Max processes")] == ["0", "0", "0"]
    assert int(limits["Max address space"]) < 3 * 2**30
    pid = process.pid
    process.stop()
    assert ended(pid)


def test_it_starts_when_a_file_needs_it_and_ends_with_its_block() -> None:
    with parser_process.parser_process():
        pass  # ends one that an earlier test has started
    with parser_process.parser_process():
        accepted("x.txt", "text")
        assert not hasattr(parser_process._of_thread, "process")
        accepted("x.html", PAGE)
        first = parser_process._of_thread.process.pid
        accepted("y.html", PAGE)
        assert parser_process._of_thread.process.pid == first
    assert ended(first)


def test_each_thread_has_its_own_and_it_ends_with_the_thread() -> None:
    pids = []

    def work() -> None:
        accepted("x.html", PAGE)
        pids.append(parser_process._of_thread.process.pid)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pids)) == 2
    assert all(ended(pid) for pid in pids)


def test_a_fork_starts_its_own_and_leaves_that_of_its_parent_alone() -> None:
    accepted("x.html", PAGE)
    own = parser_process._of_thread.process.pid
    child = os.fork()
    if child == 0:
        good = accepted("x.html", PAGE).body == "text" and parser_process._of_thread.process.pid != own
        parser_process._of_thread.process.stop()
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert accepted("x.html", PAGE).body == "text"
    assert parser_process._of_thread.process.pid == own


def test_it_ends_when_its_parent_is_killed() -> None:
    program = (
        "from heal_tasks.sources.parser_process import ParserProcess; import time\n"
        "process = ParserProcess(); print(process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert ended(pid)


def test_a_process_that_does_not_start_is_no_fault_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RetryableError, match="the process for parsers does not start"):
        ParserProcess()


def test_a_reply_that_is_none_is_refused(process: ParserProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_exchange", lambda *_: {"title": 1, "body": [], "metadata": None})
    with pytest.raises(UnreadableError, match="no valid reply"):
        process.extract("html", PAGE, 100)


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("x.csv", "id,text\n" + 'x","y\n' * 100_000),
        ("x.csv", "id,text\n" + '1,"open\n' + "x\n" * 100_000),
        ("x.csv", "," * 1_000_000),
        ("x.csv", "id,text\n" + "," * 1_000_000),
        ("x.jsonl", "[" * 1_000_000),
        ("x.json", "[" + "[]," * 300_000 + "1]"),
        ("x.md", "# " + "#" * 500_000 + "x\n# a" + " " * 500_000 + "x"),
        ("x.md", "---\n" + "{a: " * 16_000 + "\n---\nx"),
        ("x.md", "<h1 \n" * 100_000),
        ("x.md", "# " + "[" * 900_000),
        ("x.txt", "\u200b" * 300_000),
    ],
)
def test_hostile_tables_and_texts_take_linear_time(path: str, data: str) -> None:
    start = time.process_time()
    parse(path, data, max_chars=2_000_000)
    assert time.process_time() - start < 10


def test_millions_of_broken_lines_are_counted_and_not_kept() -> None:
    items = parse("x.jsonl", "{}\n" * 5000 + json.dumps({"id": 1, "text": "good"}))
    rejected = [item for item in items if isinstance(item, Rejected)]
    assert [item.external_id for item in items if isinstance(item, Record)] == ["1"]
    assert len(rejected) == MAX_REJECTED_PER_FILE + 1
    assert sum(item.records for item in rejected) == 5000
    assert rejected[-1].reason.startswith("4000 more records were rejected, from this line on")


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("x.csv", "id,text\n" + "a\n" * 400_000),
        ("x.jsonl", "{}\n" * 300_000),
        ("x.json", "[" + "{}," * 300_000 + "{}]"),
        ("x.csv", "id,text\n" + "1,a\n" * 240_000),
    ],
)
def test_a_file_of_nothing_but_broken_records_is_given_up(path: str, data: str) -> None:
    start = time.process_time()
    items = parse(path, data)
    assert time.process_time() - start < 3
    last = items[-1]
    assert isinstance(last, Rejected)
    assert "or, after so many, not read, from this line on" in last.reason
    lost = sum(item.records for item in items if isinstance(item, Rejected))
    assert lost == data.count("\n") - 2 + (data.count("1,a") == 0) if path == "x.csv" else lost > 100_000


def test_good_records_behind_many_broken_ones_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heal_tasks.sources.parse.MAX_REJECTED_IN_VAIN", 2000)
    good = [json.dumps({"id": number, "text": "t"}) for number in range(1000)]
    items = parse("x.jsonl", "\n".join([*good[:500], *["{}"] * 5000, *good[500:]]))
    assert sum(isinstance(item, Record) for item in items) == 1000


def test_millions_of_blank_lines_cost_next_to_nothing() -> None:
    start = time.process_time()
    (record,) = parse("x.csv", "id,text\n" + "\n" * 900_000 + "1,a\n")
    assert record.line == 900_002
    assert time.process_time() - start < 1


def test_a_line_longer_than_any_record_is_not_parsed() -> None:
    long = json.dumps({"id": 1, "text": "t", "more": "x" * (2**20 + 200_000)})
    (rejected,) = read_records(FakeSource(long.encode()), SourceFile("x.jsonl", "f", 1), max_bytes=10**7, max_chars=9)
    assert isinstance(rejected, Rejected)
    assert rejected.reason.startswith("the line has 1248610 bytes, more than a record can have")
    row = b"id,text\n1," + b"x" * (2**20 + 200_000)
    (rejected,) = read_records(FakeSource(row), SourceFile("x.csv", "f", 1), max_bytes=10**7, max_chars=9)
    assert isinstance(rejected, Rejected)
    assert rejected.reason.startswith("broken row (the row has more than")


def test_two_million_characters_without_blanks_are_chunked_in_seconds() -> None:
    start = time.process_time()
    chunks = chunk_text("t", "x" * 2_000_000, lambda text: len(text) // 4 + 2, 256)
    assert "".join(chunk.text for chunk in chunks) == "x" * 2_000_000
    assert time.process_time() - start < 10
