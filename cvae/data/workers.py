"""Image files decoded by several processes: a small one costs as much time of Python, which has one core, as of Pillow.

A process reads a line of JSON with names of files, and answers with a line of JSON and the arrays of a `Decoded`. It
imports neither torch nor the script that began it, so it is there at once, and it ends when its input does.
"""

import json
import os
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import IO

import numpy as np

from cvae.data.decode import Decoded, Reading, decode
from cvae.errors import DataError

BLOCK = 128  # files that a process gets at once
FEW = 2000  # files, up to which this process decodes them itself
ARRAYS = (("digests", np.uint64), ("peaks", np.float32), ("bits", np.uint8))  # of a Decoded, beside the levels
PROGRAM = "from cvae.data.workers import serve; serve()"


def decoded_blocks(files: Sequence[str], reading: Reading) -> Iterator[tuple[int, Decoded]]:
    """The files, block after block: the number of its first file, and what was read. With a bar on a terminal.

    Raises DataError where a file ends a process that reads it.
    """
    from cvae.runtime.console import console, progress_bar  # the processes that decode don't need it

    starts = range(0, len(files), BLOCK)
    blocks = (files[start : start + BLOCK] for start in starts)
    several = len(files) > FEW
    found = in_processes(blocks, reading, len(starts)) if several else (decode(block, reading) for block in blocks)
    with progress_bar(transient=True, disable=not several or not console.is_terminal) as bar:
        task = bar.add_task("reading images", total=len(files))
        for start, block in zip(starts, found, strict=True):
            yield start, block
            bar.update(task, advance=len(block.x))


def in_processes(blocks: Iterator[Sequence[str]], reading: Reading, count: int) -> Iterator[Decoded]:
    """The decoded blocks, `count` of them, in order; a few are decoded ahead."""
    number = min(cores(), count)
    workers: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    waiting: deque[Future[Decoded]] = deque()

    def ask(block: Sequence[str]) -> Decoded:
        worker = workers.get()
        try:
            return worker.decode(block, reading)
        finally:
            workers.put(worker)

    started = [Worker() for _ in range(number)]
    try:
        with ThreadPoolExecutor(number) as threads:
            for worker in started:
                workers.put(worker)
            try:
                for block in blocks:
                    waiting.append(threads.submit(ask, block))
                    if len(waiting) > 4 * number:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
    finally:
        for worker in started:
            worker.end()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """A process that decodes."""

    def __init__(self) -> None:
        here = str(Path(__file__).parents[2])  # where Python finds cvae
        path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-c", PROGRAM]
        pipe = subprocess.PIPE
        more = {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}  # NumPy would start a thread for each core
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env={**os.environ, **more})

    def decode(self, files: Sequence[str], reading: Reading) -> Decoded:
        """What `decode` returns. Raises DataError if the process ends."""
        task = json.dumps({"files": list(files), "reading": asdict(reading)})
        inward, outward = self.process.stdin, self.process.stdout
        assert inward and outward
        try:
            inward.write(f"{task}\n".encode())
            inward.flush()
            head = json.loads(outward.readline())
            x = received(outward, (len(files), *reading.shape), np.uint8)
            arrays = [received(outward, (len(files),), kind) for _, kind in ARRAYS]
        except (OSError, ValueError) as error:
            first, last = (ascii(str(file))[1:-1] for file in (files[0], files[-1]))
            raise DataError(f"a process was ended by one of the {len(files)} files from {first} to {last}") from error
        return Decoded._make([x, *arrays, {int(number): why for number, why in head["faults"].items()}])

    def end(self) -> None:
        """End it at once: it keeps nothing, and takes longer to end by itself."""
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            try:
                stream.close()
            except OSError:  # it has gone
                pass
        self.process.wait()


def received(stream: IO[bytes], shape: tuple[int, ...], kind: type) -> np.ndarray:
    """The next array of a stream. Raises ValueError if the stream ends."""
    array: np.ndarray = np.empty(shape, kind)
    view = array.reshape(-1).view(np.uint8).data
    while len(view):
        if not (count := stream.readinto(view)):  # type: ignore[attr-defined]
            raise ValueError("the stream has ended")
        view = view[count:]
    return array


def serve() -> None:
    """The worker's side: answer until the input ends. Output of libraries goes to stderr."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks decides when it ends
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        for line in sys.stdin.buffer:
            task = json.loads(line)
            shape = tuple(task["reading"].pop("shape"))
            found = decode(task["files"], Reading(shape, **task["reading"]), threads=1)
            answers.write(f"{json.dumps({'faults': found.faults})}\n".encode())
            for array in (found.x, *(getattr(found, name) for name, _ in ARRAYS)):
                answers.write(np.ascontiguousarray(array).data)
            answers.flush()
    except BrokenPipeError:  # who asked has gone
        pass
