"""Python processes with and without this package, which keep what they download below a folder of their own.

They are forked from one that knows nothing of this package and has imported what transformers imports: torch and its
kind, which is most of the work, and nothing that reads the settings of a Hub.
"""

import importlib
import json
import os
import runpy
import site
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
NOT_OURS = ("torch", "torch._dynamo", "torch.distributed.tensor", "scipy.optimize", "PIL.Image")
SERVER = f"import sys; sys.path.insert(0, {str(TESTS)!r}); from hub import processes; processes.serve_strangers()"


def serve_strangers():
    """Fork a process per request; it has no folder of the suite on its path."""
    from forking import serve

    sys.path.remove(str(TESTS))
    for name in NOT_OURS:
        importlib.import_module(name)
    serve(run)


def run(request):
    """What `python arguments` does in the folder and with the environment of the request."""
    for folder in request["installed"]:
        site.addsitedir(folder)  # with the .pth file that installs this package
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["home"])
    first, *rest = request["arguments"]
    if first == "-c":
        code, *rest = rest
        sys.argv, sys.path[0] = ["-c", *rest], ""
        exec(compile(code, "<string>", "exec"), sys.modules["__main__"].__dict__)
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


@pytest.fixture(scope="session")
def run_python(tmp_path_factory):
    """`run_python(arguments, home, installed, **environment)`: Python in `home`, with or without this package."""
    streams = tmp_path_factory.mktemp("streams")
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    bare["OMP_NUM_THREADS"] = "1"
    server = subprocess.Popen(
        [sys.executable, "-S", "-c", SERVER],  # -S leaves out the .pth file
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**bare, "PYTHONPATH": os.pathsep.join(site.getsitepackages())},
    )

    def ask(request):
        print(json.dumps(request), file=server.stdin, flush=True)
        return int(server.stdout.readline())

    def run_python(arguments, home, installed=True, **environment):
        arguments = [str(word) for word in arguments]
        stdout, stderr = (streams / f"{sum(1 for _ in streams.iterdir())}.{name}" for name in ("stdout", "stderr"))
        pid = ask(
            {
                "arguments": arguments,
                "home": str(home),
                "installed": site.getsitepackages() if installed else [],
                "environment": {**bare, "HF_HOME": str(home), **environment},
                "stdout": str(stdout),
                "stderr": str(stderr),
            }
        )
        status = ask({"wait": pid})
        return subprocess.CompletedProcess(arguments, status, stdout.read_text(), stderr.read_text())

    yield run_python
    server.stdin.close()
    server.wait()
