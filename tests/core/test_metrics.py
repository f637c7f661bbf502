"""Topic agreement by hand."""

import numpy as np

from heal_tasks.core.metrics import topic_agreement


def test_topic_agreement_counts_shared_levels_of_each_document():
    found = np.array([[[1, 5], [1, 6], [2, 7]], [[1, 5], [-1, -1], [-1, -1]]])
    own = np.array([[1, 5], [1, -1]])
    np.testing.assert_allclose(topic_agreement(found, own), [(2 + 1 + 0) / 6, 1 / 3])
