import pytest
import torch
from conftest import pad_batch, ragged_examples

from distil_trainer.errors import DataError
from distil_trainer.positions import (
    UNITS,
    count_positions,
    counting_rows,
    decoder_mask,
    first_mask,
    is_dense,
    row_mask,
    token_mask,
)


def test_counts_of_a_step_are_the_sums_over_its_micro_batches():
    examples = ragged_examples(12)
    lengths = [len(example["input_ids"]) for example in examples]
    expected = {
        "tokens": sum(lengths),
        "pairs": sum(n * n for n in lengths),
        "rows": 12,
        "labels": sum((n + 2) // 3 for n in lengths),
        "task": sum((n + 2) // 3 for n in lengths),
    }
    for splits in ([12], [5, 7], [1] * 12):
        parts = torch.arange(12).split(splits)
        batches = [pad_batch([examples[i] for i in part]) for part in parts]
        counts = count_positions(batches, shifts_labels=False)
        found = dict(zip(UNITS, counts.tolist(), strict=True))
        assert {unit: found[unit] for unit in expected} == expected


def test_the_first_token_of_a_row_is_the_first_attended_one():
    mask = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 0]])
    batch = {"input_ids": torch.ones(3, 3), "attention_mask": mask}
    assert first_mask(batch).tolist() == [[True, False, False], [False, True, False], [False, False, False]]
    counts = dict(zip(UNITS, count_positions([batch], shifts_labels=False).tolist(), strict=True))
    assert counts["rows"] == 2


def test_causal_models_predict_no_first_token():
    batch = {"input_ids": torch.ones(2, 4), "labels": torch.tensor([[1, 2, 3, -100], [5, -100, -100, -100]])}
    counts = dict(zip(UNITS, count_positions([batch], shifts_labels=True).tolist(), strict=True))
    assert (counts["labels"], counts["task"]) == (4, 2)


def test_without_a_mask_every_token_counts():
    assert token_mask({"input_ids": torch.zeros(2, 3)}).all()
    assert token_mask({"inputs_embeds": torch.zeros(2, 3, 8)}).shape == (2, 3)
    with pytest.raises(DataError, match="should have `input_ids` or `inputs_embeds`; got pixel_values"):
        token_mask({"pixel_values": torch.zeros(1)})


def test_tokens_of_a_decoder_are_the_attended_ones_or_the_labelled_ones_or_all():
    ids = torch.ones(2, 3, dtype=torch.long)
    batch = {"input_ids": torch.ones(2, 5), "decoder_input_ids": ids}
    assert decoder_mask(batch).sum() == 6
    batch["labels"] = torch.tensor([[4, 5, -100], [4, -100, -100]])
    assert decoder_mask(batch).sum(-1).tolist() == [2, 1]
    counts = dict(zip(UNITS, count_positions([batch], shifts_labels=False).tolist(), strict=True))
    assert [counts[unit] for unit in ("tokens", "decoder_tokens", "decoder_pairs", "decoder_rows")] == [10, 3, 5, 2]
    batch["decoder_attention_mask"] = torch.tensor([[1, 1, 1], [0, 0, 0]])
    assert decoder_mask(batch).sum(-1).tolist() == [3, 0]
    with pytest.raises(DataError, match="for a decoder should have `labels` or `decoder_input_ids`; got input_ids"):
        decoder_mask({"input_ids": ids})


def test_images_and_sounds_count_by_examples():
    images = {"pixel_values": torch.zeros(3, 3, 8, 8), "labels": torch.tensor([0, 1, -100])}
    assert is_dense(images)
    assert row_mask(images).tolist() == [True] * 3
    counts = dict(zip(UNITS, count_positions([images], shifts_labels=False).tolist(), strict=True))
    assert [counts[unit] for unit in ("tokens", "pairs", "rows", "labels", "task")] == [0, 0, 3, 2, 2]
    assert not is_dense(images | {"input_ids": torch.zeros(3, 4)})


def test_rows_that_are_not_counted():
    inputs = {"input_ids": torch.ones(3, 2, dtype=torch.long), "labels": torch.tensor([0, 1, 2])}
    counted = counting_rows(inputs, 1)
    assert counted["attention_mask"].tolist() == [[1, 1], [0, 0], [0, 0]]
    assert counted["labels"].tolist() == [0, -100, -100]
    assert count_positions([counted], shifts_labels=False)[:3].tolist() == [2, 4, 1]
    images = {"pixel_values": torch.ones(2, 3, 4, 4), "labels": torch.ones(2)}
    assert counting_rows(images, 0).keys() == images.keys()
