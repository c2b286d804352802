"""TCP segments as they reach this host: headers and kernel stamps, from a ring that the kernel fills by itself."""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# linux/if_packet.h, linux/if_ether.h, asm-generic/socket.h
_PACKET_RX_RING, _PACKET_STATISTICS, _PACKET_VERSION, _PACKET_IGNORE_OUTGOING = 5, 6, 10, 23
_SOL_PACKET, _SO_ATTACH_FILTER, _TPACKET_V2, _ETH_P_ALL = 263, 26, 1, 3
_TP_STATUS_USER = 1

# A frame holds the ring's own header (32 bytes), a struct sockaddr_ll and the first bytes of the packet: IP and TCP
# headers are at most 120 together.
_FRAME_BYTES = 256
_SNAP_BYTES = 128
_BLOCK_BYTES = 1 << 20
# 5 s of 25,000 segments a second, should the reader be held up for that long.
RING_BYTES = 32 << 20

_HEADER = np.dtype(
    {
        "names": ["status", "length", "snap", "net", "sec", "nsec"],
        "formats": ["<u4", "<u4", "<u4", "<u2", "<u4", "<u4"],
        "offsets": [0, 4, 8, 14, 16, 20],
        "itemsize": _FRAME_BYTES,
    }
)

_SYN = 0x02

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Segments:
    """TCP segments in the order in which they arrived, one entry each in every array.

    `flow` is `flow_key` of the ports, `seq` the sequence number of the first of `num_bytes` bytes of payload,
    `wall_ns` the kernel's stamp in CLOCK_REALTIME.
    """

    flow: Ints
    seq: Ints
    num_bytes: Ints
    is_syn: npt.NDArray[np.bool_]
    wall_ns: Ints


def flow_key(local_port: int, remote_port: int) -> int:
    """Which connection a segment belongs to. Two servers on one port number share a key when a local port does."""
    return remote_port << 16 | local_port


class PacketRing:
    """Captures incoming TCP segments from `ports`. Raises PermissionError without CAP_NET_RAW."""

    def __init__(self, ports: Iterable[int], ring_bytes: int = RING_BYTES) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        try:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
            # On loopback every packet would come twice, once going out and once coming in.
            self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            _attach_filter(self._socket, sorted(set(ports)))
            num_frames = ring_bytes // _FRAME_BYTES
            request = struct.pack("IIII", _BLOCK_BYTES, ring_bytes // _BLOCK_BYTES, _FRAME_BYTES, num_frames)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
            self._memory = mmap.mmap(self._socket.fileno(), ring_bytes)
        except BaseException:
            self._socket.close()
            raise
        self._bytes = np.frombuffer(self._memory, np.uint8).reshape(num_frames, _FRAME_BYTES)
        self._headers = np.frombuffer(self._memory, _HEADER)
        self._next = 0
        self._num_dropped = 0

    def take(self) -> Segments:
        """What has arrived since the last call."""
        batches = []
        # At most one round: up to the ring's end, then from its start.
        for _ in range(2):
            count = self._count_ready()
            if count == 0:
                break
            chosen = slice(self._next, self._next + count)
            batches.append(_parse(self._headers[chosen], self._bytes[chosen]))
            self._headers["status"][chosen] = 0
            self._next = (self._next + count) % len(self._headers)
            if self._next:
                break
        return Segments(*(np.concatenate([getattr(part, name) for part in batches] or [_EMPTY]) for name in _NAMES))

    def _count_ready(self) -> int:
        """How many frames from `_next` on, and not beyond the ring's end, the kernel has handed over."""
        status = self._headers["status"][self._next :]
        count, step = 0, 256
        while count < len(status):
            ready = status[count : count + step] & _TP_STATUS_USER
            if not ready.all():
                return count + int(ready.argmin())
            count += len(ready)
            step *= 2
        return count

    def num_dropped(self) -> int:
        """Segments that found the ring full, so far."""
        # Reading the counters resets them.
        _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._num_dropped += dropped
        return self._num_dropped

    def close(self) -> None:
        self._socket.close()
        # The arrays look into the mapping, which cannot be unmapped under them.
        del self._bytes, self._headers
        self._memory.close()


_NAMES = ("flow", "seq", "num_bytes", "is_syn", "wall_ns")
_EMPTY = np.empty(0, np.int64)


def _parse(headers: npt.NDArray[np.void], frames: npt.NDArray[np.uint8]) -> Segments:
    rows = np.arange(len(frames))
    net = headers["net"].astype(np.int64)

    def byte(offset: Ints) -> Ints:
        return frames[rows, offset].astype(np.int64)

    def word(offset: Ints) -> Ints:
        return byte(offset) << 8 | byte(offset + 1)

    is_v4 = byte(net) >> 4 == 4
    tcp = net + np.where(is_v4, (byte(net) & 15) * 4, 40)
    declared = word(net + np.where(is_v4, 2, 4))
    # Not the frame's length, which may hold Ethernet's padding; but a packet of more than 64 KiB declares 0.
    ip_length = np.where(declared == 0, headers["length"], declared + np.where(is_v4, 0, 40))
    return Segments(
        flow=word(tcp) << 16 | word(tcp + 2),
        seq=word(tcp + 4) << 16 | word(tcp + 6),
        num_bytes=ip_length - (tcp - net) - (byte(tcp + 12) >> 4) * 4,
        is_syn=byte(tcp + 13) & _SYN != 0,
        wall_ns=headers["sec"].astype(np.int64) * 1_000_000_000 + headers["nsec"],
    )


def _attach_filter(sock: socket.socket, ports: list[int]) -> None:
    """Let through unfragmented TCP over IPv4 or IPv6 from one of `ports`, cut to the headers.

    A classic BPF program; offsets count from the IP header. IPv6 extension headers are not followed.
    """
    # (label, code, operand, where to if true, where to if false)
    program = (
        ("", 0x30, 0, "", ""),  # load byte 0
        ("", 0x74, 4, "", ""),  # shift right: the IP version
        ("", 0x15, 6, "v6", ""),
        ("", 0x30, 9, "", ""),
        ("", 0x15, socket.IPPROTO_TCP, "", "reject"),
        ("", 0x28, 6, "", ""),  # load half-word 6
        ("", 0x45, 0x1FFF, "reject", ""),  # a later fragment has no ports
        ("", 0xB1, 0, "", ""),  # index: length of the IPv4 header
        ("", 0x48, 0, "", ""),  # load half-word at the index: the source port
        ("", 0x15, ports[0], "accept", "ports"),
        ("v6", 0x30, 6, "", ""),
        ("", 0x15, socket.IPPROTO_TCP, "", "reject"),
        ("", 0x28, 40, "", ""),
        *(("ports" if port == ports[0] else "", 0x15, port, "accept", "") for port in ports),
        ("reject", 0x06, 0, "", ""),
        ("accept", 0x06, _SNAP_BYTES, "", ""),
    )
    places = {label: place for place, (label, *_) in enumerate(program) if label}
    code = b"".join(
        struct.pack("HBBI", code, places[yes] - place - 1 if yes else 0, places[no] - place - 1 if no else 0, operand)
        for place, (_, code, operand, yes, no) in enumerate(program)
    )
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: the number of instructions, and a pointer to them.
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(buffer)))
