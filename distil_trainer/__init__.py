"""Knowledge distillation of Transformers with the Hugging Face `Trainer`."""

from distil_trainer import methods
from distil_trainer.alignment import Alignment
from distil_trainer.student import build_student, student_config
from distil_trainer.trainer import DistillationTrainer

__version__ = "0.1.0"
__all__ = ["Alignment", "DistillationTrainer", "build_student", "methods", "student_config"]
