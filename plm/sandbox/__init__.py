"""Programs that a model wrote, run apart from everything: `run`, `run_many`, `contained`."""

from typing import Any

from plm.sandbox.limits import STATUSES, Limits, Outcome

__all__ = ["STATUSES", "Limits", "Outcome", "contained", "run", "run_many"]


def __getattr__(name: str) -> Any:
    # The supervisor imports this package too; without the client it is smaller to fork.
    if name in ("contained", "run", "run_many"):
        from plm.sandbox import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
