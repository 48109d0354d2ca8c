"""No call to the Hub waits for ever, or is repeated for ever."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import get_session

from distil_trainer.errors import PublishError

_PHASES = ("connect", "read", "write", "pool")


class Patience:
    """Limits on the client of huggingface_hub, which has none of its own.

    Args:
        seconds: after which a job that makes no progress ends. A third is for the first try of a call, a third for its
            repetitions, and a third for the last of these.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds / 3
        self.calls: dict[str, tuple[int, float]] = {}  # call -> how often it was made, time of the second

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While it is open, the client of huggingface_hub has these limits. Threads of the upload share it."""
        session = get_session()
        hooks = session.event_hooks
        session.event_hooks = {
            "request": [*hooks["request"], self._before],
            "response": [*hooks["response"], self._after],
        }
        try:
            yield
        finally:
            session.event_hooks = hooks

    def _before(self, request: Any) -> None:
        # Here, because some calls of the client ask for no time-out at all.
        request.extensions = {**request.extensions, "timeout": dict.fromkeys(_PHASES, self.seconds)}
        call = f"{request.method} {request.url}"
        times, since = self.calls.get(call, (0, 0.0))
        if times == 1:
            since = time.monotonic()
        elif times > 1 and time.monotonic() - since > self.seconds:
            raise PublishError(
                "server", f"The Hub did not answer {call} as it should for {self.seconds:g} s.", "Try again later."
            )
        self.calls[call] = (times + 1, since)

    def _after(self, response: Any) -> None:
        if "/api/" in str(response.request.url):
            response.read()  # an answer that is cut short is none: this raises
        if response.is_success or response.is_redirect:
            self.calls.pop(f"{response.request.method} {response.request.url}", None)
        elif response.status_code == 409:
            time.sleep(0.5)  # the client repeats "another conflicting operation is in progress" at once
