"""How glibc keeps what the app has freed. With another C library, nothing here does anything."""

import contextlib
import ctypes

# M_ARENA_MAX in glibc's malloc.h.
ARENA_MAX = -8
ARENAS = 2


def share_memory() -> None:
    """Let all threads take memory from two pools: with one for each, a rush of visitors leaves half a GB behind."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(ARENA_MAX, ARENAS)


def give_back() -> None:
    """Return to the system what was freed, hundreds of megabytes after the start."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
