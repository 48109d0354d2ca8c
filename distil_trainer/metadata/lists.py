"""The words that the Hub knows, as its repositories have them: licences, tasks and codes of languages."""

import re

from iso639 import ALL_LANGUAGES, Language, LanguageNotFoundError

# docs/hub/repositories-licenses.md, from which the Hub takes its own list: huggingface/hub-docs 242f4a1, 2026-08-22.
LICENSES = frozenset(
    (
        *("afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m"),
        *("bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause"),
        *("bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"),
        *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0"),
        *("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0"),
        *("cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "creativeml-openrail-m"),
        *("deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2"),
        *("fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "grok2-community"),
        *("h-research", "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "llama3"),
        *("llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl"),
        *("odc-by", "ofl-1.1", "openmdw-1.0", "openmdw-1.1", "openrail", "openrail++", "osl-3.0", "other", "pddl"),
        *("postgresql", "unknown", "unlicense", "wtfpl", "zlib"),
    )
)
# packages/tasks/src/pipelines.ts: huggingface/huggingface.js fe42e68, 2026-08-21.
TASKS = frozenset(
    (
        *("any-to-any", "audio-classification", "audio-text-to-text", "audio-to-audio"),
        *("automatic-speech-recognition", "depth-estimation", "document-question-answering", "feature-extraction"),
        *("fill-mask", "graph-ml", "image-classification", "image-feature-extraction", "image-segmentation"),
        *("image-text-to-image", "image-text-to-text", "image-text-to-video", "image-to-3d", "image-to-image"),
        *("image-to-text", "image-to-video", "keypoint-detection", "mask-generation", "multiple-choice"),
        *("object-detection", "other", "question-answering", "reinforcement-learning", "robotics"),
        *("sentence-similarity", "summarization", "table-question-answering", "table-to-text"),
        *("tabular-classification", "tabular-regression", "tabular-to-text", "text-classification"),
        *("text-generation", "text-ranking", "text-retrieval", "text-to-3d", "text-to-audio", "text-to-image"),
        *("text-to-speech", "text-to-video", "time-series-forecasting", "token-classification", "translation"),
        *("unconditional-image-generation", "video-classification", "video-text-to-text", "video-to-video"),
        *("visual-document-retrieval", "visual-question-answering", "voice-activity-detection"),
        *("zero-shot-classification", "zero-shot-image-classification", "zero-shot-object-detection"),
    )
)
# In ISO 639, but not in packages/languages of the same commit: a deprecated code, and codes that are new.
_NOT_ON_THE_HUB = frozenset(
    (
        *("cls", "dyl", "hnm", "isv", "lfb", "luh", "oak", "olb", "osd", "rrm", "scz", "sh", "sjc", "tvg", "vsn"),
        *("ynb", "zhk"),
    )
)
_CODES = frozenset(
    code
    for language in ALL_LANGUAGES
    if language.status == "A"  # not retired
    for code in (language.part1, language.part3)
    if code and code not in _NOT_ON_THE_HUB
)


def is_language(code: str) -> bool:
    """Whether the Hub takes `code`: ISO 639-1 or 639-3, and not retired; "multilingual" or "code"."""
    return code in _CODES or code in ("multilingual", "code")


def language_meant(text: str) -> str | None:
    """The code for the English name of a language, for another code of it, or for a tag such as es-ES."""
    try:
        known = Language.match(text, strict_case=False)
        codes = [known.part1, known.part3, known.retire_change_to]
    except LanguageNotFoundError:
        codes = [re.split("[-_]", text.strip())[0].lower()]
    return next((code for code in codes if code and is_language(code)), None)


def language_name(code: str) -> str:
    """The English name and the code: "Swedish (sv)". The code itself if it is not known."""
    if code == "multilingual":
        return "many languages"
    if code == "code":
        return "program code"
    try:
        return f"{Language.match(code).name} ({code})"
    except LanguageNotFoundError:
        return code
