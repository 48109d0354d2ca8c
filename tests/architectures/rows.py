"""The models of docs/architectures.md, tiny and made from their configs, and the batches that they read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from conftest import VOCABULARY, pad_batch, ragged_examples
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

DEPTH, CUT = 4, (1, 4)  # blocks of the teacher, and those that become the student
COMMON = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": DEPTH, "num_attention_heads": 4}
ENCODER = COMMON | {"intermediate_size": 24, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = COMMON | SPECIAL | {"intermediate_size": 24, "num_key_value_heads": 2, "head_dim": 8}


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: its first cell.
        classes: the prefix of the config's name, and the name of the model class.
        sizes: what the config is made with.
        final_norm: the module after the last block whose output `outputs.hidden_states[-1]` is; "" where it is the
            last block's own.
        note: its last cell.
        stack: of a model with two, the one that the row is about.
        examples: what the data set holds.
        collate: makes a batch of them.
    """

    name: str
    classes: tuple[str, str]
    sizes: Mapping[str, Any]
    final_norm: str = ""
    note: str = ""
    stack: str | None = None
    examples: Callable[[], Sequence[Mapping[str, Any]]] = field(default=lambda: ragged_examples(8))
    collate: Callable[[Any], dict[str, Tensor]] = field(default=pad_batch)

    def batch(self) -> dict[str, Tensor]:
        return self.collate(self.examples())

    def mask(self, inputs: dict[str, Tensor], length: int) -> Tensor:
        """Bool [B, length]: the positions that count."""
        if self.stack == "decoder":
            return inputs["labels"] != -100
        if "input_ids" not in inputs:
            return torch.ones(len(inputs["labels"]), length, dtype=torch.bool)
        return inputs["attention_mask"].bool()

    def model(self, backend: str) -> PreTrainedModel:
        """The teacher, with weights large enough for attention to be uneven."""
        config = getattr(transformers, f"{self.classes[0]}Config")(**self.sizes)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = getattr(transformers, self.classes[1])._from_config(config, attn_implementation=backend)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim > 1:
                        parameter.normal_(0, 0.2)
        return model.eval()


def images() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [{"pixel_values": torch.randn(3, 8, 8, generator=generator), "labels": k % 3} for k in range(8)]


def sounds() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"input_features": torch.randn(4, 12, generator=generator), "labels": example["input_ids"]}
        for example in ragged_examples(8)
    ]


def stacked(examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Images or sounds of one size; labels that are lists are padded with -100."""
    labels = [torch.as_tensor(example["labels"]) for example in examples]
    (key,) = (key for key in examples[0] if key != "labels")
    return {
        key: torch.stack([torch.as_tensor(example[key]) for example in examples]),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100) if labels[0].ndim else torch.stack(labels),
    }


def translations() -> list[dict[str, Any]]:
    targets = ragged_examples(8, seed=2)
    return [
        {**example, "labels": target["input_ids"]}
        for example, target in zip(ragged_examples(8, labels=False), targets, strict=True)
    ]


def pad_translations(examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    targets = pad_sequence([torch.tensor(ex["labels"]) for ex in examples], batch_first=True, padding_value=-100)
    return pad_batch([{k: v for k, v in ex.items() if k != "labels"} for ex in examples]) | {"labels": targets}


def both_stacks(
    name: str, classes: tuple[str, str], sizes: Mapping[str, Any], norms: tuple[str, str] = ("", ""), **options: Any
) -> list[Row]:
    return [
        Row(f"{name}, {stack}", classes, sizes, stack=stack, final_norm=norm, **options)
        for stack, norm in zip(("encoder", "decoder"), norms, strict=True)
    ]


TRANSLATION = {"examples": translations, "collate": pad_translations}
SEQ2SEQ = SPECIAL | {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": DEPTH,
    "decoder_layers": DEPTH,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "dropout": 0.0,
    "decoder_start_token_id": 1,
}

ROWS = [
    Row("BERT", ("Bert", "BertForMaskedLM"), ENCODER),
    Row("RoBERTa", ("Roberta", "RobertaForMaskedLM"), ENCODER),
    Row("XLM-R", ("XLMRoberta", "XLMRobertaForMaskedLM"), ENCODER),
    Row(
        "DistilBERT",
        ("DistilBert", "DistilBertForMaskedLM"),
        {"vocab_size": VOCABULARY, "dim": 16, "n_layers": DEPTH, "n_heads": 4, "hidden_dim": 24},
    ),
    Row("ELECTRA", ("Electra", "ElectraForMaskedLM"), ENCODER | {"embedding_size": 8}),
    Row(
        "ALBERT",
        ("Albert", "AlbertForMaskedLM"),
        ENCODER | {"embedding_size": 8},
        note="one block that is passed several times: a layer is a pass",
    ),
    Row(
        "ModernBERT",
        ("ModernBert", "ModernBertForMaskedLM"),
        COMMON | SPECIAL | {"intermediate_size": 24, "local_attention": 8, "cls_token_id": 1, "sep_token_id": 2},
        final_norm="final_norm",
        note="local and global attention: compare blocks of one kind",
    ),
    Row("EuroBERT", ("EuroBert", "EuroBertForMaskedLM"), DECODER, final_norm="norm"),
    Row(
        "DeBERTa-v2",
        ("DebertaV2", "DebertaV2ForMaskedLM"),
        ENCODER | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
        note="the model is asked for its attention probabilities",
    ),
    Row("MPNet", ("MPNet", "MPNetForMaskedLM"), ENCODER, note="the model is asked for its attention probabilities"),
    Row("Llama", ("Llama", "LlamaForCausalLM"), DECODER, final_norm="norm", note="grouped queries"),
    Row("Qwen3", ("Qwen3", "Qwen3ForCausalLM"), DECODER, final_norm="norm", note="grouped queries, normed"),
    Row(
        "GPT-2",
        ("GPT2", "GPT2LMHeadModel"),
        COMMON | SPECIAL | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        final_norm="ln_f",
    ),
    Row(
        "Gemma 2",
        ("Gemma2", "Gemma2ForCausalLM"),
        DECODER | {"sliding_window": 8, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
        final_norm="norm",
        note="scores and logits are capped; transformers has eager attention only",
    ),
    Row(
        "Gemma 3",
        ("Gemma3Text", "Gemma3ForCausalLM"),
        DECODER | {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"] * 2},
        final_norm="norm",
        note="local and global attention: compare blocks of one kind",
    ),
    *both_stacks(
        "T5",
        ("T5", "T5ForConditionalGeneration"),
        SPECIAL
        | {
            "vocab_size": VOCABULARY,
            "d_model": 16,
            "d_kv": 4,
            "d_ff": 24,
            "num_layers": DEPTH,
            "num_heads": 4,
            "dropout_rate": 0.0,
            "decoder_start_token_id": 0,
        },
        ("final_layer_norm", "final_layer_norm"),
        note="biases by position",
        **TRANSLATION,
    ),
    *both_stacks("BART", ("Bart", "BartForConditionalGeneration"), SEQ2SEQ, **TRANSLATION),
    *both_stacks(
        "Whisper",
        ("Whisper", "WhisperForConditionalGeneration"),
        SEQ2SEQ | {"num_mel_bins": 4, "max_source_positions": 6, "max_target_positions": 64},
        ("layer_norm", "layer_norm"),
        examples=sounds,
        collate=stacked,
    ),
    Row(
        "ViT",
        ("ViT", "ViTForImageClassification"),
        {key: value for key, value in ENCODER.items() if key != "vocab_size"}
        | {"image_size": 8, "patch_size": 4, "num_labels": 3},
        examples=images,
        collate=stacked,
    ),
]
