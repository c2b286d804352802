"""Copies of whole KV blocks, within a cache or between a cache and host memory."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Collection, Iterable, Iterator

import torch

from llmbench.reference_engine.errors import KernelsUnavailableError
from llmbench.reference_engine.kernels.cuda_build import load_cuda_library

Pair = tuple[int, int]
# What one thread of csrc/cuda/copy_blocks.cu moves.
_UNIT = 16


def copy_blocks(target: torch.Tensor, source: torch.Tensor, pairs: Collection[Pair]) -> None:
    """For each (source block, target block), in this order and in every plane: modifies `target`.

    target, source [L, 2, num_blocks, ...], contiguous, of one dtype and equal but in their numbers of blocks; the same
    tensor or two. If either is on a GPU it is one launch on the current stream, and the other is there too or in pinned
    host memory.
    """
    if not pairs:  # as in nearly every step
        return
    if goes_by_kernel(target, source):
        for run in independent_runs(pairs, target is source):
            _launch(target, source, run)
        return
    # On a GPU too, a launch each, where blocks are no multiples of 16 bytes: in int8, with few heads and tokens.
    for from_block, to_block in pairs:
        target[:, :, to_block] = source[:, :, from_block]


def goes_by_kernel(target: torch.Tensor, source: torch.Tensor) -> bool:
    """Whether either is on a GPU, and their blocks are what the kernel moves: multiples of 16 bytes."""
    return (target.is_cuda or source.is_cuda) and block_bytes(target) % _UNIT == 0


def block_bytes(cache: torch.Tensor) -> int:
    """Of one block in one plane of a cache [L, 2, num_blocks, ...], which may have no block at all."""
    return math.prod(cache.shape[3:]) * cache.element_size()


def independent_runs(pairs: Iterable[Pair], within: bool) -> Iterator[list[Pair]]:
    """The pairs in their order, cut so that those of a run may be copied in any order, or at once.

    within: source and target are one cache, so that a block may be read by one pair and written by another.
    """
    run: list[Pair] = []
    read: set[int] = set()
    written: set[int] = set()
    for source, target in pairs:
        if target in written or (within and (source in written or target in read)):
            yield run
            run, read, written = [], set(), set()
        run.append((source, target))
        read.add(source)
        written.add(target)
    if run:
        yield run


def _launch(target: torch.Tensor, source: torch.Tensor, pairs: list[Pair]) -> None:
    library = load_cuda_library("copy_blocks")
    units = block_bytes(target) // _UNIT
    device = target.device if target.is_cuda else source.device
    on_device = torch.tensor(pairs, dtype=torch.int64).to(device)
    with torch.cuda.device(device):
        error = library.llmbench_copy_blocks(
            _pointer(target),
            _pointer(source),
            _pointer(on_device),
            len(pairs),
            target.shape[0] * target.shape[1],
            *(ctypes.c_int64(size) for size in (units, units * target.shape[2], units * source.shape[2])),
            ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
        )
    if error:
        library.llmbench_error_text.restype = ctypes.c_char_p
        text = library.llmbench_error_text(error).decode()
        raise KernelsUnavailableError(f"KV blocks could not be copied on {device}: {text}.")


def _pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    assert tensor.is_contiguous()
    return ctypes.c_void_p(tensor.data_ptr())
