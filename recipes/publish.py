"""Makes one page from the records of all stages, and publishes it with the student on the Hub.

    accelerate launch recipes/publish.py RECIPE.yaml [--dry-run] [key=value ...]

--dry-run writes the page into the student's folder, shows its metadata and every file that would be uploaded, and sends
nothing. After an error, run the same command again: what has arrived is not sent twice.
"""

import dataclasses
import sys
from pathlib import Path

import yaml
from accelerate.state import PartialState

from distil_trainer import Record, publish
from distil_trainer.data import find_files
from distil_trainer.errors import RecipeError
from distil_trainer.page import RECORD, write_page
from distil_trainer.recipe import PublishRecipe, load_recipe


def main(path: str, overrides: list[str]) -> None:
    """The page, then the upload."""
    overrides = ["dry_run=true" if word == "--dry-run" else word for word in overrides]
    recipe = load_recipe(PublishRecipe, path, overrides)
    if not PartialState().is_main_process:
        return
    page = write_page(recipe.folder, read_records(recipe))
    published = publish(
        recipe.folder,
        recipe.repo_id,
        private=recipe.private,
        revision=recipe.revision,
        create_pr=recipe.create_pr,
        message=recipe.message,
        timeout=recipe.timeout,
        dry_run=recipe.dry_run,
    )
    if published.commit is None:
        print(
            f"{yaml.safe_dump(published.contents.metadata, sort_keys=False, allow_unicode=True)}\n{published.contents}"
        )
        print(f"\nNothing was sent to {published.url}. The page: {page}")
    else:
        print(f"{published.contents}\n\n{published.url} (commit {published.commit}, {len(published.sent)} files sent)")


def read_records(recipe: PublishRecipe) -> list[Record]:
    """The student's own record, with its id on the Hub, and those of the other stages."""
    own = Record.load(Path(recipe.folder) / RECORD)
    if own.student is None:
        raise RecipeError(f"{recipe.folder}/{RECORD} has no student: it is not the record of a distillation.")
    student = dataclasses.replace(own.student, id=recipe.repo_id)
    others = [Record.load(file) for file in find_files(recipe.records)] if recipe.records else []
    return [dataclasses.replace(own, student=student), *others]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
