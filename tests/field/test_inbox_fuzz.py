"""Thousands of damaged, hostile and oddly named files: no crash, no good document lost, every refusal explained.

``make soak`` runs 5,000 files, ``make test`` 200 of them.
"""

import itertools
import os
import random
import resource
import shutil
from pathlib import Path
from unicodedata import normalize

import hypothesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection, connect

PER_INBOX = 10
MOST_MIB, LIBRARIES_MIB = 1024, 256
GOOD = {
    "good.md": "# Valves\n\nA valve that leaks is closed by hand.",
    "good.jsonl": '{"id": "row", "title": "Pumps", "text": "A pump that hums lacks oil."}\n',
    "good.html": "<title>Seals</title><p>A seal that is cracked lets steam out.</p>",
}
GOOD_IDS = {"good.md", "row", "good.html"}


def pdf(text: str) -> bytes:
    """A page with a text."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode("latin-1", "replace")
    parts = [
        b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]  # fmt: skip
    out, offsets = b"%PDF-1.4\n", list[int]()
    for number, part in enumerate(parts, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, part)
    start = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return out + b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % start


HTML = (
    '<!doctype html><html><head><meta charset="utf-8"><title>A page</title></head><body><nav>menu</nav><h1>Head</h1>'
    "<p>Some <b>bold</b> text &amp; an entity.<table><tr><td>a<td>b</table><pre> kept </pre></body></html>"
)
MARKDOWN = (
    "---\ntitle: A note\ntags: [a, b]\n---\n# Head\n\n```\ncode\n```\n\n- item\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
)
CSV = 'id,title,text\n1,One,"first, text"\n2,Two,"with ""quotes"" inside"\n3,Three,"two\nlines"\n'
JSON_LINES = "".join(f'{{"id": {n}, "title": "T{n}", "text": "body {n}", "tags": ["x", {n}]}}\n' for n in range(5))
SEEDS: dict[str, bytes] = {
    ".html": HTML.encode(), ".htm": HTML.encode("utf-16"), ".md": MARKDOWN.encode(), ".csv": CSV.encode(),
    ".tsv": CSV.replace(",", "\t").encode("utf-16"), ".jsonl": JSON_LINES.encode(), ".txt": b"Plain text.\n" * 9,
    ".json": f"[{','.join(JSON_LINES.split(chr(10))[:5])}]".encode(), ".pdf": pdf("A page of text"),
    ".markdown": MARKDOWN.replace("---", "+++").encode(), ".bin": bytes(range(256)), "": b"no suffix",
}  # fmt: skip
TOKENS = [
    b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\x80", b"<", b"<a ", b"<!--", b"</", b"<![CDATA[",
    b"&#x110000;", b"&#0;", b'"', b"'", b"[", b"{", b"}", b"]", b",", b";", b"\t", b"\r", b"\n", b"\x1a",
    b"\xc2\x85", "\u2028".encode(), "\u200b".encode(), "\u202e".encode(), "e\u0301".encode(), "\U0001f4a5".encode(),
    b"sep=;\n", b"---\n", b"+++\n", b"```", b"&a", b"*a ", b"!!python/object:os.system ", b"/Kids[2 0 R]",
    b"/Count 99999999", b"stream\n", b"1e999", b"NaN", b"\\ud800", b"<?xml encoding='x'?>",
    b'<meta charset="utf-7">', b"id,text\n", b"<title>", b"<svg><title>", b"<table>", b"\x1b[2J", b"%PDF-1.7\n",
    b"PK\x03\x04",
]  # fmt: skip
ENCODINGS = ["utf-16", "utf-16-be", "cp1252", "shift_jis", "gb18030", "utf-32", "utf-7"]
NAMES = [
    "plain", "with blank", "caf\u00e9", "cafe\u0301", "-dash", "quote'\"", "back\\slash", "new\nline", "\u202eabc",
    "a" * 200, "percent%2e%2e", "semi;colon", "star*?", "\U0001f4a5", "tab\t", "dots..", "C:", "nul\x01",
    "\u6587\u4ef6", "\u0e44\u0e1f\u0e25\u0e4c",
]  # fmt: skip


def damaged(rng: random.Random, data: bytes) -> bytes:
    """The same bytes after a few mutations."""
    for _ in range(rng.choice([0, 1, 1, 2, 3, 6])):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0:
            data = data[:at] + rng.choice(TOKENS) * rng.choice([1, 1, 2, 50, 3000]) + data[at:]
        elif kind == 1:
            data = data[:at]
        elif kind == 2:
            data = data[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9))) + data[at + 3 :]
        elif kind == 3:
            data = data[:at] + data[rng.randrange(len(data) + 1) :]
        elif kind == 4:
            data *= rng.choice([2, 3, 40])
        elif kind == 5:
            data = _reencoded(rng, data)
        elif kind == 6:
            data = data.replace(rng.choice([b'"', b",", b"\n", b">", b"obj", b"-"]), rng.choice(TOKENS))
        else:
            data = data[:at] + rng.choice(list(SEEDS.values())) + data[at:]
        data = data[:300_000]
    return data


def _reencoded(rng: random.Random, data: bytes) -> bytes:
    text = data.decode("utf-8", "replace")
    return text.encode(
        rng.choice(["utf-16", "utf-16-be", "cp1252", "shift_jis", "gb18030", "utf-32", "utf-7"]), "replace"
    )


def fill(rng: random.Random, folder: Path) -> None:
    """An inbox of damaged files, oddly named, beside the good ones."""
    for name, text in GOOD.items():
        (folder / name).write_text(text, encoding="utf-8")
    for number in range(PER_INBOX):
        suffix = rng.choice(list(SEEDS))
        below = folder / rng.choice(["", "", "sub", "sub folder/deeper", ".hidden", "x" * 100])
        below.mkdir(parents=True, exist_ok=True)
        name = f"{rng.choice(NAMES)}{number}{rng.choice([suffix, suffix, suffix.upper()])}"
        path = os.fsencode(below / name) if rng.random() < 0.97 else os.fsencode(below) + b"/\xff\xfe%d.md" % number
        with open(path, "wb") as file:  # noqa: PTH123 (a name that is not UTF-8)
            file.write(damaged(rng, SEEDS[suffix]))


def test_no_file_stops_a_run_or_takes_a_good_document_with_it(
    soak: bool, tmp_path: Path, database_url: str, settings: Settings
) -> None:
    numbers = itertools.count()
    files = 5000 if soak else 200

    @hypothesis.settings(
        max_examples=files // PER_INBOX, deadline=None, database=None, derandomize=not soak,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(st.randoms(use_true_random=False))
    def inbox(rng: random.Random) -> None:
        number, folder = next(numbers), tmp_path / "inbox"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        fill(rng, folder)
        source = f"file:{folder}"
        used = settings.model_copy(update={"sources": (source,), "max_rejected_share": 1.0, "max_deleted_share": 1.0})
        load_step("ingest").run(used, Manifest(run_id=f"fuzz {number}"))
        with connect(database_url, autocommit=True) as conn:
            check(conn, source, folder)
        if number % 10 == 0:
            again = load_step("ingest").run(used, Manifest(run_id=f"fuzz again {number}"))
            assert [again.counts[name] for name in ("new", "changed", "deleted")] == [0, 0, 0]

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: other tests have run in this process
    before, children = memory_mib("VmRSS"), largest_child_mib()
    inbox()
    assert memory_mib("VmHWM") - before < MOST_MIB - LIBRARIES_MIB
    # A child begins with the memory of this process, in which other tests may have grown it.
    assert largest_child_mib() < max(MOST_MIB, children + 1, memory_mib("VmHWM") + 1)


def memory_mib(name: str) -> float:
    """Memory of this process, present (VmRSS) or at its peak (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) / 1024


def largest_child_mib() -> float:
    """Largest memory that any child of this process had."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def check(conn: Connection, source: str, folder: Path) -> None:
    """The good documents are stored, every file has a state, and every refusal its reason and cure."""
    rows = conn.execute("SELECT external_id FROM heal.document WHERE source = %s AND deleted_at IS NULL", (source,))
    assert {name for (name,) in rows} >= GOOD_IDS
    listed = {
        normalize("NFC", os.fsencode(path.relative_to(folder)).decode("utf-8", "backslashreplace"))
        for path in folder.rglob("*")
        if path.is_file() and ".hidden" not in path.parts
    }
    rows = conn.execute("SELECT path FROM heal.source_file WHERE source = %s", (source,))
    assert {path for (path,) in rows} == listed
    unexplained = conn.execute(
        """SELECT f.path, f.state, f.reason FROM heal.source_file f WHERE f.source = %(source)s AND f.state <> 'read'
        AND (f.reason = '' OR f.state IN ('partly', 'refused') AND NOT EXISTS (
            SELECT FROM heal.quarantine q WHERE q.source = f.source AND q.path = f.path AND q.reason LIKE '%%; %%'))""",
        {"source": source},
    ).fetchall()
    assert not unexplained
