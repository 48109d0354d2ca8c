"""Fine-tunes several models alike, scores them on the same test set, and writes the record of it.

    accelerate launch recipes/finetune.py RECIPE.yaml [key=value ...]

Every model is trained once a seed on the same data in the same order. The models' speed is measured in turns.
"""

import sys
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

from distil_trainer.data import find_files, label_list, tokenize_and_label
from distil_trainer.facts import (
    all_arguments,
    changed_arguments,
    command,
    git_commit,
    hardware,
    now,
    peak_memory_gib,
    versions,
)
from distil_trainer.metrics import token_classification_metrics
from distil_trainer.recipe import FinetuneRecipe, NerData, load_recipe, model_path
from distil_trainer.record import DataFacts, Evaluation, Record
from distil_trainer.speed import measure_speeds

RECORD = "finetune.json"


def main(path: str, overrides: list[str]) -> None:
    """All runs, then the table and the record."""
    recipe = load_recipe(FinetuneRecipe, path, overrides)
    splits = {name: read_split(getattr(recipe.data, name)) for name in ("train", "validation", "test")}
    labels = label_list(splits["train"])
    scores: dict[Any, dict[int, float]] = {role: {} for role in recipe.models}
    for seed in recipe.seeds:
        for role in recipe.models:
            trainer = finetune(recipe, role, seed, splits, labels)
            scores[role][seed] = trainer.evaluate()["eval_test_f1"]
            if recipe.save_models:
                trainer.save_model(str(Path(recipe.output_dir) / f"{role}-{seed}"))
            if trainer.is_world_process_zero():
                print(f"{role}, seed {seed}: F1 {scores[role][seed]:.4f}", flush=True)
    if trainer.is_world_process_zero():
        record = record_of(recipe, trainer, splits, scores, labels)
        record.save(Path(recipe.output_dir) / RECORD)
        for evaluation in record.evaluations:
            spread = "" if evaluation.sd is None else f" ± {evaluation.sd:.4f}"
            speed = record.speed[evaluation.role][-1].ms_per_batch
            print(f"{evaluation.role:12s} F1 {evaluation.mean:.4f}{spread}  {speed:.1f} ms/batch")
    trainer.end()


def read_split(patterns: tuple[str, ...]) -> Dataset | None:
    """The sentences of the files that the patterns name; None for no patterns."""
    if not patterns:
        return None
    return load_dataset("json", data_files=find_files(patterns), split="train")


def finetune(
    recipe: FinetuneRecipe, role: Any, seed: int, splits: dict[str, Dataset | None], labels: list[str]
) -> Trainer:
    """One model, fine-tuned with one seed; its `eval_dataset` holds the splits to score it on."""
    set_seed(seed)
    source = model_path(recipe.models[role])
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForTokenClassification.from_pretrained(
        source,
        use_safetensors=True,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    encoded = {
        name: tokenize_and_label(split, tokenizer, labels, recipe.max_length)
        for name, split in splits.items()
        if split is not None
    }
    args = TrainingArguments(output_dir=str(Path(recipe.output_dir) / role), seed=seed, **recipe.training)
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=encoded.pop("train"),
        eval_dataset=encoded,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        processing_class=tokenizer,
        compute_metrics=token_classification_metrics(labels),
    )
    trainer.train()
    return trainer


def record_of(
    recipe: FinetuneRecipe,
    trainer: Trainer,
    splits: dict[str, Dataset | None],
    scores: dict[Any, dict[int, float]],
    labels: list[str],
) -> Record:
    """Scores of all models and seeds, and their speed."""
    untrained: dict[Any, Any] = {
        role: AutoModelForTokenClassification.from_pretrained(
            model_path(source), use_safetensors=True, num_labels=len(labels)
        )
        for role, source in recipe.models.items()
    }
    return Record(
        stage="finetune",
        data=(data_facts(recipe.data, splits["train"], "train"), data_facts(recipe.data, splits["test"], "evaluation")),
        hyperparameters=changed_arguments(trainer.args),
        arguments=all_arguments(trainer.args),
        versions=versions(),
        hardware=hardware(),
        date=now(),
        peak_memory_gib=peak_memory_gib(),
        command=command(),
        git_commit=git_commit(),
        seeds=recipe.seeds,
        evaluations=tuple(evaluation(recipe.data, role, values) for role, values in scores.items()),
        speed=measure_speeds(untrained, length=recipe.max_length),
    )


def evaluation(data: NerData, role: Any, values: dict[int, float]) -> Evaluation:
    """The test F1 of one model, by seed."""
    return Evaluation(
        role=role,
        task_type="token-classification",
        dataset_name=data.name,
        dataset_id=data.hub_id,
        dataset_config=data.config,
        dataset_split=data.split,
        dataset_revision=data.revision,
        metric_type="f1",
        metric_name="F1 (seqeval)",
        values=values,
    )


def data_facts(data: NerData, split: Dataset | None, role: Any) -> DataFacts:
    """One split of the task for the record."""
    return DataFacts(
        name=data.name,
        role=role,
        hub_id=data.hub_id,
        config=data.config,
        split="train" if role == "train" else data.split,
        revision=data.revision,
        license=data.license,
        language=data.language,
        examples=None if split is None else len(split),
    )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
