"""What a process and all that it began hold in memory."""

import psutil


def held_by(process: psutil.Process) -> int:
    """Resident bytes of a process and of those that it began; pages that they share count for each."""
    held = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            held += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return held
