"""How many threads compute: a sum of many parts has other last digits with another number."""

from __future__ import annotations

import os

import tensorflow as tf

NB_THREADS = 2


def use_threads(wanted: int | None = None) -> int:
    """Let TensorFlow have a number of threads, where it does not run yet.

    Parameters
    ----------
    wanted
        None: 2, or as many as TensorFlow has, where it runs.

    Returns
    -------
    threads
        How many it has.

    Raises
    ------
    ValueError
        If it runs with another number than the wanted one.
    """
    threading = tf.config.threading
    number = NB_THREADS if wanted is None else wanted
    try:
        threading.set_intra_op_parallelism_threads(number)
        threading.set_inter_op_parallelism_threads(number)
        return number
    except RuntimeError:  # it has computed something
        running = threading.get_intra_op_parallelism_threads() or _nb_cores()
    if wanted is not None and wanted != running:
        raise ValueError(
            f"threads={wanted}, and TensorFlow runs with {running} in this process: give it "
            f"{wanted} before its first use (--threads {wanted}; in Python "
            f"xcertify.runs.use_threads({wanted})), or more than one worker, which are processes "
            f"of their own"
        )
    return running


def _nb_cores() -> int:
    """What TensorFlow takes by itself."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
