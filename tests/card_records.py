"""Records that the tests of cards are made from, and the metadata of a card."""

import yaml

from distil_trainer.record import Evaluation, Record

SPEED = {"batch_size": 8, "length": 128, "threads": 2, "dtype": "float32", "hardware": "AMD EPYC"}
ONE = {**SPEED, "batch_size": 1}
SHAPE = {"class_name": "BertForMaskedLM", "hidden_size": 768, "heads": 12, "vocabulary": 119547, "max_length": 512}
BLOCKS = {"student_layer": 3, "teacher_layer": 6}
EVALUATION = {
    "task_type": "token-classification",
    "dataset_name": "SUCX 3.0",
    "dataset_id": "KBLab/sucx3_ner",
    "dataset_config": "simple_cased",
    "dataset_split": "test",
    "dataset_revision": "abc",
    "metric_type": "f1",
    "metric_name": "F1",
}


def evaluation(role, values, **changes):
    return Evaluation(**{**EVALUATION, "role": role, "values": values, **changes})


def distilled(**changes):
    facts = {
        "stage": "distill",
        "student": {
            **SHAPE,
            "name": "swedish-mbert",
            "id": "me/swedish-mbert",
            "license": "apache-2.0",
            "language": ["sv"],
            "layers": 6,
            "parameters": 100_000_000,
            "embedding_parameters": 60_000_000,
            "bytes_on_disk": 400_000_000,
        },
        "teacher": {
            **SHAPE,
            "name": "mBERT",
            "id": "google-bert/bert-base-multilingual-cased",
            "revision": "3f076fdb1ab68d5b2880cb87a0886f315b8146f8",
            "license": "apache-2.0",
            "language": ["multilingual"],
            "layers": 12,
            "parameters": 150_000_000,
            "embedding_parameters": 60_000_000,
            "citation": "@misc{teacher}",
        },
        "provenance": {"teacher": "mBERT", "teacher_layers": 12, "copied_blocks": [1, 3], "frozen": ["embeddings"]},
        "method": "lightmbert",
        "alignments": [
            {"name": "hidden_states_s3_t6", "feature": "hidden_states", **BLOCKS, "loss": "mse"},
            {"name": "attention_probs_s3_t6", "feature": "attention_probs", **BLOCKS, "loss": "kl"},
            {"name": "logits", "feature": "logits", "loss": "kl", "temperature": 2, "weight": 0.5,
             "positions": "labels"},
        ],
        "task_weight": 0,
        "balanced": True,
        "teacher_dtype": "bfloat16",
        "teacher_cache": "float16",
        "top_logits": 64,
        "never_trained": {"cls.bias": 0.01},
        "data": [
            {"name": "Gigaword", "role": "train", "url": "https://example.org/g w", "license": "cc-by-4.0",
             "language": ["sv"], "tokens": 2000, "size_bytes": 9_000_000, "description": "Years 2010 to 2015.",
             "filtering": "News only."},
            {"name": "Wiki", "role": "train", "hub_id": "me/wiki", "config": "sv", "revision": "r2", "language": ["sv"],
             "examples": 1000},
            {"name": "SUCX 3.0", "role": "evaluation", "hub_id": "KBLab/sucx3_ner", "split": "test"},
        ],
        "hyperparameters": {"learning_rate": 1e-4, "lr_scheduler_kwargs": {"a": [1]}},
        "versions": {"distil_trainer": "0.1.0", "torch": "2.13"},
        "hardware": {"cpu": "AMD EPYC", "cores": 2, "memory_gib": 7.5, "gpus": ["H200"], "processes": 1},
        "date": "2026-01-31T12:00:00+00:00",
        "seconds": 3725,
        "steps": 1000,
        "tokens": 2_048_000,
        "command": "python distill.py recipe.yaml",
        "seeds": [100],
        "arguments": {"learning_rate": 1e-4, "max_steps": 1000, "bf16": False},
        "peak_memory_gib": 3.5,
        "emissions": {"co2_grams": 12.3456, "energy_kwh": 0.5, "country": "Sweden"},
        "git_commit": "0123abc-dirty",
        "loss_curve": {
            "loss": [[1, 4.0], [2, 2.0], [3, 1.0]],
            "loss/logits": [[1, 3.0], [2, 1.5], [3, 0.5]],
            "eval_loss": [[2, 2.25], [3, 1.23456]],
        },
        "best_step": 3,
        "speed": {"teacher": [{**ONE, "ms_per_batch": 30}, {**SPEED, "ms_per_batch": 50}],
                  "student": [{**ONE, "ms_per_batch": 10}, {**SPEED, "ms_per_batch": 25}]},
    }  # fmt: skip
    return Record(**{**facts, **changes})


def tuned(**changes):
    facts = {
        "stage": "finetune",
        "data": [{"name": "SUCX 3.0", "role": "train", "hub_id": "KBLab/sucx3_ner", "split": "train"}],
        "hyperparameters": {"num_train_epochs": 3.0, "seed": 100},
        "seeds": [100, 101],
        "evaluations": [
            evaluation("teacher", {100: 0.5, 101: 0.75}),
            evaluation("student", {100: 0.5, 101: 0.5}),
            evaluation("undistilled", {100: 0.25, 101: 0.25}),
            evaluation("student", {7: 2.5}, dataset_name="Åter, My set!", dataset_id=None, metric_type="loss",
                       metric_name=None, higher_is_better=False),
        ],
    }  # fmt: skip
    return Record(**{**facts, **changes})


def metadata(card):
    return yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
