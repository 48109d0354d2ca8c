"""A stream teaches what the same rows in the same order teach from disk: by one process, by two, and gone on with."""

import os

import pytest
import torch
from conftest import flat_weights
from datasets import Dataset
from forked import run_forked
from test_processes import make_trainer


def rows(*, stream):
    """32 rows of 12 tokens, in 4 shards."""
    ids = torch.randint(5, 99, (32, 12), generator=torch.Generator().manual_seed(3)).tolist()
    on_disk = Dataset.from_list([{"input_ids": row, "attention_mask": [1] * 12, "labels": row} for row in ids])
    return on_disk.to_iterable_dataset(num_shards=4).shuffle(seed=5, buffer_size=8) if stream else on_disk


def trained(folder, data, *, resume=None, **settings):
    trainer = make_trainer(folder, "lightmbert", train=data, train_sampling_strategy="sequential", **settings)
    trainer.train(resume_from_checkpoint=resume)
    return flat_weights(trainer.model)


def train(folder):
    torch.save(trained(folder, rows(stream=True)), f"{folder}/{os.environ['RANK']}.pt")


def test_a_stream_is_shared_out_without_loss_or_repetition(tmp_path):
    one = trained(tmp_path, Dataset.from_list(list(rows(stream=True))))
    assert torch.equal(trained(tmp_path, rows(stream=True)), one)
    run_forked("test_streams", "train", tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first, second)
    assert (first - one).norm() <= 1e-5 * one.norm()


def test_a_stream_goes_on_with_the_same_bits(tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = trained(tmp_path, rows(stream=True), **settings)
    resumed = trained(tmp_path, rows(stream=True), resume=str(tmp_path / "checkpoint-2"), **settings)
    assert torch.equal(resumed, whole)


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_a_stream_goes_on_in_a_later_pass(tmp_path, micro_batches):
    """A pass has 4 batches; 3 micro-batches a step do not divide it."""
    settings = {"max_steps": 6, "gradient_accumulation_steps": micro_batches, "save_strategy": "steps"}
    passes = []

    def trained_from(checkpoint):
        data = rows(stream=True)
        set_epoch = data.set_epoch
        data.set_epoch = lambda epoch: (passes.append(epoch), set_epoch(epoch))
        return trained(tmp_path, data, resume=checkpoint, save_steps=5, **settings)

    whole = trained_from(None)
    assert max(passes) == (1 if micro_batches == 1 else 5)
    passes.clear()
    assert torch.equal(trained_from(str(tmp_path / "checkpoint-5")), whole)
    assert min(passes[1:]) > 0  # the first are not read again
