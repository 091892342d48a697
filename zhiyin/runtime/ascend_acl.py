"""pyACL with every result checked: the process, one card at a time, its memory. Nothing here knows what a model is.

What was read: the pyACL documentation of CANN 8.0 to 8.5 ("aclpythondevg": init, finalize, set_device, reset_device,
set_context, malloc_host, memcpy) and its table of return codes (aclError). Not run on hardware by this project.
"""

import atexit
import ctypes
import importlib
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zhiyin.errors import UserError

SET_ENV = "source /usr/local/Ascend/ascend-toolkit/set_env.sh"
_REPEATED = 100002
_HUGE_FIRST, _H2D, _D2H = 0, 1, 2
_MEMORY_KINDS = (1, 0)  # HBM, DDR: a chip has one of them, and says 0 of the other
_FULL = {200000, 207001, 207018, 245000, 245002}
_BUSY = {107019, 107020, 207005, *range(207007, 207013)}
_LOST = {207004, 500003, 500004, *range(507000, 508000)}  # runtime, driver, hardware: only a reset helps, if anything

_LOGS = "see the newest file under ~/ascend/log, and zhiyin doctor"
_CAUSES = {  # code -> what it means, what to do
    100001: ("pyACL is not initialised", "another part of the process ended it; start again"),
    100039: ("a compile-time stub was loaded instead of the driver", f"take devlib out of LD_LIBRARY_PATH; {SET_ENV}"),
    107000: ("a handle or an argument is refused", "the device was reset by someone else; start again"),
    107001: ("there is no device of this number", "zhiyin doctor lists them; ASCEND_RT_VISIBLE_DEVICES renumbers them"),
    107002: ("this thread has no context", "report it: zhiyin sets it before each call"),
    145002: ("the model file cannot be read", "check that it is there and may be read"),
    145003: ("the model is not loaded", "the device was reset by someone else; start again"),
    145019: ("a library of CANN was not found", SET_ENV),
    148049: ("ASCEND_OPP_PATH is not set", SET_ENV),
    207004: ("the device is not available", "zhiyin doctor says whether its driver answers"),
    207006: ("no permission", "the user must be in the group that owns the device files, usually HwHiAiUser"),
    500002: ("the graph engine failed", _LOGS),
    507008: ("the chip's version cannot be read", "driver and CANN do not match; zhiyin doctor compares them"),
    507010: ("the device's heartbeat is lost", "zhiyin doctor; if it stays away, restart the card or the machine"),
    507014: ("a kernel ran into its time limit", _LOGS),
    507015: ("a kernel failed on the AI core", _LOGS),
    507018: ("a kernel failed on the AI CPU", _LOGS),
    507033: ("the device does not start", "zhiyin doctor; if it stays away, restart the card or the machine"),
    507054: ("memory of the device is broken (several bits)", "restart the card; if it comes again, replace it"),
    507899: ("the driver failed, often after an earlier fault", _LOGS),
    507901: ("the link between host and device was closed", "zhiyin doctor; restart the card or the machine"),
    545001: ("the model does not load", "it is damaged, or of another chip or a newer CANN: run zhiyin atc again"),
}


class DeviceError(UserError):
    """A call of pyACL failed; `code` is what it returned."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


class DeviceLost(DeviceError):
    """What was on the device is gone; it must be reset before it can be used again."""


class DeviceFull(DeviceError):
    """The memory of the device does not suffice."""


class DeviceBusy(DeviceError):
    """Others hold what is needed; the same call may succeed a little later."""


def failed(acl: Any, code: int, what: str) -> DeviceError:
    """The error for a code that a call returned."""
    kinds = ((_FULL, DeviceFull), (_BUSY, DeviceBusy), (_LOST, DeviceLost))
    kind = next((kind for codes, kind in kinds if code in codes), DeviceError)
    unknown = {
        DeviceFull: ("the device's memory is full", "close other programs on it, or use smaller buckets"),
        DeviceBusy: ("the device is busy", "other programs hold its streams or models; try again later"),
        DeviceLost: ("the device failed", _LOGS),
        DeviceError: ("pyACL refused", _LOGS),
    }[kind]
    cause, advice = _CAUSES.get(code, unknown)
    said = str(acl.get_recent_err_msg() or "").strip().split("\n")[0]
    return kind(f"{what}: {cause} (acl code {code}{f', {said}' if said else ''}); {advice}", code)


class Owner(Protocol):
    """Who has something on a card and can give all of it back, also when the card is lost."""

    def release(self) -> None:
        """Free everything; codes are ignored, for nothing can be done about them."""
        ...


class Card:
    """One device: a context of our own, a lock, and who uses it.

    CANN counts `set_device` and `reset_device`, and a reset does nothing while a count is left. So all that use a card
    share this one object: it sets the device once, and a reset is a reset.
    """

    def __init__(self, acl: Any, number: int):
        self.acl, self.number = acl, number
        self.lock = threading.RLock()
        self.owners: list[Owner] = []
        self.dropped: deque[Owner] = deque()  # forgotten without `close`: released at the next turn
        self.context: int | None = None
        self._open()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The card for this thread alone, with its context set; a context belongs to a thread."""
        with self.lock:
            if self.context is None:
                self._open()
            self.check(self.acl.rt.set_context(self.context), "set the context")
            while self.dropped:
                self._forget(self.dropped.popleft())
            yield

    def reset(self) -> None:
        """Give back all that this process has on the device, and begin anew; owners load again when they need to.

        Raises:
            DeviceLost: it does not come back.
        """
        with self.lock:
            for owner in self.owners:
                owner.release()
            self._close()
            self._open()

    def leave(self, owner: Owner) -> bool:
        """Release an owner; whether it was the last."""
        with self.lock:
            if self.context is not None:
                self.acl.rt.set_context(self.context)
            self._forget(owner)
            while self.dropped:
                self._forget(self.dropped.popleft())
            if not self.owners:
                self._close()
            return not self.owners

    def check(self, code: int, what: str) -> None:
        """Raise what a code other than 0 means."""
        if code:
            raise failed(self.acl, code, f"device {self.number}, {what}")

    def free_bytes(self) -> int | None:
        """Memory that is free on the device; nothing where the chip does not say."""
        for kind in _MEMORY_KINDS:
            free, total, code = self.acl.rt.get_mem_info(kind)
            if code == 0 and total:
                return int(free)
        return None

    def block(self, size_bytes: int, undo: ExitStack) -> int:
        """Memory on the device."""
        address, code = self.acl.rt.malloc(size_bytes, _HUGE_FIRST)
        self.check(code, f"memory of {size_bytes / 1e6:.1f} MB")
        undo.callback(self.acl.rt.free, address)
        return int(address)

    def pinned(self, size_bytes: int, undo: ExitStack) -> tuple[int, NDArray[np.uint8]]:
        """Memory of the host that the device reaches without a copy in between, zeroed: its address and its bytes."""
        address, code = self.acl.rt.malloc_host(size_bytes)
        self.check(code, f"host memory of {size_bytes / 1e6:.1f} MB")
        undo.callback(self.acl.rt.free_host, address)
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address))
        raw[:] = 0
        return int(address), raw

    def zero(self, address: int, size_bytes: int) -> None:
        """Set memory of the device to zero."""
        self.check(self.acl.rt.memset(address, size_bytes, 0, size_bytes), "clear memory")

    def to_device(self, address: int, host_address: int, size_bytes: int) -> None:
        """Copy from pinned memory."""
        self.check(self.acl.rt.memcpy(address, size_bytes, host_address, size_bytes, _H2D), "copy to the device")

    def to_host(self, host_address: int, address: int, size_bytes: int) -> None:
        """Copy to pinned memory."""
        self.check(self.acl.rt.memcpy(host_address, size_bytes, address, size_bytes, _D2H), "copy from the device")

    def _forget(self, owner: Owner) -> None:
        owner.release()
        if owner in self.owners:
            self.owners.remove(owner)

    def _open(self) -> None:
        self.check(self.acl.rt.set_device(self.number), "open it")
        context, code = self.acl.rt.create_context(self.number)
        if code:
            error = failed(self.acl, code, f"device {self.number}, create a context")
            self.acl.rt.reset_device(self.number)
            raise error
        self.context = context

    def _close(self) -> None:
        if self.context is not None:  # explicit contexts go before the device is reset, says the documentation
            self.acl.rt.destroy_context(self.context)
            self.acl.rt.reset_device(self.number)
            self.context = None


class Process:
    """pyACL is begun once per process and ended once, when the interpreter exits; cards are shared in between.

    It is not ended together with the last card: CANN wants `finalize` before exit and once, and says nothing of
    beginning again after it.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.acl: Any = None
        self.mine = False  # torch_npu may have begun it; then it also ends it
        self.cards: dict[int, Card] = {}

    def begin(self) -> Any:
        """The module `acl`, initialised.

        Raises:
            UserError: it is not installed, or does not begin.
        """
        with self.lock:
            if self.acl is None:
                acl = _import()
                code = acl.init()
                if code not in (0, _REPEATED):
                    raise failed(acl, code, "begin pyACL")
                self.acl, self.mine = acl, code == 0
                atexit.register(self.end)
            return self.acl

    def count(self) -> int:
        """How many devices this process may use."""
        number, code = self.begin().rt.get_device_count()
        if code:
            raise failed(self.acl, code, "count the devices")
        return int(number)

    def enter(self, number: int, owner: Owner) -> Card:
        """The card of a number, opened for its first owner."""
        with self.lock:
            card = self.cards.get(number)
            if card is None:
                card = self.cards[number] = Card(self.begin(), number)
            card.owners.append(owner)
            return card

    def leave(self, card: Card, owner: Owner) -> None:
        """Release an owner; the last one closes the card."""
        with self.lock:
            if card.leave(owner) and self.cards.get(card.number) is card:
                del self.cards[card.number]

    def end(self) -> None:
        """Give everything back; for the exit of the interpreter, where nobody uses a card any more."""
        with self.lock:
            for card in self.cards.values():
                for owner in [*card.owners]:
                    card.leave(owner)
            self.cards.clear()
            if self.acl is not None and self.mine:
                self.acl.finalize()
            self.acl, self.mine = None, False
            atexit.unregister(self.end)


PROCESS = Process()


def _import() -> Any:
    try:
        return importlib.import_module("acl")
    except ImportError as error:
        raise UserError(
            f"a bundle of OM graphs needs pyACL, which does not load ({error}): install CANN and {SET_ENV}; "
            "zhiyin doctor says what is missing"
        ) from error
