"""What models are fine-tuned on: labelled data, how it becomes a model's input, how it is scored."""

from distil_trainer.tasks.kinds import TASKS, Task, load_for_task
from distil_trainer.tasks.splits import Split, read_splits

__all__ = ["TASKS", "Split", "Task", "load_for_task", "read_splits"]
