"""Energy of the processor packages as Linux' powercap tells it (RAPL; AMD's packages have it under the same name)."""

from __future__ import annotations

from pathlib import Path

from llmbench.results.telemetry import Value

POWERCAP = Path("/sys/class/powercap")


class CpuEnergyMeter:
    """Joules since the meter was made, of all packages together. Their counters wrap after minutes, which is made good
    as long as they are read more often than that."""

    def __init__(self, root: Path = POWERCAP) -> None:
        # intel-rapl:0 is a package; intel-rapl:0:1 is a part of it and counted there.
        self._zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        self._last_uj = {zone: uj for zone in self._zones if (uj := _number(zone / "energy_uj")) is not None}
        self._total_uj = 0

    def read(self) -> list[Value]:
        """`cpu_energy`; nothing where no counter may be read (most systems let root alone read them)."""
        if not self._last_uj:
            return []
        for zone, last_uj in list(self._last_uj.items()):
            uj = _number(zone / "energy_uj")
            if uj is None:
                return []
            wrapped = uj < last_uj
            self._total_uj += uj - last_uj + ((_number(zone / "max_energy_range_uj") or 0) if wrapped else 0)
            self._last_uj[zone] = uj
        return [Value("cpu_energy", self._total_uj / 1e6)]


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
