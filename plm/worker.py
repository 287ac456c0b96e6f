"""One rank of a run, from the run's frozen configuration: `python -m plm.worker config.yaml`."""

import atexit
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import OmegaConf

from plm import launch
from plm.config import trust
from plm.errors import SECOND_CTRL_C, ConfigError, Interrupted, PlmError
from plm.memory import keep_freed_memory
from plm.run import RunFolder, setup_logging

log = logging.getLogger("plm")


def run(settings: dict[str, Any], folder: RunFolder) -> int:
    """Run the stage in this process; every ending is said in status.json and the log.

    Returns:
        Exit code as in plm.errors; 1 for a bug of ours.
    """
    rank = int(os.environ.get("RANK", "0"))
    setup_logging(folder.path, rank)
    keep_freed_memory()
    from plm import products

    try:
        from plm.stages.runner import run_stage

        products.choose(settings["kernels"])
        run_stage(settings, folder)
    except PlmError as error:
        return _end(folder, rank, error, error.exit_code)
    except KeyboardInterrupt:
        return _interrupted(folder, rank)
    except SystemExit as error:
        # Lightning leaves this way for a KeyboardInterrupt.
        if isinstance(error.__context__, KeyboardInterrupt):
            return _interrupted(folder, rank)
        code = int(error.code or 0)
        if code != SECOND_CTRL_C:
            return code
        left = Interrupted("left without saving; the same command goes on from what was saved")
        return _end(folder, rank, left, code)
    except BaseException as error:
        if isinstance(error, MemoryError) or _out_of_memory(error):
            short = "this model or batch does not fit the memory; lower scale or micro_batch_size"
            return _end(folder, rank, ConfigError(short), ConfigError.exit_code)
        log.error(traceback.format_exc())
        return _end(folder, rank, error, 1)
    finally:
        products.use_torch()
    return 0


def _out_of_memory(error: BaseException) -> bool:
    said = str(error)
    return any(words in said for words in ("can't allocate memory", "out of memory"))


def _interrupted(folder: RunFolder, rank: int) -> int:
    if folder.status().get("status") == "done":
        # It came behind the last thing that was to be written.
        return 0
    stopped = Interrupted("interrupted; the same command goes on from what is saved")
    return _end(folder, rank, stopped, Interrupted.exit_code)


def _end(folder: RunFolder, rank: int, error: BaseException, code: int) -> int:
    names = {2: "failed", 3: "stopped", 75: "interrupted", SECOND_CTRL_C: "interrupted"}
    # One line on the terminal: the other ranks say the same.
    log.log(logging.INFO if rank else logging.ERROR, "%s", str(error) or type(error).__name__)
    if rank == 0:
        folder.set_status(names.get(code, "failed"), error=str(error), exit_code=code)
    return code


def leave(code: int) -> NoReturn:
    """End a rank, all being written, without taking the interpreter down.

    That can abort it: with gloo and FSDP2 (torch 2.13) a thread of a process group was still there
    once ("terminate called without an active exception"), and a finished run exited with 134.
    """
    # What packages do at the end of a process, such as finishing W&B's run.
    atexit._run_exitfuncs()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Entry of a started rank."""
    path = Path(sys.argv[1])
    settings: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(path))  # type: ignore
    trust(settings.get("trust") or [])
    launch.take_signals()
    leave(run(settings, RunFolder(path.parent)))


if __name__ == "__main__":
    main()
