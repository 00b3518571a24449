"""The end of a program of several gloo processes, which finds this file by PYTHONPATH."""

import time

import torch.distributed as dist


def leave_group() -> None:
    """Destroy the process group, once its threads are idle.

    A gloo thread frees the tensors of the last collective under the group's mutex and needs the interpreter's lock for
    it; the group's destructor holds that lock and waits for the mutex. A program that ends within milliseconds of its
    last collective can so wait for ever (torch 2.11). Sleeping gives the lock away.
    """
    time.sleep(0.5)
    dist.destroy_process_group()
