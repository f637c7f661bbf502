"""HNMFk: a topic hierarchy, by choosing a number of topics per node and splitting until nothing stands out.

Every node weighs its own documents anew (own vocabulary, own IDF) and is split by ``choose_k``; each of
its documents follows its strongest topic. A document's place comes from the same projection that places
new documents later, so training and projection cannot disagree.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from heal_tasks.core.errors import InputError
from heal_tasks.core.types import Progress, silent
from heal_tasks.topics.nmfk import NMFkResult, RunUnits, choose_k
from heal_tasks.topics.numbering import Node, Numbering
from heal_tasks.topics.operand import Floats, check_matrix, one_thread
from heal_tasks.topics.projection import NodeFactors, descend
from heal_tasks.topics.seeds import derive_seed
from heal_tasks.topics.tfidf import count_terms, select_terms, smooth_idf, weigh
from heal_tasks.topics.tree import TopicTree
from heal_tasks.topics.units import NMFkConfig, Unit, Workbench, all_units

TOP_TERMS = 10
THREADS_FROM = 200_000
"""Stored entries from which threads help: below, calls are so short that threads wait for the interpreter (898
documents, 55,000 entries: 9.7 s with one thread, 12.9 s with two; 3,633 documents, 305,000: 30.9 s and 24.7 s)."""


@dataclass(frozen=True, kw_only=True)
class HNMFkConfig(NMFkConfig):
    """How deep and how readily to split.

    Args:
        full_search: as in ``NMFkConfig``, at the root alone.
        max_depth: deepest level, at least 1; topics there are not factorised.
        max_k: most children of a node, at least 2.
        min_documents: a node with fewer documents stays a leaf.
        min_df: a word in fewer documents of a node is not used there.
        max_df: a word in a larger share of a node's documents is not used there.
        max_terms: largest vocabulary.
        seed: of every random choice.
    """

    max_depth: int = 3
    max_k: int = 8
    min_documents: int = 40
    min_df: int = 3
    max_df: float = 0.5
    max_terms: int = 20_000
    seed: int = 13

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_depth < 1 or self.max_k < 2 or self.min_documents < 2 or self.min_topic_documents < 1:
            raise InputError(
                f"max_depth={self.max_depth}, max_k={self.max_k}, min_documents={self.min_documents}, "
                f"min_topic_documents={self.min_topic_documents}: use at least 1, 2, 2 and 1"
            )


@dataclass(frozen=True, eq=False)
class NodeMatrix:
    """The documents of a node, weighed by its own vocabulary.

    Args:
        columns: int32, shape (v,), its words as columns of the corpus.
        idf: float32, shape (v,).
        X: TF-IDF, float32 csr, shape (n, v).
        occurrences: float32, shape (nnz,), the counts behind the entries of X.
        ks: numbers of topics that may be tried; empty for a node that is too small.
    """

    columns: NDArray[np.int32]
    idf: Floats
    X: csr_array
    occurrences: Floats
    ks: range

    @classmethod
    def of(cls, counts: csr_array, config: HNMFkConfig) -> "NodeMatrix":
        """Weigh the rows of one node.

        Args:
            counts: float32 csr, shape (documents of the node, words of the corpus).
            config: vocabulary limits, and those of k.
        """
        columns = select_terms(counts, min_df=config.min_df, max_df=config.max_df, max_terms=config.max_terms)
        own = csr_array(counts[:, columns])
        own.sort_indices()
        idf = smooth_idf(own)
        n, v = own.shape
        most = min(config.max_k, n // config.min_topic_documents, n - 1, v - 1) if n >= config.min_documents else 0
        return cls(columns, idf, weigh(own, idf), own.data, range(2, most + 1))


def count_corpus(texts: Sequence[str], config: HNMFkConfig) -> tuple[csr_array, tuple[str, ...]]:
    """Count the words of a corpus that are frequent enough to be used anywhere in its tree.

    Args:
        texts: the documents; any number, empty ones included.
        config: vocabulary limits; ``max_df`` is left to the nodes, as a word of most documents can still tell
            topics apart further down.

    Returns:
        Counts, float32 csr, shape (n, words), and the words.
    """
    counts, terms = count_terms(texts)
    columns = select_terms(counts, min_df=config.min_df, max_df=1.0, max_terms=config.max_terms)
    return csr_array(counts[:, columns]), tuple(terms[column] for column in columns)


def build_tree(
    texts: Sequence[str],
    config: HNMFkConfig | None = None,
    progress: Progress = silent,
    *,
    workers: int = 1,
    device: str = "cpu",
) -> TopicTree:
    """Find the topic hierarchy of texts.

    Args:
        texts: the documents; any number, empty ones included.
        config: None takes the defaults.
        progress: called per node with the documents whose leaf is settled, of all documents.
        workers: threads.
        device: of torch.

    Returns:
        The tree. The same texts, configuration and seed give the same tree, whatever the workers.

    Raises:
        InputError: the configuration is out of range.
    """
    config = config or HNMFkConfig()
    counts, vocabulary = count_corpus(texts, config)
    return grow_tree(counts, vocabulary, config, progress, workers=workers, device=device)


def grow_tree(
    counts: csr_array,
    vocabulary: tuple[str, ...],
    config: HNMFkConfig,
    progress: Progress = silent,
    *,
    workers: int = 1,
    device: str = "cpu",
    run_root_with: RunUnits | None = None,
) -> TopicTree:
    """Find the topic hierarchy of counted documents.

    Args:
        counts: float32 csr, shape (n, v), as of ``count_corpus``.
        vocabulary: the v words.
        config: of the tree.
        progress: as in ``build_tree``.
        workers: threads.
        device: of torch.
        run_root_with: how the units of ``root_workbench`` are run; None: by the threads.

    Returns:
        The tree.

    Raises:
        InputError: a count is negative or not finite.
    """
    check_matrix(counts)
    if counts.nnz < THREADS_FROM:
        workers = 1
    with one_thread(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        spread = pool.map if workers > 1 else map
        root = _Grower(counts, vocabulary, config, progress, device).grow(spread, run_root_with or spread)
        numbered = Numbering(root)
        placed = descend(counts, numbered.nodes, numbered.factors)
    return TopicTree(
        nodes=tuple(numbered.nodes),
        paths=placed.paths,
        leaves=placed.leaves,
        membership=placed.membership,
        residual=placed.residual,
        shares=placed.shares,
        vocabulary=vocabulary,
        factors=numbered.factors,
        selection=numbered.selection,
    )


def root_workbench(counts: csr_array, config: HNMFkConfig, device: str = "cpu") -> tuple[Workbench, list[Unit]]:
    """What other machines need to take over the root: it is by far the largest node.

    Args:
        counts: as for ``grow_tree``.
        config: of the tree.
        device: of torch.

    Returns:
        Where units are run, and all of them, the heaviest first.
    """
    matrix = NodeMatrix.of(counts, config)
    units = all_units(matrix.ks, config.perturbations) if matrix.X.nnz else []
    return Workbench(matrix.X, config, derive_seed(config.seed), matrix.occurrences, device), units


class _Grower:
    """Splits nodes level by level; a node's random draws come from its position, so their order does not matter."""

    def __init__(
        self,
        counts: csr_array,
        vocabulary: tuple[str, ...],
        config: HNMFkConfig,
        progress: Progress,
        device: str,
    ) -> None:
        self._counts, self._vocabulary, self._config = counts, vocabulary, config
        self._progress, self._device = progress, device
        self._settled = 0

    def grow(self, spread: Callable[..., Iterable[Any]], run_root_with: RunUnits) -> Node:
        """Split the root with its own way to run units, and the nodes of each level below side by side."""
        root = Node(np.arange(self._counts.shape[0]), ())
        self._progress(0, root.rows.size, f"root: {root.rows.size} documents")
        self._tell(self._split(root, run_root_with))
        level = root.children
        while level:
            # The largest first, so that no thread is left alone with it at the end.
            for node in spread(self._split, sorted(level, key=lambda node: -node.rows.size)):
                self._tell(node)
            level = [child for node in level for child in node.children]
        return root

    def _tell(self, node: Node) -> None:
        self._settled += 0 if node.children else node.rows.size
        name = " > ".join(str(child + 1) for child in node.position) or "root"
        found = f"{len(node.children)} topics" if node.children else f"leaf, {node.stop_reason}"
        message = f"topic {name}: {node.rows.size} documents, {found}"
        self._progress(self._settled, self._counts.shape[0], message)

    def _split(self, node: Node, run_units_with: RunUnits = map) -> Node:
        config = self._config
        if len(node.position) == config.max_depth:
            node.stop_reason = "depth limit"
            return node
        counts = csr_array(self._counts[node.rows])
        matrix = NodeMatrix.of(counts, config)
        if 0 in matrix.X.shape or matrix.X.nnz == 0:
            node.stop_reason = "no words"
            return node
        is_root = not node.position
        if is_root:
            node.terms = self._strongest(matrix.columns, np.asarray(matrix.X.sum(axis=0), np.float32))
        if not matrix.ks and not is_root:
            node.stop_reason = self._too_small()
            return node
        result = choose_k(
            matrix.X,
            matrix.ks,
            replace(config, full_search=config.full_search and is_root),
            seed=derive_seed(config.seed, *node.position),
            occurrences=matrix.occurrences,
            run_units_with=run_units_with,
            device=self._device,
            progress=self._of_root if is_root else silent,
        )
        node.records = result.records
        node.stop_reason = result.stop_reason if matrix.ks else self._too_small()
        order = np.argsort(-_sizes(result), kind="stable")
        terms = np.ascontiguousarray(result.factorisation.term_factors[order])
        if result.k == 1 and not is_root:
            return node
        node.factors = NodeFactors(matrix.columns, matrix.idf, terms)
        if result.k > 1:
            labels, _, _ = node.factors.assign(counts)
            node.children = [
                Node(node.rows[labels == child], (*node.position, child), self._strongest(matrix.columns, terms[child]))
                for child in range(result.k)
            ]
        return node

    def _too_small(self) -> str:
        config = self._config
        return f"fewer than {max(config.min_documents, 2 * config.min_topic_documents)} documents"

    def _of_root(self, done: int, total: int, message: str = "") -> None:
        if message:
            self._progress(0, self._counts.shape[0], f"root: {message}")

    def _strongest(self, columns: NDArray[np.int32], weights: Floats) -> tuple[str, ...]:
        order = np.argsort(-weights, kind="stable")[:TOP_TERMS]
        return tuple(self._vocabulary[columns[j]] for j in order if weights[j] > 0)


def _sizes(result: NMFkResult) -> NDArray[np.intp]:
    return np.bincount(result.factorisation.document_factors.argmax(axis=1), minlength=result.k)
