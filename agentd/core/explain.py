"""Why a unit is not running, in one sentence: what systemd saw, and what the program said last. Pure."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence

from agentd.core.out_of_memory import diagnose
from agentd.core.symptoms import last_words
from agentd.types import ActiveState, JobResult, UnitState

GATE = "agentctl: "
"""How the lines of the readiness drop-in's own command begin."""

CLD_EXITED, CLD_KILLED, CLD_DUMPED = 1, 2, 3
CONFIG_ERROR = 3
"""A gateway's exit status for a configuration or a port that it cannot use: to start it again does not help."""

EXIT_STATUS: Mapping[int, str] = {
    126: "the program cannot be executed",
    127: "the program was not found",
    200: "cannot change to WorkingDirectory=",
    201: "cannot set Nice=",
    202: "cannot arrange file descriptors",
    203: "cannot execute the program of ExecStart=",
    204: "cannot allocate memory",
    205: "cannot set a limit (Limit...=)",
    206: "cannot set OOMScoreAdjust=",
    207: "cannot set the signal mask",
    208: "cannot set up StandardInput=",
    209: "cannot set up StandardOutput=",
    210: "cannot change to RootDirectory=",
    211: "cannot set the I/O priority",
    212: "cannot set TimerSlackNSec=",
    213: "cannot set SecureBits=",
    214: "cannot set the CPU scheduling",
    215: "cannot set CPUAffinity=",
    216: "cannot change to Group=",
    217: "cannot change to User=",
    218: "cannot set capabilities",
    219: "cannot move it to its cgroup",
    220: "cannot create a session",
    221: "it was not confirmed",
    222: "cannot set up StandardError=",
    224: "cannot start the PAM session",
    225: "cannot set up PrivateNetwork=",
    226: "cannot set up the mount namespace (a path of ReadWritePaths=, BindPaths= or the like may not exist)",
    227: "cannot set NoNewPrivileges=",
    228: "cannot install the system call filter",
    229: "cannot set SELinuxContext=",
    230: "cannot set Personality=",
    231: "cannot set AppArmorProfile=",
    232: "cannot set RestrictAddressFamilies=",
    233: "cannot make RuntimeDirectory=",
    235: "cannot change the owner of a directory",
    236: "cannot set SmackProcessLabel=",
    237: "cannot set up the keyring",
    238: "cannot make StateDirectory=",
    239: "cannot make CacheDirectory=",
    240: "cannot make LogsDirectory=",
    241: "cannot make ConfigurationDirectory=",
    242: "cannot set NUMAPolicy=",
    243: "cannot set up credentials (LoadCredential=, SetCredential=)",
    244: "cannot set up BPF",
    245: "cannot set MemoryKSM=",
}
"""What systemd could not do before the program ran, and the shell's two."""

_NOT_STARTED: Mapping[JobResult, str] = {
    JobResult.DEPENDENCY: "was not started: a unit that it requires failed",
    JobResult.CANCELED: "was not started: another job took the place of its start",
    JobResult.ASSERT: "was not started: an Assert...= of the unit was not met",
    JobResult.SKIPPED: "was not started: systemd skipped it",
    JobResult.UNSUPPORTED: "was not started: this system cannot start such a unit",
    JobResult.FROZEN: "was not started: it is frozen",
}

_LOAD: Mapping[str, str] = {
    "not-found": "does not exist: there is no unit file of that name",
    "": "does not exist: there is no unit file of that name",
    "masked": "is masked",
    "bad-setting": "has a unit file that is not valid",
    "error": "could not be loaded",
}


def refused_its_config(gateway: UnitState) -> bool:
    """Of a gateway whose last process has ended."""
    return gateway.exec_code == CLD_EXITED and gateway.exec_status == CONFIG_ERROR


def explain(state: UnitState, lines: Sequence[str], job: JobResult | None = None, beside: Sequence[str] = ()) -> str:
    """One sentence without a full stop, beginning with the unit's name.

    `lines`: the last journal lines, oldest first. `job`: the result of the start job, where one was awaited.
    `beside`: who else holds GPU memory now, see out_of_memory.
    """
    name = state.name
    if not_loaded(state):
        detail = f": {state.load_error}" if state.load_error else ""
        return f"{name} {_LOAD[state.load_state]}{detail}"
    how = _NOT_STARTED.get(job, "") if job is not None else ""
    how = how or _how(state)
    # The complaint of the unit's own wait-ready says only that it waited, not why in vain.
    said = last_words([line for line in lines if not line.startswith(GATE)])
    waited = [line.removeprefix(GATE) for line in lines if line.startswith(GATE)]
    if waited and state.result == "exit-code" and not _main_failed(state):
        # The main process was fine until the gate gave it up; the SIGTERM that systemd sent then is no cause.
        how = f"was stopped by its readiness drop-in: {waited[-1]}"
    if not how:
        return f"{name} {_resting(state)}"
    memory = diagnose(lines, state, beside)
    if memory is not None and (memory.kind != "host" or state.result != "oom-kill"):
        said = memory.sentence
    return f"{name} {how}: {said}" if said else f"{name} {how}"


def not_loaded(state: UnitState) -> bool:
    """Nothing that could be started (and nothing left of it that still runs)."""
    return state.load_state in _LOAD and not state.active_state.up


def _resting(state: UnitState) -> str:
    if state.active_state.up:
        return f"is {state.active_state.value}"
    by_itself = state.exec_code == CLD_EXITED and state.exec_status == 0
    return "is stopped (its main process ended with status 0)" if by_itself else "is stopped"


def _how(state: UnitState) -> str:
    ending = _ending(state)
    known = {
        "oom-kill": "was killed by the kernel because memory ran out (OOM)",
        "start-limit-hit": f"was started too often and given up by systemd (start limit){_after(ending)}",
        "timeout": "took longer than its unit allows (TimeoutStartSec= or TimeoutStopSec=) and was killed",
        "watchdog": "was killed by systemd: it missed its watchdog (WatchdogSec=)",
        "protocol": f"ended before it said that it was ready{_after(ending)}",
        "resources": "could not be started by systemd: a resource was missing (cgroup, file, memory)",
        "exec-condition": "was not started: its ExecCondition= was not met",
        "condition": "was not started: a Condition...= of the unit was not met",
        "assert": "was not started: an Assert...= of the unit was not met",
    }
    if state.result in known:
        return known[state.result]
    if ending and state.result in ("exit-code", "signal", "core-dump"):
        return ending
    if state.result not in ("success", ""):
        return f"failed with result {state.result}{_after(ending)}"
    return "failed" if state.active_state is ActiveState.FAILED else ""


def _main_failed(state: UnitState) -> bool:
    return state.exec_code == CLD_EXITED and state.exec_status != 0


def _after(ending: str) -> str:
    return f"; the last time it {ending}" if ending else ""


def _ending(state: UnitState) -> str:
    """How the last main process ended, in words; "" when it is not known or ended well."""
    if state.exec_code in (CLD_KILLED, CLD_DUMPED):
        core = " and dumped core" if state.exec_code == CLD_DUMPED else ""
        return f"was killed by {_signal(state.exec_status)}{core}"
    status = state.exec_status
    if not state.exec_code or not status:
        return ""
    if status in EXIT_STATUS:
        return f"exited with status {status} ({EXIT_STATUS[status]})"
    if 128 < status < 160:
        return f"exited with status {status} (a process of it was killed by {_signal(status - 128)})"
    return f"exited with status {status}"


def _signal(number: int) -> str:
    return signal.Signals(number).name if number in signal.Signals._value2member_map_ else f"signal {number}"
