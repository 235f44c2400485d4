"""Several processes that work together, as torchrun starts them, with a watchdog."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["detr2d.engine", "tests.helpers.toy_configs"])


class Team:
    """``processes`` processes joined by gloo, which answer questions until one takes too long.

    A process that dies or does not answer in time ends all of them; the next question starts new
    ones.
    """

    def __init__(self, processes: int = 2) -> None:
        self.size = processes
        self.members: list[tuple[Any, Connection]] = []

    def ask(self, work: Callable[..., Any], *arguments: Any, seconds: float = 60.0) -> list[Any]:
        """Answers of ``work(*arguments)`` in rank order.

        Raises AssertionError with the traceback of a process that raised, TimeoutError if one
        does not answer, EOFError if one died.
        """
        if not self.members:
            self._start()
        for _, connection in self.members:
            connection.send((work, arguments))
        ranks = {connection: rank for rank, (_, connection) in enumerate(self.members)}
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + seconds
        try:
            while len(answers) < self.size:
                waiting = [link for link, rank in ranks.items() if rank not in answers]
                ready = wait(waiting, max(0.0, deadline - time.monotonic()))
                if not ready:
                    silent = [ranks[link] for link in waiting]
                    raise TimeoutError(f"processes {silent} gave no answer in {seconds:.0f} s")
                for link in ready:
                    worked, answer = link.recv()  # type: ignore[union-attr]
                    if not worked:  # at once: the others may be waiting for this one
                        raise AssertionError(answer)
                    answers[ranks[link]] = answer  # type: ignore[index]
        except (AssertionError, TimeoutError, EOFError):
            self.close()
            raise
        return [answers[rank] for rank in range(self.size)]

    def _start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for rank in range(self.size):
            ours, theirs = FORKSERVER.Pipe()
            process = FORKSERVER.Process(target=_serve, args=(theirs, rank, self.size, port))
            process.start()
            theirs.close()
            self.members.append((process, ours))

    def close(self) -> None:
        """End the processes, also those that hang."""
        for process, connection in self.members:
            connection.close()
            process.join(0.2)
            if process.is_alive():
                process.kill()
            process.join()
        self.members = []

    def __enter__(self) -> Team:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(connection: Connection, rank: int, size: int, port: int) -> None:
    import torch

    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ |= {key: str(value) for key, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    while True:
        try:
            work, arguments = connection.recv()
        except EOFError:
            os._exit(0)
        try:
            connection.send((True, work(*arguments)))
        except Exception:
            connection.send((False, traceback.format_exc()))
