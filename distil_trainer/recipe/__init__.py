"""The YAML of a run as frozen dataclasses: `load_recipe(DistillRecipe, "recipe.yaml", ["training.seed=1"])`.

Science only: what is learned from what, and how. Hardware is in the YAML that `accelerate launch` reads.
"""

from distil_trainer.recipe.models import StudentSpec, TeacherSource, model_path
from distil_trainer.recipe.stages import AdaptRecipe, DistillRecipe, FinetuneRecipe, PrepareRecipe, PublishRecipe
from distil_trainer.recipe.strict import load_recipe
from distil_trainer.recipe.task import NerData
from distil_trainer.recipe.text import TextData

__all__ = [
    "AdaptRecipe",
    "DistillRecipe",
    "FinetuneRecipe",
    "NerData",
    "PrepareRecipe",
    "PublishRecipe",
    "StudentSpec",
    "TeacherSource",
    "TextData",
    "load_recipe",
    "model_path",
]
