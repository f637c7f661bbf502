"""Deterministic identifiers: the same input has the same id on every machine and in every run.

Ids are 63-bit integers cut from SHA-256, because an 8-byte key keeps the vector tables and their
indexes narrow. At one million ids the chance of any collision is 5e-8; the unique constraints on the
natural keys turn one into an error instead of a silent overwrite.
"""

import hashlib
import json
import unicodedata

MAX_KEY_BYTES = 1024
"""The longest key of S3. Two such keys fit into one entry of a B-tree index, whose limit is about 2,700 bytes."""


def sha256_hex(*parts: str | bytes) -> str:
    """Hash text (as UTF-8) or bytes to 64 hexadecimal digits; ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def stable_id(*parts: str | int) -> int:
    """Id from the parts of a natural key: an integer in [0, 2**63), which fits Postgres' ``bigint``."""
    return int(sha256_hex(*(str(part) for part in parts))[:16], 16) >> 1


def natural_key(name: str) -> str:
    """A document's id in its source, or a file's path, as it is stored.

    It is in Unicode's form NFC, because one name has several spellings: file systems, archives and editors change them.
    Of a name of more than 1,024 bytes beginning and end are kept, with a hash of the whole between them.
    """
    name = unicodedata.normalize("NFC", name)
    data = name.encode("utf-8", "surrogatepass")
    if len(data) <= MAX_KEY_BYTES:
        return name
    head, tail = data[:480].decode("utf-8", "ignore"), data[-480:].decode("utf-8", "ignore")
    return f"{head}~{sha256_hex(name)[:32]}~{tail}"


def document_id(source: str, external_id: str) -> int:
    """Id of a new document; it survives every change of its text, and of its name where the text stays."""
    return stable_id("document", source, external_id)


def chunk_id(document: int, ordinal: int, content_hash: str) -> int:
    """Id of a chunk; it depends on the text, so a vector stored under it can never be stale."""
    return stable_id("chunk", document, ordinal, content_hash)


def question_id(chunk: int, writer: str, text: str) -> int:
    """Id of a question: the same text by the same writer for the same chunk is one question."""
    return stable_id("question", chunk, writer, text)


def fingerprint(value: object) -> str:
    """Hash a JSON-serialisable value to 16 hexadecimal digits; the order of a dict's keys does not matter."""
    return sha256_hex(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str))[:16]


def bucket(seed: str, key: int | str, buckets: int = 1000) -> int:
    """Bucket of a key, in [0, buckets), that does not change as documents arrive; seeds give independent splits."""
    return stable_id("bucket", seed, key) % buckets
