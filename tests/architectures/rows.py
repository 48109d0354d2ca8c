"""The models of docs/architectures.md, tiny and made from their configs, and the batches that they read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from conftest import VOCABULARY, pad_batch, ragged_examples
from torch import Tensor
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
    """

    name: str
    classes: tuple[str, str]
    sizes: Mapping[str, Any]
    final_norm: str = ""
    note: str = ""
    examples: Callable[[], Sequence[Mapping[str, Any]]] = field(default=lambda: ragged_examples(8))
    collate: Callable[[Any], dict[str, Tensor]] = field(default=pad_batch)

    def batch(self) -> dict[str, Tensor]:
        return self.collate(self.examples())

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
]
