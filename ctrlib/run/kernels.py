"""Jupyter kernels forked from one process that has imported everything: twenty notebooks import torch once.

``warm_kernels`` puts a kernel named python3 before the installed one. It is a client that sends its arguments to the
server, which forks; the client ends when the forked kernel does.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

KERNEL_ENVIRONMENT = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # whatever the shell says, figures go into the notebook
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # no debugger warnings in the outputs
    "TQDM_DISABLE": "1",  # bars of other libraries would be frozen widgets on a page
}
PRELOAD = (
    "ipykernel.kernelapp", "ipykernel.ipkernel", "myst_nb", "pandas", "seaborn",
    "scipy.optimize", "scipy.stats", "sklearn.linear_model", "ctrlib.study.analysis", "ctrlib.study.experiments",
    "ctrlib.study.notebook", "ctrlib.study.verdicts", "ctrlib.training.loop",
)  # fmt: skip


@contextlib.contextmanager
def warm_kernels() -> Iterator[None]:
    """Meanwhile notebooks that this process executes get such kernels; where nothing can be forked, the usual ones."""
    if sys.platform != "linux":
        yield
        return
    with tempfile.TemporaryDirectory(prefix="ctrlib-") as folder:  # a short path, for the server's socket
        spec, address = Path(folder) / "kernels" / "python3" / "kernel.json", f"{folder}/socket"
        spec.parent.mkdir(parents=True)
        this = [sys.executable, "-m", "ctrlib.run.kernels"]
        argv = [*this, "kernel", address, "-f", "{connection_file}"]
        spec.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
        server = subprocess.Popen(
            [*this, "serve", address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the command, which ends its kernels
        )
        try:
            server.stdout.readline()  # it listens; or it is gone, and each notebook says so
            with mock.patch.dict(os.environ, JUPYTER_PATH=folder):
                yield
        finally:
            server.kill()
            server.wait()


def serve(address: str) -> None:
    """Import, digest the code, listen, fork for each client."""
    import importlib

    from ctrlib.store.code import all_parts

    for name in PRELOAD:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    all_parts()  # the digests are kept, and each notebook compares its records with them
    gc.freeze()  # what is there already is no garbage of a kernel
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended kernels are not waited for
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        server.settimeout(1)
        print("ready", flush=True)
        parent = os.getppid()
        while os.getppid() == parent:  # a command that was killed leaves nothing behind
            with contextlib.suppress(TimeoutError):
                client, _ = server.accept()
                if os.fork() == 0:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    server.close()
                    return kernel(client)
                client.close()


def kernel(client: socket.socket) -> None:
    """The forked process becomes what the client asked for; ``client`` is closed when it ends."""
    from ipykernel.kernelapp import IPKernelApp

    message, streams, _, _ = socket.recv_fds(client, 1_000_000, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.path[0] = ""
    threading.Thread(target=_end_with, args=(client,), daemon=True).start()
    arguments = [one for one in json.loads(message) if "log_level" not in one]
    arguments += [
        "--IPKernelApp.exec_lines=%matplotlib inline",  # matplotlib was imported before there was a shell
        "--IPKernelApp.log_level=CRITICAL",  # else it says how to connect to it, as one started by hand does
    ]
    IPKernelApp.launch_instance(argv=arguments)


def _end_with(client: socket.socket) -> None:
    """A kernel whose client was killed would hold papermill's pipes open for ever."""
    client.recv(1)
    os._exit(1)


def ask(address: str, arguments: list[str]) -> None:
    """The client: a kernel, please; then wait for its end, or that of the command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Jupyter sends it before it asks the kernel to end
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [json.dumps(arguments).encode()], [0, 1, 2])
        server.settimeout(1)
        parent, alive = os.getppid(), True
        while alive and os.getppid() == parent:
            try:
                alive = bool(server.recv(1))
            except TimeoutError:
                continue


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        ask(sys.argv[2], sys.argv[3:])
