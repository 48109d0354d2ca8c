"""The teacher cache: what the alignments read of a teacher, computed once for each row and kept on disk.

A row is found by what the teacher reads of it, so its place, its batch and the padding do not matter. It only helps
where the same rows come again: in later epochs, or in later runs.
"""

from distil_trainer.teacher_cache.cached import CachedTeacher
from distil_trainer.teacher_cache.settings import TeacherCache, caches_of

__all__ = ["CachedTeacher", "TeacherCache", "caches_of"]
