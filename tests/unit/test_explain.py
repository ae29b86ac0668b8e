"""Why a unit failed, in one sentence."""

from __future__ import annotations

import pytest

from agentd.core.explain import EXIT_STATUS, explain
from agentd.core.redact import redact, without_credentials
from agentd.core.symptoms import last_words
from agentd.types import ActiveState, JobResult, UnitState

NAME = "vllm-qwen.service"


def failed(result: str = "exit-code", code: int = 1, status: int = 1, **fields: object) -> UnitState:
    return UnitState(
        NAME,
        "loaded",
        ActiveState.FAILED,
        "failed",
        result=result,
        exec_code=code,
        exec_status=status,
        **fields,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (UnitState(NAME), "does not exist: there is no unit file of that name"),
        (UnitState(NAME, "masked"), "is masked"),
        (
            UnitState(NAME, "bad-setting", load_error="Service has no ExecStart="),
            "has a unit file that is not valid: Service has no ExecStart=",
        ),
        (UnitState(NAME, "loaded"), "is stopped"),
        (UnitState(NAME, "loaded", exec_code=1), "is stopped (its main process ended with status 0)"),
        (UnitState(NAME, "loaded", ActiveState.ACTIVE), "is active"),
        (failed(), "exited with status 1"),
        (failed(status=203), "exited with status 203 (cannot execute the program of ExecStart=)"),
        (failed(status=127), "exited with status 127 (the program was not found)"),
        (failed(status=137), "exited with status 137 (a process of it was killed by SIGKILL)"),
        (failed("signal", 2, 9), "was killed by SIGKILL"),
        (failed("core-dump", 3, 11), "was killed by SIGSEGV and dumped core"),
        (failed("signal", 2, 63), "was killed by signal 63"),
        (failed("oom-kill", 2, 9), "was killed by the kernel because memory ran out (OOM)"),
        (
            failed("timeout", 2, 15),
            "took longer than its unit allows (TimeoutStartSec= or TimeoutStopSec=) and was killed",
        ),
        (failed("watchdog", 2, 6), "was killed by systemd: it missed its watchdog (WatchdogSec=)"),
        (
            failed("start-limit-hit", 1, 3),
            "was started too often and given up by systemd (start limit); the last time it exited with status 3",
        ),
        (failed("start-limit-hit", 0, 0), "was started too often and given up by systemd (start limit)"),
        (failed("protocol", 1, 0), "ended before it said that it was ready"),
        (failed("exec-condition", 1, 1), "was not started: its ExecCondition= was not met"),
        (
            failed("brand-new-result", 1, 4),
            "failed with result brand-new-result; the last time it exited with status 4",
        ),
        (failed("success", 0, 0), "failed"),
    ],
)
def test_what_systemd_saw(state: UnitState, sentence: str) -> None:
    assert explain(state, ()) == f"{NAME} {sentence}"


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        (JobResult.DEPENDENCY, "was not started: a unit that it requires failed"),
        (JobResult.ASSERT, "was not started: an Assert...= of the unit was not met"),
        (JobResult.FAILED, "is stopped"),
        (JobResult.DONE, "is stopped"),
    ],
)
def test_what_the_job_said(job: JobResult, sentence: str) -> None:
    assert explain(UnitState(NAME, "loaded"), (), job) == f"{NAME} {sentence}"


VLLM_OOM = """\
(EngineCore_DP0 pid=4242) ERROR 11-21 01:20:33 [core.py:718] EngineCore failed to start.
(EngineCore_DP0 pid=4242) ERROR 11-21 01:20:33 [core.py:718] Traceback (most recent call last):
(EngineCore_DP0 pid=4242) ERROR 11-21 01:20:33 [core.py:718]   File "/v/core.py", line 709, in run_engine_core
(EngineCore_DP0 pid=4242) ERROR 11-21 01:20:33 [core.py:718]     raise torch.OutOfMemoryError(
(EngineCore_DP0 pid=4242) ERROR 11-21 01:20:33 [core.py:718] torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB.
(EngineCore_DP0 pid=4242) Process EngineCore_DP0:
(APIServer pid=4200) Traceback (most recent call last):
(APIServer pid=4200)   File "/v/bin/vllm", line 8, in <module>
(APIServer pid=4200) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked
  warnings.warn('resource_tracker: There appear to be %d '
vllm-qwen.service: Main process exited, code=exited, status=1/FAILURE
vllm-qwen.service: Failed with result 'exit-code'.""".splitlines()

FREE = "ValueError: Free memory on device (3.5/24.0 GiB) on startup is less than desired GPU memory utilization (0.9)."


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (VLLM_OOM, "CUDA out of memory (torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB.)"),
        ([FREE, "RuntimeError: Engine core initialization failed."], f"not enough free GPU memory ({FREE})"),
        (
            ["ERROR: [Errno 98] error while attempting to bind on address ('127.0.0.1', 8001): address already in use"],
            "its port is already in use ([Errno 98] error while attempting to bind on address ('127.0.0.1', 8001): "
            "address already in use)",
        ),
        (
            ["3:M 21 Nov 2025 01:18:00.123 # Failed listening on port 6379 (TCP), aborting.", "bye"],
            "bye",
        ),
        (
            ["3:M 21 Nov 2025 01:18:00.123 # Fatal error loading the DB, check server logs. Exiting."],
            "its data file is damaged (Fatal error loading the DB, check server logs. Exiting.)",
        ),
        (
            ["huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name': '/srv/none'."],
            "the model was not found (huggingface_hub.errors.HFValidationError: Repo id must be in the form "
            "'repo_name': '/srv/none'.)",
        ),
        (["Permission denied."], "permission denied"),
        (
            ["INFO 11-21 01:20:33 [x.py:1] config: No such file or directory", "ValueError: bad dtype"],
            "ValueError: bad dtype",
        ),
        (["loading", "KeyError: 'x'", "shutting down now"], "KeyError: 'x'"),
        (["one", "two", "x.service: Consumed 3s CPU time."], "two"),
        (["Started x.service - X.", "x.service: Failed with result 'exit-code'."], ""),
        ([], ""),
        (["x" * 1000], "x" * 239 + "…"),
        (
            [
                "(Worker pid=7) ERROR 11-21 23:08:35 [multiproc_executor.py:900] safetensors_rust.SafetensorError: "
                "Error while deserializing header: incomplete metadata, file not fully covered",
                "(EngineCore pid=5) ERROR 11-21 23:08:36 [core.py:1510] Exception: WorkerProc initialization failed "
                "due to an exception in a background process. See stack trace for root cause.",
                "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
            ],
            "safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata, file not fully "
            "covered",
        ),
    ],
)
def test_last_words(lines: list[str], words: str) -> None:
    assert last_words(lines) == words


def test_both_together() -> None:
    sentence = explain(failed(), VLLM_OOM)
    assert sentence.startswith(f"{NAME} exited with status 1: CUDA out of memory (")


def test_systemds_own_exit_statuses_are_all_named() -> None:
    assert set(range(200, 246)) - set(EXIT_STATUS) == {223, 234}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("vllm serve m --api-key k-123 --port 8001", "vllm serve m --api-key *** --port 8001"),
        ("--api-key=k-123", "--api-key=***"),
        (
            "non-default args: {'port': 8001, 'api_key': ['k-123']}",
            "non-default args: {'port': 8001, 'api_key': ['***']}",
        ),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("redis://user:pw@localhost/0 refused", "redis://user:***@localhost/0 refused"),
        ("redis://:pw@localhost/0", "redis://:***@localhost/0"),
        ("LITELLM_MASTER_KEY=abc VLLM_API_KEY: def", "LITELLM_MASTER_KEY=*** VLLM_API_KEY: ***"),
        ("HF_TOKEN=hf_abc", "HF_TOKEN=***"),
        ("key sk-abcdefghijklmnop1234 used", "key *** used"),
        ("requirepass: password=hunter2", "requirepass: password=***"),
        ("max_tokens=256 tokens: 12 --api-key-file /x", "max_tokens=256 tokens: 12 --api-key-file /x"),
        ("--api-key --port 8001", "--api-key --port 8001"),
        ("http://127.0.0.1:8001/health", "http://127.0.0.1:8001/health"),
    ],
)
def test_redact(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    "piece", ["-", "a-", "a.", "key-", "password= ", "--password ", "a://", "sk-", "Bearer ", " ="]
)
def test_redact_takes_time_by_length_alone(piece: str) -> None:
    """Anybody writes lines. One pattern that looks far ahead from every place would need hours for these."""
    redact(piece * 100_000)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:p@h:1/x?key=2", "http://h:1/x"),
        ("unix://:p@/run/r.sock?db=0", "unix:///run/r.sock"),
        ("redis://h:6379", "redis://h:6379"),
        ("http://h?token=1", "http://h"),
        ("nonsense", "nonsense"),
    ],
)
def test_without_credentials(url: str, shown: str) -> None:
    assert without_credentials(url) == shown
