"""What went wrong with the Hub, as one error of ours with its cause and remedy."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from distil_trainer.errors import PublishError
from distil_trainer.plain import TOKEN

_BUSY = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Problem:
    """The error to raise, and whether it is worth another try (after `wait` seconds, if the Hub said so)."""

    error: PublishError
    passing: bool = False
    wait: float | None = None


def explain(error: Exception, repo_id: str, token: str) -> Problem:
    """What the first exception that says something says: in `error`, or in what caused it."""

    def problem(reason: str, what: str, remedy: str, **more: Any) -> Problem:
        return Problem(PublishError(reason, TOKEN.sub("***", what.replace(token, "***")), remedy), **more)

    problems = (_explained(cause, repo_id, problem) for cause in _chain(error))
    unexpected = f"Publishing failed: {type(error).__name__}: {error}."
    return next(
        (found for found in problems if found is not None),
        problem("unexpected", unexpected, "Publish again; what has arrived is not sent twice."),
    )


def _explained(error: BaseException, repo_id: str, problem: Callable[..., Problem]) -> Problem | None:
    if isinstance(error, PublishError):
        return Problem(error)
    if isinstance(error, OfflineModeIsEnabled):
        return problem("offline", "Offline mode is on.", "Unset HF_HUB_OFFLINE.")
    if isinstance(error, LocalTokenNotFoundError):
        return problem("token", "There is no access token.", "Run `hf auth login`, set HF_TOKEN, or pass token=.")
    if isinstance(error, GatedRepoError):
        return problem("gated", f"{repo_id} is gated, and this account may not read it.", "Ask for access on its page.")
    if isinstance(error, HfHubHTTPError):
        return _explained_answer(error, repo_id, problem)
    if isinstance(error, json.JSONDecodeError):
        return problem("server", "The Hub's answer was cut short or is no JSON.", "Try again later.", passing=True)
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.split(".")[0] in ("httpx", "httpx2"):
        what = f"The connection to the Hub failed: {type(error).__name__} {error}".strip() + "."
        return problem("network", what, "Check the network, and try again.", passing=True)
    if isinstance(error, ValueError):
        return problem("refused", f"The Hub refused what was sent: {error}.", "Mend it, and publish again.")
    return None


def _explained_answer(answer: HfHubHTTPError, repo_id: str, problem: Callable[..., Problem]) -> Problem:
    status = answer.response.status_code
    says = answer.server_message or f"status {status}"
    if status == 401:
        return problem("token", f"The Hub does not accept the access token ({says}).", "Log in again: `hf auth login`.")
    if status == 403:
        return problem(
            "permission",
            f"The token may not write to {repo_id} ({says}).",
            "Use a token with the right to write there.",
        )
    if status == 404:
        return problem("missing", f"{repo_id} was not found ({says}).", "Check its name, and the token's rights.")
    if status == 412:
        return problem("conflict", f"{repo_id} was changed at the same time.", "Publish again.", passing=True)
    if status in _BUSY:
        after = answer.response.headers.get("Retry-After", "")
        wait = float(after) if after.isdigit() else None
        return problem("server", f"The Hub is busy or broken ({says}).", "Try again later.", passing=True, wait=wait)
    return problem("refused", f"The Hub refused what was sent ({says}).", "Mend it, and publish again.")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
