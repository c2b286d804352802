"""Power, energy, clocks, memory and utilisation of NVIDIA GPUs, by NVML."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from llmbench.results.telemetry import Value


class GpuMeter:
    """Reads the GPUs in `visible` (numbers or UUIDs, as in CUDA_VISIBLE_DEVICES; None for all).

    `nvml` is the module `pynvml`, or what stands in for it. A quantity that a device does not tell is left out.
    """

    def __init__(self, nvml: Any, visible: Sequence[str] | None = None) -> None:
        self._nvml = nvml
        nvml.nvmlInit()
        self._devices = list(self._handles(visible))

    def read(self) -> list[tuple[str, list[Value]]]:
        """(number or UUID, values) for each GPU that tells anything."""
        return [(name, values) for name, device in self._devices if (values := self._values(device))]

    def close(self) -> None:
        self._nvml.nvmlShutdown()

    def _handles(self, visible: Sequence[str] | None) -> Iterator[tuple[str, Any]]:
        nvml = self._nvml
        for name in map(str, range(nvml.nvmlDeviceGetCount())) if visible is None else visible:
            by_number, by_uuid = nvml.nvmlDeviceGetHandleByIndex, nvml.nvmlDeviceGetHandleByUUID
            try:
                yield name, by_number(int(name)) if name.isdecimal() else by_uuid(name)
            except nvml.NVMLError:
                # CUDA ends the list at the first name that it does not know.
                return

    def _values(self, device: Any) -> list[Value]:
        nvml = self._nvml
        # NVML's units: mW, mJ since the driver was loaded, MHz, bytes, per cent.
        readers: tuple[tuple[str, Callable[[], float]], ...] = (
            ("power", lambda: nvml.nvmlDeviceGetPowerUsage(device) / 1e3),
            ("energy", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(device) / 1e3),
            ("sm_clock", lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM) * 1e6),
            ("memory_clock", lambda: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM) * 1e6),
            ("memory_used", lambda: float(nvml.nvmlDeviceGetMemoryInfo(device).used)),
            ("utilisation", lambda: nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100),
        )
        values = []
        for name, read in readers:
            try:
                values.append(Value(name, read()))
            except nvml.NVMLError:
                continue
        return values


def gpu_meter(visible: Sequence[str] | None) -> GpuMeter | None:
    """The meter of this machine's GPUs; None where there are none, or no driver or no nvidia-ml-py to ask them."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        return GpuMeter(pynvml, visible)
    except pynvml.NVMLError:
        return None
