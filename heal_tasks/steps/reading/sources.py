"""Reading of all sources in one transaction: what arrived, what moved from one name to another, what is gone."""

from collections import Counter
from dataclasses import dataclass
from functools import partial

from heal_tasks.core.models import tokenizer_folder
from heal_tasks.core.specs import TABLE
from heal_tasks.sources.chunking import chunk_text, token_counter
from heal_tasks.sources.parser_process import parser_process
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.reading.opening import opening_sources
from heal_tasks.steps.reading.source_reader import SourceReader
from heal_tasks.store.documents.chunks import purge_reopened
from heal_tasks.store.documents.documents import Changes, DocumentRepository
from heal_tasks.store.documents.moves import apply_moves, find_moves, hand_on


@dataclass(frozen=True)
class Reading:
    """The result of reading all sources."""

    changes: Changes
    rejected: int  # records, those of files that cannot be read at all estimated
    skipped: Counter[str]  # number of files that are not read, by kind
    warnings: tuple[str, ...]  # of each source without any document


@parser_process()
def read_sources(context: Context, *, again: bool = False) -> Reading:
    """Read every source; store and count changes and rejected records. The caller holds the transaction.

    With ``again`` files are read that have not changed, too. Documents are deleted after all sources have been read,
    because a document may have moved from one to another.

    Raises:
        SourceError: a source cannot be listed, or too much of it is broken or gone.
        RetryableError: a lost connection or throttling.
    """
    settings, documents = context.settings, DocumentRepository(context.conn)
    count_tokens = token_counter(tokenizer_folder(settings.model))
    chunker = partial(
        chunk_text, count_tokens=count_tokens, max_tokens=settings.chunk_tokens, overlap=settings.chunk_overlap
    )
    with opening_sources(settings) as open_source:
        opened = [open_source(spec) for spec in settings.sources]
        readers = [
            SourceReader(context, source, _whole if source.name.startswith(TABLE) else chunker, again=again)
            for source in opened
        ]
        for reader in readers:  # before anything is stored: a site takes hours to list, and storing locks the corpus
            reader.find()
        changes = sum((reader.read() for reader in readers), Changes())
    gone = {key for reader in readers for key in reader.gone}
    moves = find_moves(context.conn, gone)
    changes += apply_moves(context.conn, moves, chunker)
    gone -= {move.gone for move in moves}
    for reader in readers:
        reader.check_deleted(gone)
    hand_on(context.conn, gone)
    changes += documents.delete(gone)
    purge_reopened(context.conn)
    for reader in readers:
        reader.settle()
    return Reading(
        changes,
        sum(item.records for reader in readers for item in reader.rejected),
        sum((reader.skipped for reader in readers), Counter()),
        tuple(text for reader in readers if (text := reader.warning())),
    )


def _whole(title: str, body: str) -> list[tuple[str, str]]:
    """The chunker of adopted rows: their application has cut the texts already, and each has its vector."""
    del title
    return [("", body)]
