"""Tasks for executors: other processes import this file, and nothing heavy with it."""

import os
import signal
from pathlib import Path


def square_unless_three(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number**2


def square_unless_killed(task: tuple[int, str]) -> int:
    number, folder = task
    mark = Path(folder, "tried")
    if number == 2 or (number == 4 and not mark.exists()):
        if number == 4:
            mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square_unless_three(number)
