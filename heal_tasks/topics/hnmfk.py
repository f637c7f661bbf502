"""HNMFk: a topic hierarchy, made by choosing a number of topics per node and splitting until none is accepted.

Every node weights its own documents with its own vocabulary and IDF and is split by ``choose_k``; each of its documents
follows its strongest topic. A document's place comes from the same projection that places new documents later, so the
two cannot disagree.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from heal_tasks.core.types import Progress, silent
from heal_tasks.topics.config import HNMFkConfig
from heal_tasks.topics.nmfk import KRecord, Map, choose_k
from heal_tasks.topics.operand import Floats, one_thread
from heal_tasks.topics.seeds import derive_seed
from heal_tasks.topics.tfidf import NodeMatrix, count_corpus, readable
from heal_tasks.topics.tree import NodeFactors, TopicNode, TopicTree, descend

TOP_TERMS = 10
THREADS_FROM = 200_000
"""Stored entries from which threads pay. Calls on smaller matrices are so short that threads wait for the interpreter
(898 documents, 55,000 entries: 9.7 s with one thread, 12.9 s with two; 3,633 documents, 305,000: 30.9 s and 24.7 s)."""


def build_tree(
    texts: Sequence[str],
    config: HNMFkConfig | None = None,
    progress: Progress = silent,
    *,
    workers: int = 1,
    device: str = "cpu",
) -> TopicTree:
    """Find the topic hierarchy of texts: the same tree for the same configuration, whatever the workers.

    Args:
        texts: the documents; any number, empty ones included.
        config: None takes the defaults.
        progress: called per node with the documents whose leaf is known, of all documents.
        workers: threads.
        device: of torch.
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
) -> TopicTree:
    """Find the topic hierarchy, as ``build_tree`` does, of documents that ``count_corpus`` has counted."""
    if counts.nnz < THREADS_FROM:
        workers = 1
    with one_thread(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        parallel_map = pool.map if workers > 1 else map
        root = _Splitter(counts, vocabulary, config, progress, device).grow(parallel_map)
        nodes, factors, selection = _numbered(root)
        placed = descend(counts, nodes, factors)
    return TopicTree(**vars(placed), nodes=tuple(nodes), vocabulary=vocabulary, factors=factors, selection=selection)


@dataclass(eq=False)
class _Node:
    """A node of a growing tree."""

    rows: NDArray[np.intp]  # its documents
    position: tuple[int, ...]  # child indices on the way from the root; names the node's random draws
    terms: tuple[str, ...] = ()  # strongest words by the parent's factors; for the root, by its TF-IDF
    stop_reason: str = ""  # why it has no more children
    records: tuple[KRecord, ...] = ()  # measurements of each k, where a split was looked for
    factors: NodeFactors | None = None  # of the root and of every other split node
    children: "list[_Node]" = field(default_factory=list)  # the larger first

    def leaf_count(self) -> int:
        return sum(child.leaf_count() for child in self.children) or 1


def _numbered(root: _Node) -> tuple[list[TopicNode], dict[int, NodeFactors], dict[int, tuple[KRecord, ...]]]:
    """Nodes in tree order, with topic ids and leaf numbers in that order; factors and records by topic id."""
    nodes: list[TopicNode] = []
    factors, selection = dict[int, NodeFactors](), dict[int, tuple[KRecord, ...]]()
    waiting, first_leaf = [(root, -1)], 0
    while waiting:
        node, parent = waiting.pop()
        topic_id, k = len(nodes), max(1, len(node.children))
        chosen = next((record for record in node.records if record.k == k), None)
        nodes.append(
            TopicNode(
                topic_id=topic_id,
                parent=parent,
                level=len(node.position),
                first_leaf=first_leaf,
                last_leaf=first_leaf + node.leaf_count() - 1,
                terms=node.terms,
                k=k,
                silhouette=chosen.silhouette if chosen and node.children else None,
                error=chosen.relative_error if chosen else None,
                size=node.rows.size,
                stop_reason=node.stop_reason,
            )
        )
        if node.factors is not None:
            factors[topic_id] = node.factors
        if node.records:
            selection[topic_id] = node.records
        if not node.children:
            first_leaf += 1
        waiting += [(child, topic_id) for child in reversed(node.children)]
    return nodes, factors, selection


class _Splitter:
    """Splits nodes level by level; a node's random draws come from its position, so their order does not matter."""

    def __init__(
        self, counts: csr_array, vocabulary: tuple[str, ...], config: HNMFkConfig, progress: Progress, device: str
    ) -> None:
        self._counts, self._vocabulary, self._config = counts, vocabulary, config
        self._progress, self._device = progress, device
        self._in_leaves = 0

    def grow(self, parallel_map: Map) -> _Node:
        """Split the root with its factorisations in parallel, then the nodes of each level in parallel."""
        root = _Node(np.arange(self._counts.shape[0]), ())
        self._progress(0, root.rows.size, f"root: {root.rows.size} documents")
        self._report(self._split(root, parallel_map))
        level = root.children
        while level:
            # The largest first, so that no thread is left alone with it at the end.
            for node in parallel_map(self._split, sorted(level, key=lambda node: -node.rows.size)):
                self._report(node)
            level = [child for node in level for child in node.children]
        return root

    def _split(self, node: _Node, parallel_map: Map = map) -> _Node:
        config, is_root = self._config, not node.position
        if len(node.position) == config.max_depth:
            node.stop_reason = "depth limit"
            return node
        counts = self._counts if is_root else csr_array(self._counts[node.rows])
        matrix = NodeMatrix.of(counts, config)
        if 0 in matrix.X.shape or matrix.X.nnz == 0:
            node.stop_reason = "no words"
            return node
        if is_root:
            node.terms = self._strongest(matrix.columns, np.asarray(matrix.X.sum(axis=0), np.float32))
        ks = self._candidates(matrix.X.shape)
        if not ks:
            smallest = max(config.min_documents, 2 * config.min_topic_documents, 3)
            small = matrix.X.shape[0] < smallest
            node.stop_reason = f"fewer than {smallest} documents" if small else "fewer than 3 words"
            if not is_root:
                return node
        result = choose_k(
            matrix.X,
            ks,
            config,
            seed=derive_seed(config.seed, *node.position),
            parallel_map=parallel_map,
            device=self._device,
            progress=self._report_root if is_root else silent,
        )
        node.records, node.stop_reason = result.records, node.stop_reason or result.stop_reason
        if result.k == 1 and not is_root:
            return node
        sizes = np.bincount(result.document_factors.argmax(axis=1), minlength=result.k)
        terms = np.ascontiguousarray(result.term_factors[np.argsort(-sizes, kind="stable")])
        node.factors = NodeFactors(matrix.columns, matrix.idf, terms)
        if result.k > 1:
            labels, _, _ = node.factors.assign(counts)
            node.children = [
                _Node(
                    node.rows[labels == child], (*node.position, child), self._strongest(matrix.columns, terms[child])
                )
                for child in range(result.k)
            ]
        return node

    def _candidates(self, shape: tuple[int, int]) -> range:
        """Numbers of topics to try for a matrix; empty for a node with too few documents or words."""
        config, (n, v) = self._config, shape
        most = min(config.max_k, n // config.min_topic_documents, n - 1, v - 1) if n >= config.min_documents else 0
        return range(2, most + 1)

    def _strongest(self, columns: NDArray[np.int32], weights: Floats) -> tuple[str, ...]:
        order = np.argsort(-weights, kind="stable")[:TOP_TERMS]
        order = order[weights[order] > 0]
        return readable([self._vocabulary[column] for column in columns[order]], weights[order].tolist())

    def _report(self, node: _Node) -> None:
        self._in_leaves += 0 if node.children else node.rows.size
        name = " > ".join(str(child + 1) for child in node.position) or "root"
        found = f"{len(node.children)} topics" if node.children else f"leaf, {node.stop_reason}"
        message = f"topic {name}: {node.rows.size} documents, {found}"
        self._progress(self._in_leaves, self._counts.shape[0], message)

    def _report_root(self, done: int, total: int, message: str = "") -> None:
        if message:
            self._progress(0, self._counts.shape[0], f"root: {message}")
