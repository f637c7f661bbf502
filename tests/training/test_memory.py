"""Trainings whose texts do not fit into memory together."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertModel

from heal_tasks.core.errors import StepError
from tests.training.runs import CONFIG, furthest, quiet, run, weights


def test_micro_batches_and_memory_errors_change_nothing(tiny_encoder, planted, tmp_path, monkeypatch):
    base = quiet(tiny_encoder, tmp_path)
    whole, _ = run(base, planted, tmp_path / "whole")
    moved = furthest(weights(whole), load_file(base / "model.safetensors"))
    other, _ = run(base, planted, tmp_path / "cut", dataclasses.replace(CONFIG, micro_batch_size=3))
    assert furthest(weights(whole), weights(other)) < 1e-3 * moved
    assert [entry["heal"] for entry in other.history] == pytest.approx([entry["heal"] for entry in whole.history])

    encode, widths = BertModel.forward, []

    def small_memory(self, input_ids, *args, **kwargs):
        if self.training:
            widths.append(len(input_ids))
            if len(input_ids) > 2:
                raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        return encode(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(BertModel, "forward", small_memory)
    short, reports = run(base, planted, tmp_path / "short")
    assert furthest(weights(whole), weights(short)) < 1e-3 * moved
    # Two of the batch's eight questions are the same text.
    assert [width for width in widths if width > 2] == [7, 4]
    assert any("out of memory, 2 texts at a time" in message for _, _, message in reports)


def test_a_text_that_does_not_fit_into_memory_is_an_error_with_the_cure(tiny_encoder, planted, tmp_path, monkeypatch):
    encode = BertModel.forward

    def no_memory(self, *args, **kwargs):
        if self.training:
            raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(BertModel, "forward", no_memory)
    with pytest.raises(StepError, match=r"out of memory with 1 texts at a time \(tried to allocate 2 GiB\); lower"):
        run(tiny_encoder, planted, tmp_path)
