"""No call to the Hub waits for ever, or is repeated for ever."""

import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import constants, get_session, set_client_factory
from huggingface_hub.utils import _http

from distil_trainer.errors import PublishError

_PHASES = ("connect", "read", "write", "pool")
_lock = threading.Lock()
_active: dict[str, "Patience"] = {}  # by `name`: the jobs that are running
_xet_was_off = False


class Patience:
    """Limits on what one job asks the Hub; the client of huggingface_hub has none of its own.

    The requests of the job are known by its `name` in their user agent; uploads to a storage (PUT) have none, and are
    taken for those of any job that runs. While one does, uploads go through LFS: the client of xet has no limits.

    Args:
        seconds: after which a job that makes no progress ends. A third is for the first try of a call, a third for its
            repetitions, and a third for the last of these.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds / 3
        self.name = f"job-{uuid.uuid4().hex}"
        self.calls: dict[str, tuple[int, float]] = {}  # call -> how often it was made, time of the second

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While it is open, the limits hold."""
        global _xet_was_off
        _install()
        with _lock:
            if not _active:
                _xet_was_off = constants.HF_HUB_DISABLE_XET
            constants.HF_HUB_DISABLE_XET = True
            _active[self.name] = self
        try:
            yield
        finally:
            with _lock:
                del _active[self.name]
                if not _active:
                    constants.HF_HUB_DISABLE_XET = _xet_was_off

    def before(self, request: Any) -> None:
        """A time-out for the call, unless it was repeated for too long."""
        # Here, because some calls of the client ask for no time-out at all.
        request.extensions = {**request.extensions, "timeout": dict.fromkeys(_PHASES, self.seconds)}
        call = _call(request)
        times, since = self.calls.get(call, (0, 0.0))
        if times == 1:
            since = time.monotonic()
        elif times > 1 and time.monotonic() - since > self.seconds:
            raise PublishError(
                "server", f"The Hub did not answer {call} as it should for {self.seconds:g} s.", "Try again later."
            )
        self.calls[call] = (times + 1, since)

    def after(self, response: Any) -> None:
        """An answer, also a refusal, ends the count of its call; one that puts us off for too long is an error."""
        if "/api/" in str(response.request.url):
            response.read()  # an answer that is cut short is none: this raises
        if (wait := _asked_to_wait(response)) > self.seconds:
            raise PublishError("server", f"The Hub asks to wait for {wait} s.", "Publish again then.")
        if response.status_code < 500 and response.status_code not in (408, 409, 429):
            self.calls.pop(_call(response.request), None)
        elif response.status_code == 409:
            time.sleep(0.5)  # the client repeats "another conflicting operation is in progress" at once


def _call(request: Any) -> str:
    return f"{request.method} {str(request.url).partition('?')[0]}"  # the query of a storage's address is a secret


def _asked_to_wait(response: Any) -> int:
    after = response.headers.get("Retry-After", "")
    limit = re.search(r"\bt=(\d+)", response.headers.get("ratelimit", "")) if response.status_code == 429 else None
    return max(int(after) if after.isdigit() else 0, int(limit[1]) if limit else 0)


def _owner(request: Any) -> Patience | None:
    agent = request.headers.get("user-agent", "")
    of_any = next(iter(_active.values()), None) if request.method == "PUT" else None
    return next((job for name, job in list(_active.items()) if name in agent), of_any)


def _before(request: Any) -> None:
    if job := _owner(request):
        job.before(request)


def _after(response: Any) -> None:
    if job := _owner(response.request):
        job.after(response)


def _install() -> None:
    """Hooks for every client that huggingface_hub makes from now on; they do nothing while no job runs."""
    if _before in get_session().event_hooks["request"]:
        return
    make: Callable[[], Any] = _http._GLOBAL_CLIENT_FACTORY  # no public name gives it, and it may be the user's own

    def make_with_hooks() -> Any:
        client = make()
        hooks = client.event_hooks
        client.event_hooks = {"request": [*hooks["request"], _before], "response": [*hooks["response"], _after]}
        return client

    set_client_factory(make_with_hooks)
