"""Ask a Dask scheduler whether it answers, because `Client` waits forever for one that is silent."""

from __future__ import annotations

import asyncio

from distributed.core import rpc
from distributed.security import Security

SECONDS_TO_CONNECT = 20


def ask_scheduler(address: str, timeout_seconds: float) -> None:
    """Ask a scheduler for its identity.

    Raises:
        TimeoutError, OSError, ValueError: it does not answer, or the address is invalid.
    """

    async def ask() -> None:
        arguments = Security().get_connection_args("client")
        async with rpc(address, connection_args=arguments) as scheduler:
            await scheduler.identity(n_workers=0)

    asyncio.run(asyncio.wait_for(ask(), timeout_seconds))
