"""The fragments of recipes in the documentation are recipes, put into one."""

import re

import pytest
import yaml
from tiny_runs import ROOT

from distil_trainer.alignment import check_alignments, check_teachers
from distil_trainer.methods import METHODS, SETTINGS
from distil_trainer.recipe import DistillRecipe, FinetuneRecipe, load_recipe

PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
FRAGMENTS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
TASK_PAGE = (ROOT / "docs" / "task_distillation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_a_fragment_is_a_recipe(fragment, tmp_path):
    base = ROOT / "recipes" / "swedish_mbert" / "distill.yaml"
    tree = {"extends": str(base), **yaml.safe_load(fragment)}
    if "method" in tree:
        tree["alignments"] = []
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    recipe = load_recipe(DistillRecipe, path)
    alignments, task_weight = recipe.terms(*[12] * len(recipe.teachers))
    check_alignments(alignments, student_layers=6, teacher_layers=12)
    check_teachers(alignments, len(recipe.teachers))
    method = tree.get("method")
    if method is not None:
        assert task_weight == tree.get("task_weight", SETTINGS[method].task_weight)
        assert tree.get("student", {}).get("freeze_embeddings", False) == SETTINGS[method].freeze_embeddings


@pytest.mark.parametrize("fragment", re.findall(r"```yaml\n(.*?)```", TASK_PAGE, re.DOTALL))
def test_a_fragment_of_a_task_is_a_recipe(fragment, tmp_path):
    path = tmp_path / "recipe.yaml"
    base = {"extends": str(ROOT / "recipes" / "swedish_mbert" / "finetune_sucx3.yaml")}
    path.write_text(yaml.safe_dump(base | yaml.safe_load(fragment)))
    assert load_recipe(FinetuneRecipe, path).task_stage is not None


def test_every_method_is_there():
    named = {yaml.safe_load(fragment).get("method") for fragment in FRAGMENTS}
    assert named - {None} == set(METHODS) == set(SETTINGS)
    assert set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE)) == set(METHODS)
