"""The compiled reader (harness/csrc); absent where the install found no C compiler, or no Linux."""

from collections.abc import Sequence
from typing import final

from llmbench.harness.read_poller import Readable

READ_BYTES: int
INTERFACE: int

def send_due(requests: Sequence[tuple[int, bytes, int]], /) -> list[tuple[int, int, int]]:
    """Send each (fd, payload, due_ns), in their order and none before it is due; spends processor time until then.

    For each (num_sent, began_ns, sent_ns): bytes that the socket took, 0 where it takes none now and -1 where it
    refuses; and the times just before and after.
    """

@final
class ChunkLog:
    """The columns of one answer. `ReadSet` adds to it, as long as `between_frames`, up to `limit_bytes` of bodies."""

    between_frames: bool
    def __new__(cls, limit_bytes: int) -> ChunkLog: ...
    @property
    def last_read_ns(self) -> int | None: ...
    @property
    def num_bytes(self) -> int: ...
    def append(self, read_ns: int, arrival_ns: int | None, body: bytes, coalesced: bool, /) -> None: ...
    def take(self) -> tuple[list[int], list[int | None], list[bytes], list[bool]]: ...

@final
class ReadSet:
    """Non-blocking sockets, by file descriptor, each read for a target."""

    def __new__(cls) -> ReadSet: ...
    def fileno(self) -> int: ...
    def add(self, fd: int, target: Readable, /) -> None: ...
    def remove(self, fd: int, /) -> None: ...
    def again(self, fd: int, /) -> None: ...
    def expect(self, fd: int, log: ChunkLog | None, /) -> None: ...
    def poll(self) -> int:
        """How many sockets `drain` is to read now."""

    def drain(
        self, offset_ns: int, max_wait_ns: int, until_ns: int, /
    ) -> tuple[Readable, bytes | int, int, int | None, int] | bool | None:
        """Read what was polled. None when all of it has been, True when `until_ns` has passed and at least one has.

        Otherwise a read that no log could take: its target, the bytes or the errno, when it returned, the kernel's
        stamp on the wall clock, and how many reads its socket has seen. `offset_ns` is the wall clock minus
        perf_counter; a stamp after its read, or more than `max_wait_ns` before it, no log takes.
        """

    def close(self) -> None: ...
