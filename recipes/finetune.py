"""Fine-tunes several models alike, scores them on the same data, and writes the record of it.

    accelerate launch recipes/finetune.py RECIPE.yaml [key=value ...]

Every model is trained once a seed on the same data in the same order. With `task_stage` some also learn from the
fine-tuned teacher, of the same seed or of all (task-specific distillation), on the same data and on unlabelled ones
that it labels. The models' speed is measured in turns.
The scores of each finished run are kept: after an interruption, `resume=true` trains only what is missing.
"""

import gc
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler

from distil_trainer import DistillationTrainer
from distil_trainer.compatibility import check_pair
from distil_trainer.errors import AlignmentError, DataError, RecipeError, VocabularyError
from distil_trainer.facts import (
    alignment_facts,
    model_facts,
    peak_memory_gib,
    process_facts,
    scheduled_facts,
    settings_facts,
)
from distil_trainer.fingerprint import weights_hash
from distil_trainer.nonfinite import FiniteTrainer
from distil_trainer.recipe import FinetuneRecipe, TaskStage, load_recipe, load_tokenizer, model_path
from distil_trainer.record import Evaluation, Record
from distil_trainer.speed import measure_speeds
from distil_trainer.tasks import TASKS, load_for_task
from distil_trainer.tasks.finished import (
    Scores,
    changes,
    content_hash,
    depends_on,
    load_scores,
    save_scores,
)
from distil_trainer.tasks.splits import Split, read_splits, read_unlabelled, sampled
from distil_trainer.tasks.unlabelled import with_labels, with_placeholders, without_known
from distil_trainer.teacher import fast_dtype
from distil_trainer.teacher_cache import TeacherCache
from distil_trainer.vocabulary import match_pieces

RECORD = "finetune.json"
SCORES = "scores"  # the folder of the finished runs
NOT_SCORED = ("train", "unlabelled")  # splits to learn from


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """All splits as a model takes them, and a hash of each."""

    tokenizer: Any
    splits: dict[str, Dataset]
    hashes: dict[str, str]


class SameOrder(FiniteTrainer):
    """A Trainer that draws the order of the examples from the seed alone. Overrides `_get_train_sampler`.

    Grouped by length it would be drawn by the generator of dropout: from the second epoch on each model, and each of
    several processes, would have another order.
    """

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        sampler: Sampler[int] | None = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            sampler.generator = torch.Generator().manual_seed(seed)
        return sampler


class TaughtInSameOrder(SameOrder, DistillationTrainer):
    """A DistillationTrainer that does the same."""


def main(path: str, overrides: list[str]) -> None:
    """All runs, then the table and the record."""
    recipe = load_recipe(FinetuneRecipe, path, overrides)
    finished = finished_runs(recipe)  # read before this run writes any, so that all processes see the same
    roles = sorted(recipe.models, key=lambda role: role != "teacher")  # the teacher first: others may learn from it
    args = arguments(recipe, roles[0], recipe.seeds[0])
    say = print if args.process_index == 0 else lambda *words, **how: None
    with args.main_process_first(desc="reading the data"):
        has_words = recipe.task == "token-classification"
        splits = read_splits(recipe.data, recipe.also_test, words=has_words)
        names = TASKS[recipe.task].labels(splits["train"].rows, splits["train"].columns[-1])
        splits["train"] = sampled(splits["train"], recipe.data.max_train_examples)  # some may lack a rare label
        if recipe.task_stage is not None and recipe.task_stage.unlabelled is not None:
            unknown = without_known(read_unlabelled(recipe.task_stage.unlabelled, words=has_words), splits.values())
            splits["unlabelled"] = with_placeholders(unknown, names, words=has_words)
        encoded = encode(recipe, splits, names)
    say(f"{len(splits['train'].rows)} examples; labels: {', '.join(names) or 'a number'}")
    models: dict[Any, Any] = {}
    for role in roles:  # all of them, before the first is trained
        models[role], new = load(recipe, role, recipe.seeds[0], names)
        check_length(recipe, role, model_facts(models[role], name=role).max_length)
        say(f"{role}: {recipe.models[role]}; starts from random weights: {', '.join(new) or 'none'}", flush=True)
        models[role].to(args.device)
    check_task_stage(recipe.task_stage, models, encoded)
    speed = measure_speeds(models, length=min(recipe.max_length, 128)) if args.process_index == 0 else {}
    models.clear()

    scores: dict[Any, dict[int, Scores]] = {role: {} for role in roles}
    launch = {"processes": args.world_size, "mixed_precision": args.mixed_precision}
    if recipe.attn_implementation is not None:
        launch["attn_implementation"] = recipe.attn_implementation
    for seed, role in in_order(recipe, roles):
        model, _ = load(recipe, role, seed, names)
        teachers = teachers_of(recipe, role, seed, fast_dtype(args.device))
        others, data = dict[str, Any](launch), dict(encoded[role].hashes)
        unlabelled = data.pop("unlabelled", None)
        if lesson := lesson_of(recipe, role):
            hashes = [weights_hash(teacher) for teacher in teachers]
            others |= {"task_stage": stage_values(lesson), "teachers": hashes, "unlabelled": unlabelled}
        depends = depends_on(model, data, training_of(recipe, role), others)
        run, file = f"{role}, seed {seed}", score_file(recipe, role, seed)
        if file in finished:
            changed = changes(finished[file], depends)
            if recipe.save_models and not (folder_of(recipe, role, seed) / "config.json").exists():
                changed.append("the saved model (there is none)")
            if not changed:
                scores[role][seed] = finished[file]["scores"]
                say(f"{run}: {said(recipe, scores[role][seed])}, taken over from {file}", flush=True)
                continue
            say(f"{run}: trained again; this is not as it was for {file}: {', '.join(changed)}", flush=True)
        kept_ids = kept_by(role, encoded) if teachers else None
        trainer = finetune(recipe, role, seed, model, encoded[role], names, teachers, kept_ids)
        del model, teachers
        scores[role][seed] = score(recipe, trainer, encoded[role])
        if recipe.save_models:
            trainer.save_model(str(folder_of(recipe, role, seed)))
        del trainer  # and with it the weights and the optimizer, before the next ones come
        gc.collect()
        if args.process_index == 0:
            save_scores(file, scores[role][seed], depends)
        say(f"{run}: {said(recipe, scores[role][seed])}", flush=True)
    if args.process_index == 0:
        record = replace(record_of(recipe, args, splits, scores), speed=speed)
        record.save(Path(recipe.output_dir) / RECORD)
        for evaluation in record.evaluations:
            spread = "" if evaluation.sd is None else f" ± {evaluation.sd:.4f}"
            about = f"{evaluation.dataset_name}, {evaluation.dataset_split}: {evaluation.metric_name}"
            ms = record.speed[evaluation.role][-1].ms_per_batch
            print(f"{evaluation.role:12s} {about} {evaluation.mean:.4f}{spread}  {ms:.1f} ms/batch")
    PartialState().destroy_process_group()


def in_order(recipe: FinetuneRecipe, roles: list[Any]) -> list[tuple[int, Any]]:
    """All runs, each a seed and a role; teachers come before those whom they teach."""
    runs = [(seed, role) for seed in recipe.seeds for role in roles]
    if recipe.task_stage is not None and recipe.task_stage.teachers == "all_seeds":
        runs.sort(key=lambda run: run[1] != "teacher")
    return runs


def lesson_of(recipe: FinetuneRecipe, role: Any) -> TaskStage | None:
    """What fine-tuned teachers teach this role, if they do."""
    return recipe.task_stage if recipe.task_stage is not None and role in recipe.task_stage.roles else None


def training_of(recipe: FinetuneRecipe, role: Any) -> dict[str, Any]:
    """The training arguments of this role."""
    lesson = lesson_of(recipe, role)
    return recipe.training if lesson is None else recipe.training | lesson.training


def arguments(recipe: FinetuneRecipe, role: Any, seed: int) -> TrainingArguments:
    """Those of one run."""
    return TrainingArguments(output_dir=str(folder_of(recipe, role, seed)), seed=seed, **training_of(recipe, role))


def folder_of(recipe: FinetuneRecipe, role: str, seed: int) -> Path:
    """Where a run leaves its checkpoints, and its model if it is kept."""
    return Path(recipe.output_dir) / f"{role}-{seed}"


def score_file(recipe: FinetuneRecipe, role: str, seed: int) -> Path:
    """Where a finished run leaves its scores."""
    return Path(recipe.output_dir) / SCORES / f"{role}-{seed}.json"


def finished_runs(recipe: FinetuneRecipe) -> dict[Path, dict[str, Any]]:
    """What the finished runs in `output_dir` left; it is never taken over, or overwritten, by surprise."""
    finished = load_scores(score_file(recipe, role, seed) for seed in recipe.seeds for role in recipe.models)
    if finished and not recipe.resume:
        raise RecipeError(
            f"{recipe.output_dir} holds scores of finished runs, such as {next(iter(finished)).name}. Take them over, "
            "where nothing has changed, with resume=true, or choose another output_dir."
        )
    return finished


def encode(recipe: FinetuneRecipe, splits: dict[str, Split], names: list[str]) -> dict[Any, Encoded]:
    """All splits for each model, made once for those that share a tokenizer."""
    by_tokenizer: dict[str, Encoded] = {}
    encoded: dict[Any, Encoded] = {}
    for role, source in recipe.models.items():
        try:
            tokenizer = load_tokenizer(source)
        except RecipeError as error:
            raise RecipeError(f"models.{role}: {error}") from error
        check_length(recipe, role, tokenizer.model_max_length)
        key = role if not tokenizer.is_fast else f"{tokenizer.backend_tokenizer.to_str()}{tokenizer.model_input_names}"
        if key not in by_tokenizer:
            done = {}
            for name, split in splits.items():
                try:
                    done[name] = TASKS[recipe.task].encode(
                        split.rows, tokenizer, names, split.columns, recipe.max_length
                    )
                except DataError as error:
                    raise DataError(f"{name} of {split.facts.name}: {error}") from error
            hashes = {name: content_hash(rows) for name, rows in done.items()}
            done = {name: rows if name == "train" else by_length(rows) for name, rows in done.items()}
            by_tokenizer[key] = Encoded(tokenizer=tokenizer, splits=done, hashes=hashes)
        encoded[role] = replace(by_tokenizer[key], tokenizer=tokenizer)
    return encoded


def check_length(recipe: FinetuneRecipe, role: str, longest: int | None) -> None:
    """Raise RecipeError when examples may be longer than a tokenizer or model takes."""
    if longest is not None and recipe.max_length > longest:
        raise RecipeError(f"max_length: expected at most {longest}, as {role} takes; came {recipe.max_length}.")


def by_length(rows: Dataset) -> Dataset:
    """The shortest first: batches to score then hold little padding."""
    lengths = [len(ids) for ids in rows["input_ids"]]
    return rows.select(sorted(range(len(rows)), key=lengths.__getitem__))


def load(recipe: FinetuneRecipe, role: Any, seed: int, names: list[str]) -> tuple[PreTrainedModel, list[str]]:
    """The model that a run starts from, and which of its weights are random."""
    set_seed(seed)
    return load_for_task(model_path(recipe.models[role]), TASKS[recipe.task], names, recipe.attn_implementation)


def check_task_stage(stage: TaskStage | None, models: dict[Any, Any], encoded: dict[Any, Encoded]) -> None:
    """Raise RecipeError when one of the models cannot learn from the teacher what `task_stage` says."""
    if stage is None:
        return
    for role in stage.roles:
        try:
            kept_ids = kept_by(role, encoded)
            check_pair(models[role], models["teacher"], stage.alignments, kept_ids)
        except AlignmentError as error:
            raise RecipeError(f"task_stage: {role}: {error}") from error


def kept_by(role: str, encoded: dict[Any, Encoded]) -> tuple[int, ...] | None:
    """The teacher's ids of the model's pieces, if its vocabulary was trimmed; None if its tokens are the teacher's."""
    teacher, student = encoded["teacher"], encoded[role]
    if len(student.tokenizer) < len(teacher.tokenizer):
        with suppress(VocabularyError):
            return match_pieces(teacher.tokenizer, student.tokenizer)
    if student.hashes != teacher.hashes:
        raise RecipeError(f"task_stage: expected the teacher's tokens; the tokenizer of {role} gives others.")
    return None


def teachers_of(recipe: FinetuneRecipe, role: Any, seed: int, dtype: torch.dtype) -> list[PreTrainedModel]:
    """The fine-tuned models that teach this run, if any do, as they compute there."""
    lesson = lesson_of(recipe, role)
    if lesson is None:
        return []
    seeds = recipe.seeds if lesson.teachers == "all_seeds" else (seed,)
    return [
        TASKS[recipe.task].model_class.from_pretrained(
            folder_of(recipe, "teacher", each),
            dtype=dtype,
            use_safetensors=True,
            attn_implementation=recipe.attn_implementation,
        )
        for each in seeds
    ]


def cache_of(recipe: FinetuneRecipe, role: Any, seed: int, kept_ids: tuple[int, ...] | None) -> TeacherCache | None:
    """Where what teachers compute is kept: for other seeds another, and for tokens that only this role has."""
    stage = recipe.task_stage
    if stage is None or stage.teacher_cache is None:
        return None
    seeds = recipe.seeds if stage.teachers == "all_seeds" else (seed,)
    name = "-".join(map(str, ("teacher", *seeds)))
    folder = Path(stage.teacher_cache.folder) / (name if kept_ids is None else f"{name}-for-{role}")
    return replace(stage.teacher_cache, folder=str(folder))


def stage_values(stage: TaskStage) -> dict[str, Any]:
    """All of a task stage that the scores depend on."""
    values = asdict(stage)
    del values["unlabelled"]  # known by what is in it
    cache = values.pop("teacher_cache")
    return values if cache is None else {**values, "teacher_cache": {k: v for k, v in cache.items() if k != "folder"}}


def finetune(
    recipe: FinetuneRecipe,
    role: str,
    seed: int,
    model: PreTrainedModel,
    data: Encoded,
    names: list[str],
    teachers: list[PreTrainedModel],
    kept_ids: tuple[int, ...] | None = None,
) -> Trainer:
    """One model, fine-tuned with one seed, by its labels alone or by teachers, too."""
    task, lesson = TASKS[recipe.task], lesson_of(recipe, role)
    options: dict[str, Any] = {
        "model": model,
        "args": arguments(recipe, role, seed),
        "train_dataset": data.splits["train"],
        "eval_dataset": data.splits.get("validation"),
        "data_collator": task.collator(data.tokenizer),
        "processing_class": data.tokenizer,
        "compute_metrics": task.metrics(names),
        "on_nonfinite": recipe.on_nonfinite,
    }
    if "unlabelled" in data.splits and teachers:
        others = data.splits["unlabelled"]
        options["train_dataset"] = with_labels(
            data.splits["train"], others, teachers, options["data_collator"], options["args"], kept_ids
        )
    if lesson is not None:
        options |= {"teacher_model": teachers, "alignments": lesson.alignments, "task_weight": lesson.task_weight}
        options |= {"kept_ids": kept_ids, "teacher_cache": cache_of(recipe, role, seed, kept_ids)}
    trainer = SameOrder(**options) if lesson is None else TaughtInSameOrder(**options)
    trainer.train()
    return trainer


def score(recipe: FinetuneRecipe, trainer: Trainer, data: Encoded) -> Scores:
    """What a fine-tuned model reaches on each split but that of the training."""
    scores: Scores = {}
    for name, rows in data.splits.items():
        if name not in NOT_SCORED:
            found = trainer.evaluate(rows, metric_key_prefix="final")
            scores[name] = {metric: float(found[f"final_{metric}"]) for metric in TASKS[recipe.task].scores}
    return scores


def said(recipe: FinetuneRecipe, scores: Scores) -> str:
    """The scores on the test split in a line."""
    return ", ".join(f"{name} {scores['test'][key]:.4f}" for key, (_, name) in TASKS[recipe.task].scores.items())


def record_of(
    recipe: FinetuneRecipe, args: TrainingArguments, splits: dict[str, Split], scores: dict[Any, dict[int, Scores]]
) -> Record:
    """Scores of all models and seeds, and how they were reached."""
    stage = recipe.task_stage
    return Record(
        stage="finetune",
        data=tuple(split.facts for split in splits.values()),
        peak_memory_gib=peak_memory_gib(),
        seeds=recipe.seeds,
        taught=stage.roles if stage else (),
        taught_by=stage.teachers if stage else None,
        taught_arguments=stage.training if stage else {},
        alignments=alignment_facts(stage.alignments) if stage else (),
        teacher_dtype=str(fast_dtype(args.device)).removeprefix("torch.") if stage else None,
        teacher_cache=stage.teacher_cache.dtype if stage and stage.teacher_cache else None,
        top_logits=stage.teacher_cache.top_k if stage and stage.teacher_cache else None,
        evaluations=tuple(
            evaluation(recipe, splits[key], metric, role, {seed: found[key][metric] for seed, found in runs.items()})
            for key in splits
            if key not in NOT_SCORED
            for metric in TASKS[recipe.task].scores
            for role, runs in scores.items()
        ),
        **scheduled_facts("task_weight", stage.task_weight if stage else None),
        **settings_facts(args),
        **process_facts(),
    )


def evaluation(recipe: FinetuneRecipe, split: Split, metric: str, role: Any, values: dict[int, float]) -> Evaluation:
    """One metric of one model on one split, by seed."""
    metric_type, metric_name = TASKS[recipe.task].scores[metric]
    return Evaluation(
        role=role,
        task_type=recipe.task,
        dataset_name=split.facts.name,
        dataset_id=split.facts.hub_id,
        dataset_config=split.facts.config,
        dataset_split=split.facts.split,
        dataset_revision=split.facts.revision,
        metric_type=metric_type,
        metric_name=f"{metric_name}, {'/'.join(split.kept_types)} only" if split.kept_types else metric_name,
        values=values,
    )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
