"""What the app does about memory that glibc keeps."""

import subprocess
import sys
from pathlib import Path

import pytest

# Prints from how many pools 16 threads took memory at the same time.
POOLS = """
import ctypes, sys, threading
from brain_xai.ui.memory import share_memory
if sys.argv[1] == "shared":
    share_memory()
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
together = threading.Barrier(16)
def take():
    together.wait()
    for _ in range(100):
        libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=take) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fclose(ctypes.c_void_p(file))
print(open(sys.argv[2]).read().count("<heap nr="))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has these pools")
def test_threads_share_two_pools_of_memory(tmp_path):
    pools = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", POOLS, how, str(tmp_path / "pools.xml")],
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for how in ("shared", "as usual")
    }
    assert pools["shared"] <= 2 < pools["as usual"]
