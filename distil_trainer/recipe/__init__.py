"""The YAML of a run as frozen dataclasses: `load_recipe(DistillRecipe, "recipe.yaml", ["training.seed=1"])`.

Science only: what is learned from what, and how. Hardware is in the YAML that `accelerate launch` reads.
"""

from distil_trainer.recipe.models import (
    StudentSpec,
    TeacherSource,
    VocabularySpec,
    known_facts,
    load_model,
    load_tokenizer,
    model_path,
)
from distil_trainer.recipe.stages import (
    AdaptRecipe,
    DistillRecipe,
    FinetuneRecipe,
    GenerateRecipe,
    PrepareRecipe,
    PublishRecipe,
    TaskStage,
    newest_checkpoint,
)
from distil_trainer.recipe.strict import load_recipe
from distil_trainer.recipe.task import ScoredData, TaskData, UnlabelledData
from distil_trainer.recipe.text import TextData

__all__ = [
    "AdaptRecipe",
    "DistillRecipe",
    "FinetuneRecipe",
    "GenerateRecipe",
    "PrepareRecipe",
    "PublishRecipe",
    "ScoredData",
    "StudentSpec",
    "TaskData",
    "TaskStage",
    "TeacherSource",
    "TextData",
    "UnlabelledData",
    "VocabularySpec",
    "known_facts",
    "load_model",
    "load_recipe",
    "load_tokenizer",
    "model_path",
    "newest_checkpoint",
]
