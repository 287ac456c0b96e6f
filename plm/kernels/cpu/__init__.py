"""Kernels in C++ for a decoding step in fp32 on a CPU, built on first use.

They do what `plm.model.decoding` and `plm.rollout.sampling` do with torch's operators, several of
those in one call, and hold a row's sums apart from its neighbours'. No header of torch is needed:
they are given addresses and sizes, so that a build takes seconds, and their threads are OpenMP's,
which torch has loaded already.
"""

from plm.kernels.cpu.build import problem, wanted
from plm.kernels.cpu.calls import Attention, Kernels

__all__ = ["Attention", "Kernels", "problem", "wanted"]
