"""The public names, and which module may import which."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import distil_trainer

PACKAGE = Path(distil_trainer.__file__).parent
LEAVES = {"errors", "blocks", "files", "fingerprint"}  # every module may import these
ALLOWED = {
    "errors": set(),
    "blocks": set(),
    "files": set(),
    "fingerprint": set(),
    "plain": set(),
    "plain_yaml": set(),
    "losses": {"losses"},
    "schedule": set(),
    "alignment": {"losses", "schedule"},
    "methods": {"alignment", "schedule"},
    "positions": set(),
    "meter": set(),
    "pieces": set(),
    "vocabulary": {"pieces"},
    "word_tables": set(),
    "channels": {"attention_calls", "probe"},
    "width": {"channels", "importance", "positions", "probe"},
    "slicing": {"channels", "width"},
    "student": {"slicing", "width", "word_tables"},
    "plan": {"facts"},
    "record": {"plain"},
    "probe": set(),
    "head": {"losses", "probe"},
    "projection": {"alignment", "sharding"},
    "attention_calls": {"losses"},
    "decoder": set(),
    "sharding": set(),
    "zero": set(),
    "features": {"alignment", "attention_calls", "head", "losses", "projection", "sharding"},
    "reach": set(),
    "loading": set(),
    "first_batches": {"alignment", "positions"},
    "importance": {"losses", "positions", "probe"},
    "balance": {"alignment"},
    "compatibility": {"alignment"},
    "teacher": {"alignment", "features", "head", "loading", "projection", "word_tables", "zero"},
    "terms": {"alignment", "features", "losses", "positions", "schedule"},
    "teacher_cache": {
        "alignment",
        "features",
        "head",
        "losses",
        "positions",
        "schedule",
        "teacher",
        "teacher_cache",
        "terms",
    },
    "facts": {"plain", "record", "schedule"},
    "speed": {"facts", "record"},
    "plots": {"record"},
    "markdown": {"metadata", "record"},
    "comparison": {"record"},
    "kept": set(),
    "metadata": {"metadata", "plain_yaml", "record"},
    "card": {"comparison", "kept", "markdown", "record"},
    "page": {"card", "kept", "metadata", "plots", "record"},
    "hub": {"hub", "metadata", "plain", "record"},
    "checkpoints": set(),
    "surviving": {"checkpoints"},
    "nonfinite": {"features", "losses", "positions", "sharding", "surviving"},
    "pushing": {"hub", "surviving"},
    "learning": {
        "alignment",
        "first_batches",
        "nonfinite",
        "probe",
        "projection",
        "pushing",
        "reach",
        "schedule",
        "sharding",
        "teacher",
    },
    "run_record": {"facts", "record", "trainer"},  # the trainer for its type only
    "trainer": {
        "alignment",
        "balance",
        "compatibility",
        "decoder",
        "features",
        "head",
        "learning",
        "meter",
        "nonfinite",
        "page",
        "positions",
        "run_record",
        "schedule",
        "sharding",
        "teacher",
        "teacher_cache",
        "terms",
        "zero",
    },
    "data": set(),
    "corpora": {"corpora"},
    "metrics": {"data"},
    "hub_data": set(),
    "recipe": {
        "alignment",
        "checkpoints",
        "facts",
        "loading",
        "methods",
        "plain_yaml",
        "recipe",
        "record",
        "schedule",
        "teacher_cache",
    },
    "tasks": {"data", "hub_data", "loading", "metrics", "recipe", "record", "tasks", "text"},
    "text": {"corpora", "data", "hub_data", "recipe", "record", "text"},
}


def module_name(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "distil_trainer":
            parts = node.module.split(".")[1:]
            yield from [parts[0]] if parts else [alias.name for alias in node.names]


SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py" or path.parent != PACKAGE]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_direction_of_the_data(path):
    assert set(imported_modules(path)) <= ALLOWED[module_name(path)] | LEAVES


def test_every_module_has_its_place():
    assert {module_name(path) for path in SOURCES} == set(ALLOWED)


def test_losses_import_torch_and_the_standard_library_only():
    for path in (PACKAGE / "losses").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            roots = {name.split(".")[0] for name in names}
            assert roots <= {"torch", "distil_trainer", *sys.stdlib_module_names}


def test_public_names():
    assert distil_trainer.__all__ == [
        "Alignment",
        "DistillationTrainer",
        "Record",
        "Schedule",
        "build_student",
        "layer_map",
        "methods",
        "publish",
        "render_card",
        "student_config",
    ]
    assert all(hasattr(distil_trainer, name) for name in distil_trainer.__all__)


def test_the_built_wheel_works_from_another_directory(tmp_path):
    root = PACKAGE.parent
    if not (root / "setup.cfg").exists():
        pytest.skip("not run from the source tree")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = tmp_path / "source"  # a build writes beside its source
    ignore = shutil.ignore_patterns(".*", "runs", "*.egg-info", "tests", "build", "__pycache__")
    shutil.copytree(root, source, ignore=ignore)
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("distil_trainer-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)], check=True)
    code = (
        "import distil_trainer as d; from distil_trainer.record import ModelFacts;"
        "print(d.__file__); print(d.render_card(d.Record(stage='distill', student=ModelFacts(name='s'))))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""},
        cwd=tmp_path / "site",
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path / "site") in result.stdout
    assert "# s" in result.stdout
    assert (tmp_path / "site" / "distil_trainer" / "py.typed").exists()
