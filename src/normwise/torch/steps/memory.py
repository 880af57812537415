"""The memory that large outputs leave behind, given back at once."""

from __future__ import annotations

from normwise.kernels import cpu


def release_memory() -> int:
    """Give all memory that is kept for the next outputs back to the system.

    The compiled kernels keep the memory of large outputs that died, at most ``NORMWISE_POOL_MB`` (an eighth of the
    memory by default), because fresh memory costs as much as the arithmetic. What has been idle for ten seconds goes
    back when the kernels are used next. A process that stops using them, say after training, and wants its memory for
    something else, calls this.

    Returns:
        how many bytes were kept; 0 where the kernels are not built.

    Example:
        >>> from normwise.torch import release_memory
        >>> _ = release_memory()
        >>> release_memory()
        0
    """
    if cpu.library is None:
        return 0
    kept: int = cpu.pool()["kept"]
    cpu.library.release_pool()
    return kept
