"""Where batches come from, and which columns are in them."""

import gc
import threading

import psutil
import pytest
import torch
from conftest import flat_weights, pad_batch, ragged_examples
from datasets import Dataset
from distilling import distilling
from transformers import TrainerCallback


def weights(make_args, **kwargs):
    trainer = distilling(make_args, **kwargs)
    trainer.train()
    return flat_weights(trainer.model)


class Workers(TrainerCallback):
    """Counts, in each step, the processes that this one has started since."""

    def __init__(self):
        self.before, self.seen = set(psutil.Process().children()), []

    def now(self):
        return len(set(psutil.Process().children()) - self.before)

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append(self.now())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_change_nothing_and_are_gone_afterwards(make_args):
    plain = weights(make_args)
    threads = threading.active_count()
    workers = {
        "dataloader_num_workers": 2,
        "dataloader_persistent_workers": True,
        "dataloader_prefetch_factor": 1,
    }
    count = Workers()
    trainer = distilling(make_args, args=workers, callbacks=[count])
    trainer.train()
    assert count.seen == [2] * 3  # those that looked at the first batch are gone
    assert torch.equal(flat_weights(trainer.model), plain)
    del trainer
    gc.collect()
    assert not count.now()
    assert threading.active_count() <= threads


def test_rows_of_like_length_come_together(make_args):
    spreads = {}
    for strategy in ("random", "group_by_length"):
        batches = []

        def collate(examples, batches=batches):
            batches.append([len(example["input_ids"]) for example in examples])
            return pad_batch(examples)

        args = {"train_sampling_strategy": strategy, "max_steps": 8, "per_device_train_batch_size": 4}
        trainer = distilling(make_args, args=args, data_collator=collate)
        trainer.train()
        epoch = batches[-8:]
        assert sum(len(lengths) for lengths in epoch) == 32
        spreads[strategy] = sum(max(lengths) - min(lengths) for lengths in epoch)
    assert spreads["group_by_length"] < 0.7 * spreads["random"]


@pytest.mark.parametrize("removed", [True, False])
def test_columns_that_neither_model_reads(make_args, removed):
    """`remove_unused_columns=False` leaves them in the batch; they are given to neither."""
    plain = weights(make_args)
    rows = Dataset.from_list([{**example, "place": example["input_ids"]} for example in ragged_examples()])
    seen = set()

    def collate(examples):
        seen.update(*examples)
        return pad_batch(examples)

    args = {"remove_unused_columns": removed}
    assert torch.equal(weights(make_args, args=args, train_dataset=rows, data_collator=collate), plain)
    assert ("place" in seen) is not removed
