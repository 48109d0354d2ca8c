"""Knowledge distillation of Transformers with the Hugging Face `Trainer`."""

from distil_trainer import methods
from distil_trainer.alignment import Alignment, layer_map
from distil_trainer.card import render_card
from distil_trainer.hub import publish
from distil_trainer.record import Record
from distil_trainer.schedule import Schedule
from distil_trainer.student import build_student, student_config
from distil_trainer.trainer import DistillationTrainer

__version__ = "0.1.0"
__all__ = [
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
