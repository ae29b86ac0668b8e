"""How a vLLM server starts and ends: one suite for the stand-in and for the real one on the CPU.

Subclass `LifeContract` and give it a fixture `program`. Each test starts servers of its own, which takes the real one a
quarter of a minute and more.
"""

from __future__ import annotations

import os
import signal
import socket

import pytest
from servercontract import PROMPT, complete, in_work
from vllmserver import LOCAL, Program

IN_USE = "Address already in use"


class LifeContract:
    def test_the_port_is_bound_but_refuses_while_it_loads(self, program: Program) -> None:
        program.prepare({"load_seconds": 0.5})
        server = program.start()
        server.until(lambda: "VLLM::EngineCore" in server.look().values())
        assert not server.listens()
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind((LOCAL, server.port))
        server.serving()
        assert server.engine() != server.process.pid
        for path in ("/sleep", "/wake_up", "/pause", "/resume", "/collective_rpc", "/abort_requests"):
            assert server.ask("POST", path)[0] == 404, "there is no development mode"
        second = program.start(port=server.port)
        assert second.ended() == 1
        assert IN_USE in second.log.read_text()
        assert complete(server), "the first one has not noticed"
        server.process.terminate()
        assert server.ended() == 0
        server.until(lambda: not server.left())
        assert not server.listens()

    def test_a_socket_in_the_file_system(self, program: Program) -> None:
        path = program.directory / "s"
        program.prepare({"load_seconds": 0.5})
        server = program.start(uds=path)
        server.until(path.exists)
        assert not server.listens()
        umask = os.umask(0o022)
        os.umask(umask)
        assert path.stat().st_mode & 0o777 == 0o777 & ~umask
        server.serving()
        assert complete(server)
        server.process.terminate()
        assert server.ended() == 0
        assert path.exists(), "nobody removes it"
        again = program.start(uds=path)
        assert again.ended() == 1, "and it is in the way of the next one"
        assert IN_USE in again.log.read_text()

    def test_an_engine_outlives_a_server_that_is_killed(self, program: Program) -> None:
        server = program.start().serving()
        engine = server.engine()
        server.process.kill()
        server.ended()
        assert server.left().get(engine) == "VLLM::EngineCore"
        server.destroy()
        server.until(lambda: not server.left())

    def test_a_server_whose_engine_is_killed_ends_as_if_all_were_well(self, program: Program) -> None:
        """Status 0: `Restart=on-failure` does not start it again."""
        server = program.start().serving()
        os.kill(server.engine(), signal.SIGKILL)
        assert server.ended() == 0
        assert "EngineDeadError" in server.log.read_text()

    def test_sigterm_with_a_request_in_work_ends_it_once_its_client_has_left(self, program: Program) -> None:
        """Not before, now and then: its engine is gone, and the request waits for an answer that nobody gives."""
        server = program.start().serving()
        with in_work(server):
            server.process.terminate()
            server.until(lambda: server.engine_gone())
        assert server.ended() == 0
        server.until(lambda: not server.left())

    def test_with_a_shutdown_timeout_sigterm_lets_what_runs_end(self, program: Program) -> None:
        server = program.start("--shutdown-timeout", "20").serving()
        with in_work(server) as asked:
            server.process.terminate()
            server.until(lambda: "shutdown triggered" in server.log.read_text())
            status, error = server.error("POST", "/v1/completions", PROMPT)
            assert (status, error["message"]) == (500, "cannot schedule new futures after shutdown")
            assert {choice["finish_reason"] for choice in asked.answer()["choices"]} == {"length"}
        assert server.ended() == 0

    def test_a_missing_model_directory(self, program: Program) -> None:
        program.model = program.directory / "none"
        assert program.start().ended() == 1
