"""Whether two pieces of mathematics are equal, judged in a process of its own for each pair.

Started by `plm.evaluation.equivalence`, as a script and without this package, so that it is small
to fork. Every pair gets a fork of it: none sees what another left in a cache, so a verdict is a
function of the pair alone. What a pair may use is processor time and memory; the kernel ends it.
"""

import contextlib
import gc
import json
import logging
import math
import os
import resource
import signal
import sys

EQUAL, UNEQUAL, UNREAD, GOLD_UNREAD, MEMORY, FAILED = range(10, 16)
NAMES = {
    EQUAL: "equal",
    UNEQUAL: "unequal",
    UNREAD: "unread",
    GOLD_UNREAD: "gold_unread",
    MEMORY: "memory",
    FAILED: "failed",
}
# Killed by somebody else, for want of the machine's memory say: that is no verdict.
ENDED = {-signal.SIGPROF: "cpu_time", -signal.SIGXCPU: "cpu_time", -signal.SIGKILL: "lost"}

WARM = (
    ("1", r"\frac{2}{2}"),
    ("x^2+2x+1", "(x+1)^2"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt2}"),
    (r"\{1,2\}", "2,1"),
    ("(1,2)", "(1,3)"),
    ("x=2", "2"),
    (r"\text{yes}", "no"),
    (r"2\pi", r"\pi \cdot 3.5"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\sin(x)"),
)


def _parsed(text: str):
    """A sympy object with its decimals as fractions, exactly; None: it cannot be read.

    The whole text is read, where math-verify's own `parse` takes the first piece that it can read.
    """
    from latex2sympy2_extended import latex2sympy
    from math_verify import LatexExtractionConfig
    from math_verify.grader import should_treat_as_complex
    from sympy import Float, Rational

    try:
        found = latex2sympy(
            text,
            is_real=not should_treat_as_complex(text),
            convert_degrees=False,
            normalization_config=LatexExtractionConfig().normalization_config,
        )
        # Floats are compared after rounding to six places, where 0 is every small number.
        return found.xreplace({one: Rational(str(one)) for one in found.atoms(Float)})
    except MemoryError:
        raise
    # A parser of strangers' texts raises whatever it likes.
    except Exception:
        return None


def _unworked() -> tuple[type, ...]:
    """What is no result: work that is left to do, and what equals more than one thing."""
    from sympy import (
        AccumBounds,
        ConditionSet,
        Derivative,
        Integral,
        Limit,
        Order,
        Product,
        Sum,
        nan,
        zoo,
    )

    heads = (AccumBounds, ConditionSet, Derivative, Integral, Limit, Order, Product, Sum)
    return (*heads, nan, zoo)


def judge(gold: str, answer: str) -> int:
    """One of the codes above."""
    from math_verify import verify
    from sympy import FiniteSet

    wanted = _parsed(gold)
    if wanted is None:
        return GOLD_UNREAD
    found = _parsed(answer)
    if found is None or any(found.has(one) and not wanted.has(one) for one in _unworked()):
        return UNREAD
    # A set of one forgets how often it was told.
    if isinstance(found, FiniteSet) and len(found) == 1 and "," in answer:
        return UNREAD
    return EQUAL if verify([wanted], [found], timeout_seconds=None) is True else UNEQUAL


def _child(gold: str, answer: str, cpu_s: float, memory_mib: int) -> None:
    """Judge one pair and end; the code is the exit code."""
    code = FAILED
    try:
        # macOS refuses an address space smaller than what is mapped already.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # Counts processor time, and its signal ends the process, also inside one long operation.
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        # Behind it, should a library take that signal.
        seconds = math.ceil(cpu_s) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        code = judge(gold, answer)
    except MemoryError:
        code = MEMORY
    except BaseException:
        code = FAILED
    finally:
        os._exit(code)


def run(pairs: list, cpu_s: float, memory_mib: int, workers: int) -> list[str]:
    """The verdicts on pairs, in order; `workers` of them at a time."""
    found, running, place = [""] * len(pairs), {}, 0
    while place < len(pairs) or running:
        if place < len(pairs) and len(running) < workers:
            pid = os.fork()
            if not pid:
                _child(*pairs[place], cpu_s, memory_mib)
            running[pid], place = place, place + 1
            continue
        pid, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        found[running.pop(pid)] = NAMES.get(code, ENDED.get(code, "failed"))
    return found


def main() -> None:
    """Answer requests on stdin, a line of JSON each, until it ends."""
    channel = os.fdopen(os.dup(1), "w")
    # Libraries may print; that is no answer.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    logging.disable(logging.CRITICAL)
    sys.setrecursionlimit(2000)
    # What every fork would load and cache again.
    for gold, answer in WARM:
        judge(gold, answer)
    # A collection in a fork would write to, and so copy, each page that it inherited.
    gc.collect()
    gc.freeze()
    gc.disable()
    for line in sys.stdin:
        request = json.loads(line)
        channel.write(json.dumps(run(**request)) + "\n")
        channel.flush()


if __name__ == "__main__":
    main()
