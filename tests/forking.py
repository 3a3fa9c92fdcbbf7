"""A process that has imported what takes long, and forks a fresh one for each line it reads."""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any


def serve(run: Callable[[dict[str, Any]], None]) -> None:
    """Answer each request with the id of a new process that does `run(request)`, its streams in the files "stdout" and
    "stderr"; answer {"wait": id} with its exit status (minus the signal that killed it), or "running" where "now" is
    set and it is.
    """
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            pid, status = os.waitpid(request["wait"], os.WNOHANG if request.get("now") else 0)
            print(os.waitstatus_to_exitcode(status) if pid else "running", flush=True)
            continue
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        status = 1
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it, and so do we
        try:
            run(request)
            status = 0
        except KeyboardInterrupt:
            status = 130
            traceback.print_exc()
        except SystemExit as stopped:  # as the interpreter does
            status = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
            if isinstance(stopped.code, str):
                sys.stdout.flush()
                print(stopped.code, file=sys.stderr)
        except BaseException:  # noqa: BLE001 - the process ends here; its log says why
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os._exit(0)  # nothing to tidy, and torch takes seconds to do it
