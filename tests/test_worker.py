"""How a rank ends."""

import subprocess
import sys

CODE = """
import atexit, logging, sys, threading, time
from plm.worker import leave
atexit.register(lambda: print("finished"))
# One that would keep the interpreter from ending.
threading.Thread(target=time.sleep, args=(60,)).start()
print("said", end=" ")
leave(int(sys.argv[1]))
"""


def test_a_rank_leaves_with_its_code_and_everything_said():
    for code in (0, 3):
        done = subprocess.run(
            [sys.executable, "-c", CODE, str(code)], capture_output=True, text=True, timeout=50
        )
        assert done.returncode == code
        assert done.stdout == "said finished\n"
        assert done.stderr == ""
