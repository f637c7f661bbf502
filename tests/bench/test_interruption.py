"""The bench's stopping rule is the training's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerControl, TrainerState

from bench.interruption import kept
from heal_tasks.training.validation import BaseAwareStopping

# Sixteenths are exact in binary, so ties happen and are ties.
value = st.integers(0, 16).map(lambda number: number / 16)


@given(value, st.lists(value, min_size=1, max_size=20), st.sampled_from([0.0, 0.0625, 0.25]), st.integers(1, 4))
def test_the_rule_ends_where_training_does(base, looks, fall, patience):
    stopping, state = BaseAwareStopping(patience, base_ndcg=base, fall=fall), TrainerState()
    end = len(looks)
    for number, ndcg in enumerate(looks, start=1):
        stopping.check_metric_value(None, state, TrainerControl(), ndcg)
        state.best_metric = max(ndcg, state.best_metric or 0.0)
        if stopping.early_stopping_patience_counter == patience:
            end = number
            break
    best, last = kept([base, *looks], fall, patience)
    assert last == end
    assert [base, *looks][best] == pytest.approx(max([base, *looks[:end]]))
