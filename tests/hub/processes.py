"""Python processes with and without this package, which keep what they download below a folder of their own."""

import os
import site
import subprocess
import sys


def run_python(arguments, home, installed=True, **environment):
    """Run Python in `home`; without this package -S leaves out the .pth file that installs it."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))},
        "HF_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        **({} if installed else {"PYTHONPATH": os.pathsep.join(site.getsitepackages())}),
        **environment,
    }
    command = [sys.executable, *([] if installed else ["-S"]), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home)
