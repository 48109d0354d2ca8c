"""Short trainings of several kinds, in one process, or shared out by FSDP2 over several (`train_all`)."""

import os
from pathlib import Path

import torch
from conftest import pad_batch, ragged_examples, tiny_config
from forked import use_fsdp_on_cpus
from test_processes import train_and_save
from transformers import (
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    TrainingArguments,
    set_seed,
)

from distil_trainer import Alignment, DistillationTrainer, build_student, methods, student_config

SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
TEACHERS = {
    "bert": lambda: BertForMaskedLM(tiny_config(initializer_range=0.2)),
    "distilbert": lambda: DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=99, dim=32, n_layers=4, n_heads=4, hidden_dim=48, initializer_range=0.2)
    ),
    "modernbert": lambda: ModernBertForMaskedLM(
        ModernBertConfig(**SIZES, vocab_size=99, local_attention=8, pad_token_id=0, initializer_range=0.2)
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, vocab_size=99, num_key_value_heads=2, initializer_range=0.2)
    ),
}
ALIGNMENTS = (
    *methods.lightmbert(student_layers=2, teacher_layers=4),
    Alignment(feature="logits", loss="kl", temperature=2.0, positions="labels"),
)
KINDS = {  # name -> teacher, settings
    "distilbert": ("distilbert", {}),
    "modernbert": ("modernbert", {}),
    "llama": ("llama", {}),
    "bf16": ("bert", {"bf16": True}),
}


def trained(folder, kind):
    """The saved student, the losses, and how far the weights moved, of 3 steps of 8 examples."""
    which, settings = KINDS[kind]
    world = int(os.environ.get("WORLD_SIZE", 1))
    set_seed(0)
    teacher = TEACHERS[which]()
    micro_batches = 2 if world > 1 else 1
    args = TrainingArguments(
        str(Path(folder, kind)),
        max_steps=3,
        per_device_train_batch_size=8 // world // micro_batches,
        gradient_accumulation_steps=micro_batches,
        per_device_eval_batch_size=4 // world,
        optim="sgd",
        learning_rate=0.1,
        max_grad_norm=0,
        logging_steps=3,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **settings,
    )
    return train_and_save(
        DistillationTrainer(
            model=build_student(teacher, student_config(teacher.config, num_hidden_layers=2)),
            args=args,
            teacher_model=teacher,
            alignments=ALIGNMENTS,
            task_weight=0.5,
            train_dataset=ragged_examples(),
            eval_dataset=ragged_examples(16, seed=2),
            data_collator=pad_batch,
        )
    )


def train_all(folder):
    """All kinds that FOLDER/kinds names, into FOLDER/found.pt."""
    from accelerate.state import AcceleratorState

    use_fsdp_on_cpus()
    found = {}
    for kind in Path(folder, "kinds").read_text().splitlines():
        AcceleratorState._reset_state()  # the classes of the blocks are kept in it
        found[kind] = trained(Path(folder, "two"), kind)
    if os.environ["RANK"] == "0":
        torch.save(found, f"{folder}/found.pt")
