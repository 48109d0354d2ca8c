"""Tiny models and data, made from fixed seeds: nothing is downloaded."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models, and several workers on few cores

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedModel, PreTrainedTokenizerFast, TrainingArguments, set_seed

VOCABULARY = 99


def tiny_config(**overrides: Any) -> BertConfig:
    """A BERT of 4 blocks, width 32, without dropout unless asked for."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return BertConfig(**sizes | overrides)


def tiny_model(model_class: type[PreTrainedModel], *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A randomly initialised model of `tiny_config`, with weights large enough for attention to be uneven."""
    set_seed(seed)
    return model_class(tiny_config(initializer_range=0.2, **overrides))


def ragged_examples(count: int = 32, *, seed: int = 1, labels: bool = True) -> list[dict[str, list[int]]]:
    """Sequences of 3 to 19 random ids; every third position is labelled with its own id."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for _ in range(count):
        length = int(torch.randint(3, 20, (1,), generator=generator))
        ids = torch.randint(5, VOCABULARY, (length,), generator=generator).tolist()
        examples.append({"input_ids": ids, "attention_mask": [1] * length})
        if labels:
            examples[-1]["labels"] = [token if i % 3 == 0 else -100 for i, token in enumerate(ids)]
    return examples


def pad_batch(examples: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Pads every column on the right: ids and masks with 0, labels with -100."""
    longest = max(len(example["input_ids"]) for example in examples)
    return {
        key: torch.tensor([ex[key] + [-100 if key == "labels" else 0] * (longest - len(ex[key])) for ex in examples])
        for key in examples[0]
    }


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that knows these words, each a token, between [CLS] and [SEP]."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]", **special)


def flat_weights(model: torch.nn.Module) -> torch.Tensor:
    """All parameters of a model as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.fixture
def make_args(tmp_path: Any) -> Callable[..., TrainingArguments]:
    """Training arguments for a short, silent run on the CPU."""

    def make(**overrides: Any) -> TrainingArguments:
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 3,
            "per_device_train_batch_size": 8,
            "logging_steps": 1,
            "report_to": "none",
            "save_strategy": "no",
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "disable_tqdm": True,
        }
        return TrainingArguments(**defaults | overrides)

    return make


@pytest.fixture
def own_datasets_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` keeps on disk is this test's alone."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
