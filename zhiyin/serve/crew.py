"""All workers: which model they have, and changing it."""

import asyncio
from collections.abc import Callable
from typing import Any

from zhiyin.errors import UserError
from zhiyin.serve.child import Child, WorkerState
from zhiyin.serve.settings import Settings

TICK_S = 5.0


class Crew:
    """The workers of a service; used in the event loop alone.

    Attributes:
        children: one for each device.
        is_held: nothing is begun: the model is being changed, or the service ends.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_message: Callable[[Child, dict[str, Any]], None],
        on_lost: Callable[[Child, str], None],
    ) -> None:
        """Nothing runs before `start`; the callables are those of `Child`."""
        self._settings = settings
        self._model = settings.model
        self._on_message, self._on_lost = on_message, on_lost
        self.children: list[Child] = []
        self.is_held = False
        self._tasks: list[asyncio.Task[None]] = []
        self._idle_since_s: float | None = None

    def start(self) -> None:
        """Start the processes; their models are loaded later."""
        for device in self._settings.devices:
            child = Child(
                device,
                self._settings.slots,
                load_order=self._load_order,
                on_message=self._on_message,
                on_lost=self._on_lost,
            )
            self.children.append(child)
            self._tasks.append(asyncio.create_task(child.keep()))
        self._tasks.append(asyncio.create_task(self._tick()))

    async def stop(self) -> None:
        """End the processes, whatever they do."""
        self.is_held = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(child.stop() for child in self.children))

    @property
    def ready(self) -> list[Child]:
        """Those that take work."""
        return [] if self.is_held else [child for child in self.children if child.is_ready]

    @property
    def is_busy(self) -> bool:
        """Whether anybody works on anything."""
        return any(child.jobs or child.streams for child in self.children)

    def states(self) -> list[WorkerState]:
        """As they are now."""
        return [child.state for child in self.children]

    @property
    def problem(self) -> str:
        """Why nothing can be done at present, one line; empty while something can, or will soon."""
        states = self.states()
        if not states or any(state.state not in ("failed", "lost") for state in states):
            return ""
        return "; ".join(dict.fromkeys(f"device {state.asked}: {state.error}" for state in states))

    def wake(self) -> None:
        """There is work: models that were unloaded are loaded again."""
        self._idle_since_s = None
        if not self.is_held:
            for child in self.children:
                if child.state.state == "unloaded":
                    child.load()

    async def until_ready(self, timeout_s: float) -> None:
        """Wait until somebody takes work.

        Raises:
            UserError: nobody does in this time.
        """
        try:
            await asyncio.wait_for(self._until(lambda: bool(self.ready)), timeout_s)
        except asyncio.TimeoutError:
            why = "; ".join(dict.fromkeys(state.error or state.state for state in self.states()))
            raise UserError(f"no worker is ready ({why}); try again later") from None

    async def load(self, model: str) -> None:
        """Change to another model.

        Raises:
            UserError: it does not load (the one before is loaded again), or the work does not end soon.
        """
        before, self._model = self._model, model
        try:
            await self.order("load")
        except UserError:
            self._model = before
            for child in self.children:
                if child.state.state == "failed":
                    child.load()
            raise

    async def order(self, what: str) -> None:
        """Have all ``load``, ``unload`` or ``reset`` when nobody works, and wait until they have done it.

        Raises:
            UserError: one cannot, or the work does not end soon.
        """
        if self.is_held:
            raise UserError("the workers are being changed already; try again when that is done")
        self.is_held = True
        try:
            await self._until_idle()
            for child in self.children:
                child.order(what)
            wanted = "unloaded" if what == "unload" else "ready"
            await self._until(lambda: all(one.state in (wanted, "failed", "lost") for one in self.states()))
            failed = [state.error for state in self.states() if state.state != wanted]
            if failed:
                raise UserError(failed[0])
        finally:
            self.is_held = False

    async def _until_idle(self) -> None:
        ends_s = asyncio.get_running_loop().time() + self._settings.drain_s
        while self.is_busy:
            if asyncio.get_running_loop().time() > ends_s:
                busy = sum(len(child.jobs) + len(child.streams) for child in self.children)
                raise UserError(f"{busy} recordings and live streams are being worked on; try again when they end")
            await asyncio.sleep(0.05)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        """Wait for something that a change of a worker brings."""
        while not is_so():
            waiting = [asyncio.ensure_future(child.changed.wait()) for child in self.children]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waiting:
                    one.cancel()

    async def _tick(self) -> None:
        """Ask for memory figures, and unload what was not used for long."""
        loop = asyncio.get_running_loop()
        while True:
            idle_s = self._settings.idle_unload_s
            await asyncio.sleep(min(TICK_S, idle_s / 4) if idle_s else TICK_S)
            for child in self.children:
                child.check()
            if self.is_busy or self.is_held:
                self._idle_since_s = None
            elif self._idle_since_s is None:
                self._idle_since_s = loop.time()
            elif idle_s and loop.time() - self._idle_since_s >= idle_s:
                for child in self.children:
                    if child.state.state == "ready":
                        child.order("unload")

    def _load_order(self, device: str) -> dict[str, Any]:
        settings = self._settings
        return {
            "model": self._model,
            "device": device,
            "backend": settings.backend,
            "dtype": settings.dtype,
            "allow_fallback": settings.allow_fallback,
            "threads": settings.threads,
            "workers": len(settings.devices),
        }
