"""The instrument's own error: what a run recorded of the simulated engine against when that engine really sent.

Both ends stamp with the same clock of the same host, so a difference is an error and no drift. The engine stamps before
and after each send; in between, on loopback, the kernel has also delivered the bytes. Where the two lie far apart,
because the engine was kept from the processor in the middle of a send, nobody knows the true time, and the chunk is
counted and left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmbench.harness.errors import HarnessError
from llmbench.results.manifest import LagManifest
from llmbench.results.run_directory import Run

if TYPE_CHECKING:
    import pyarrow as pa

Ints = NDArray[np.int64]

# How closely the true send time must be known.
MAX_SEND_NS = 100_000


@dataclass(frozen=True, slots=True)
class InstrumentError:
    """Absolute errors in ns of measured requests that ended well, `num_answers` of them with `num_chunks` chunks.

    `ttft_ns` and `e2e_ns` have one entry per request: the stamp of the first chunk, and of the end, less the engine's,
    where that is known to MAX_SEND_NS.
    `itl_ns` has one per gap between two chunks, with the engine's own chunks as they were sent; `itl_read_ns` is what
    it would be with user-space stamps alone. `num_lost` chunks were sent and never recorded; of `num_unclear` the true
    time is not known to MAX_SEND_NS.
    """

    num_answers: int
    num_chunks: int
    num_lost: int
    num_unclear: int
    ttft_ns: Ints
    itl_ns: Ints
    itl_read_ns: Ints
    e2e_ns: Ints


def instrument_error(run: Run, log: Path, level: str | None = None, tokens_per_chunk: int = 1) -> InstrumentError:
    """Compare a run on the simulated engine, or one load level of it, with that engine's log.

    Raises HarnessError when the two have no answer in common.
    """
    sent = _read_log(log)
    requests = run.requests.to_pydict()
    chunks_of = _ChunksByRequest(run.chunks)
    ttft: list[int] = []
    e2e: list[int] = []
    gaps: list[Ints] = []
    read_gaps: list[Ints] = []
    num_answers = num_chunks = num_lost = num_unclear = 0
    for row, request_id in enumerate(requests["request_id"]):
        if requests["warmup"][row] or requests["status"][row] != "ok" or request_id not in sent:
            continue
        if level is not None and requests["level"][row] != level:
            continue
        truth = sent[request_id]
        stamps_ns, read_ns = (np.repeat(*columns) for columns in chunks_of(request_id, tokens_per_chunk))
        num_chunks += len(stamps_ns)
        if len(stamps_ns) != len(truth.sent_ns):
            num_lost += abs(len(truth.sent_ns) - len(stamps_ns))
            continue
        clear = truth.sent_ns - truth.began_ns <= MAX_SEND_NS
        num_unclear += int(np.count_nonzero(~clear))
        if clear[0]:
            ttft.append(abs(int(stamps_ns[0] - truth.sent_ns[0])))
        both_clear = clear[1:] & clear[:-1]
        gaps.append(np.abs(np.diff(stamps_ns - truth.sent_ns))[both_clear])
        read_gaps.append(np.abs(np.diff(read_ns - truth.sent_ns))[both_clear])
        num_answers += 1
        if truth.end_ns - truth.end_began_ns <= MAX_SEND_NS:
            e2e.append(abs(requests["end_ns"][row] - truth.end_ns))
    if not num_answers:
        raise HarnessError(f"{log} and {run.path} have no answer in common, so nothing can be compared.")
    return InstrumentError(
        num_answers=num_answers,
        num_chunks=num_chunks,
        num_lost=num_lost,
        num_unclear=num_unclear,
        ttft_ns=np.array(ttft, np.int64),
        itl_ns=np.concatenate(gaps),
        itl_read_ns=np.concatenate(read_gaps),
        e2e_ns=np.array(e2e, np.int64),
    )


def summarised(errors_ns: Ints) -> LagManifest:
    """Median, p99 and maximum of some errors."""
    if not errors_ns.size:
        return LagManifest(n=0, p50_ns=None, p99_ns=None, max_ns=None)
    p50, p99, top = (round(float(value)) for value in np.quantile(errors_ns, (0.5, 0.99, 1.0)))
    return LagManifest(n=int(errors_ns.size), p50_ns=p50, p99_ns=p99, max_ns=top)


class _Sent(NamedTuple):
    """One answer by the engine's own stamps, with an entry per chunk that carried tokens."""

    began_ns: Ints
    sent_ns: Ints
    end_began_ns: int
    end_ns: int


def _read_log(log: Path) -> dict[str, _Sent]:
    """Whole answers by request id. A last line that is not whole is left out."""
    sent: dict[str, _Sent] = {}
    with log.open() as lines:
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry["outcome"] == "done":
                began_ns, sent_ns = (np.array(entry[name], np.int64) for name in ("began_ns", "sent_ns"))
                sent[entry["request_id"]] = _Sent(began_ns, sent_ns, entry["end_began_ns"], entry["end_ns"])
    return sent


class _ChunksByRequest:
    def __init__(self, chunks: pa.Table) -> None:
        ids = chunks.column("request_id").to_numpy(zero_copy_only=False)
        # A request's rows lie together.
        starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]]) if len(ids) else np.zeros(0, np.int64)
        ends = np.r_[starts[1:], len(ids)]
        self._rows = {ids[start]: slice(start, end) for start, end in zip(starts, ends, strict=True)}
        self._t_ns, self._read_ns, self._tokens = (
            chunks.column(name).to_numpy() for name in ("t_ns", "read_ns", "tokens")
        )

    def __call__(self, request_id: str, tokens_per_chunk: int) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
        """(stamps, events per stamp) twice: by the truest clock and by the reads'. A read may hold several events."""
        rows = self._rows.get(request_id, slice(0, 0))
        num_events = -(-self._tokens[rows] // tokens_per_chunk)
        return (self._t_ns[rows], num_events), (self._read_ns[rows], num_events)
