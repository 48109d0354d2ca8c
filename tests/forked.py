"""Runs one function in several processes, as torchrun does, by one interpreter that imports everything and then forks:
the imports cost more than the runs.

python forked.py MODULE FUNCTION FOLDER PROCESSES
"""

import importlib
import os
import socket
import subprocess
import sys
import traceback
from pathlib import Path

TESTS = Path(__file__).parent
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}

ZERO = {
    "DS_ACCELERATOR": "cpu",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
    "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
}


def run_forked(module, function, folder, *, processes=2, **environment):
    """Calls `function(folder)` of a test module in each of the processes; a failure of one is a failure."""
    places = [str(TESTS), str(TESTS / "invariants"), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, places))
    command = [sys.executable, __file__, module, function, str(folder), str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout + result.stderr


def use_fsdp_on_cpus():
    """accelerate turns FSDP on for accelerators alone; with it on, torch shares a model out over CPUs as well."""
    from accelerate.state import DistributedType, PartialState

    prepare = PartialState.__init__

    def init(self, *args, **kwargs):
        prepare(self, *args, **kwargs)
        if self.__dict__.get("distributed_type") == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = init


def main(module, function, folder, processes):
    run = getattr(importlib.import_module(module), function)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            os.environ |= {name: str(value) for name, value in places.items()}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            status = 1
            try:
                run(folder)
                status = 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush(), sys.stderr.flush()
            # Taking gloo processes down in the usual way now and then aborts one of them.
            os._exit(status)
        children.append(child)
    while children:
        child, status = os.wait()
        children.remove(child)
        if status:
            for other in children:
                os.kill(other, 9)
            sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
