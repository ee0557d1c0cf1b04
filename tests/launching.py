"""
Test programs in processes of their own, started without the seconds that the imports take.

`launch("tests.some_module", "word", ranks=2)` is `torchrun --nproc_per_node 2 -m tests.some_module word`: a process
that has imported everything and done nothing forks a child for each rank, with the variables `torchrun` would set.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[1]
_STARTER: subprocess.Popen[str] | None = None


def launch(module: str, *words: object, ranks: int = 1, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    """Run a module as a program, on one rank or several; after `timeout` seconds it is killed."""
    global _STARTER
    if _STARTER is None or _STARTER.poll() is not None:
        # It ends when its input does, which is when this process ends.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.launching"]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        _STARTER = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
    assert _STARTER.stdin is not None and _STARTER.stdout is not None
    asked = {"module": module, "words": [str(word) for word in words], "ranks": ranks, "timeout": timeout}
    _STARTER.stdin.write(json.dumps(asked) + "\n")
    _STARTER.stdin.flush()
    answer = json.loads(_STARTER.stdout.readline())
    return subprocess.CompletedProcess([module, *asked["words"]], answer["code"], answer["stdout"], answer["stderr"])


def _serve() -> None:
    """Fork as asked, until there is nothing more to read."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the imports print is no answer
    _import_all()
    for line in sys.stdin:
        answers.write(json.dumps(_run(**json.loads(line))) + "\n")
        answers.flush()


def _import_all() -> None:
    """What the programs import; nothing is computed, so that no thread is there to be lost in a fork."""
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch.distributed.fsdp  # noqa: F401
    import transformers.trainer  # noqa: F401

    import tests.models  # noqa: F401


def _run(module: str, words: list[str], ranks: int, timeout: float) -> dict[str, Any]:
    variables = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _port()}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        running: dict[int, int] = {}
        for rank in range(ranks):
            child = os.fork()
            if child == 0:
                own = {**variables, "RANK": rank, "LOCAL_RANK": rank} if ranks > 1 else {}
                _become(module, words, {name: str(value) for name, value in own.items()}, out.fileno(), err.fileno())
            running[child] = rank
        code = _wait(running, time.monotonic() + timeout)
        for file in (out, err):
            file.seek(0)
        return {"code": code, "stdout": out.read(), "stderr": err.read()}


def _become(module: str, words: list[str], variables: dict[str, str], out: int, err: int) -> None:
    """In the child: the program, and its end."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.environ.update(variables)
        sys.argv = [module, *words]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(end.code)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # not back into the loop of the parent


def _wait(running: dict[int, int], end: float) -> int:
    """The exit status: of the first child that failed, minus its signal if one killed it; the others die then."""
    code = 0
    while running:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            if time.monotonic() > end:
                code = code or 124
                _kill(running)
            time.sleep(0.02)
        elif running.pop(child, None) is not None:
            found = os.waitstatus_to_exitcode(status)
            if found and not code:
                code = found
                _kill(running)
    return code


def _kill(children: dict[int, int]) -> None:
    for child in children:
        os.kill(child, signal.SIGKILL)


def _port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    _serve()
