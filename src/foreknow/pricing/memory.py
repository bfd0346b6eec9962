"""How much memory a piece of work took at its peak, beyond what the process held before."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType

from foreknow.common.timing import peak_memory_mb


class PeakMemory:
    """Context manager whose `.mb` is the peak inside the block minus what was held at its beginning, in MiB.

    On Linux the kernel's high-water mark is set back first (5 to /proc/self/clear_refs), so the peak of earlier work
    does not count. Elsewhere only growth of the largest peak so far can be seen, and the result may be too small. It
    is resident memory of the processor, of the whole process; memory on a graphics card is not in it. What is freed
    inside the block hides as much of what the block took: where single blocks count, collect garbage first.
    """

    mb: float = 0.0

    def __enter__(self) -> PeakMemory:
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self._reset, self._before = True, _status_mb("VmRSS")
        except OSError:
            self._reset, self._before = False, peak_memory_mb()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.mb = max(0.0, (_status_mb("VmHWM") if self._reset else peak_memory_mb()) - self._before)


def _status_mb(name: str) -> float:
    found = re.search(
        rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii", errors="replace"), re.M
    )
    return int(found[1]) / 2**10 if found else 0.0
