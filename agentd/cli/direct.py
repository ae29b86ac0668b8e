"""One question to a service, by a plain socket: HTTP status, TCP connect, or Redis PING."""

from __future__ import annotations

import socket

from agentd.cli.parser import UsageError

FORMS = "http://HOST:PORT/PATH, tcp://HOST:PORT, redis://HOST:PORT, unix:///PATH or http+unix:///SOCKET.sock/PATH"
_MOST = 1 << 20
_PORTS = {"http": 80, "https": 443, "redis": 6379}


def ask(url: str, expect: tuple[int, ...], timeout: float) -> str:
    """Why the service does not answer as it should; "" when it does.

    Raises UsageError for a url that nobody can ask.
    """
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    host, port = _host_port(url, scheme, authority)
    try:
        if scheme == "http+unix":
            name, path = _socket(url)
            with _connect("unix", "", 0, name, timeout) as sock:
                return _http(sock, "localhost", path, expect)
        with _connect(scheme, host, port, "/" + path, timeout) as sock:
            if scheme in ("http", "https"):
                return _http(sock, authority.rpartition("@")[2], "/" + path, expect)
            return _redis(sock) if scheme in ("redis", "unix") else ""
    except TimeoutError:
        return f"no answer within {timeout:.2g} s"
    except OSError as error:
        return (error.strerror or str(error)).lower()


def fetch(url: str, timeout: float) -> tuple[int, bytes]:
    """Status and body of a GET by http:// or http+unix://; (0, b"") when nobody answers. At most a MiB."""
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    host, port = _host_port(url, scheme, authority)
    where, path = _socket(url) if scheme == "http+unix" else ("/" + path, "/" + path)
    name = authority.rpartition("@")[2] or "localhost"
    try:
        with _connect("unix" if scheme == "http+unix" else scheme, host, port, where, timeout) as sock:
            sock.sendall(f"GET {path} HTTP/1.0\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while len(answer) < _MOST and (data := sock.recv(4096)):
                answer += data
    except OSError:
        return 0, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(b" ")
    return (int(words[1]), body) if len(words) > 1 and words[1].isdigit() else (0, b"")


def _connect(scheme: str, host: str, port: int, path: str, timeout: float) -> socket.socket:
    if scheme == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        return sock
    sock = socket.create_connection((host, port), timeout)
    if scheme != "https":
        return sock
    import ssl

    return ssl.create_default_context().wrap_socket(sock, server_hostname=host)


def _http(sock: socket.socket, host: str, path: str, expect: tuple[int, ...]) -> str:
    sock.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    head = b""
    while b"\n" not in head and len(head) < 4096:
        data = sock.recv(4096)
        if not data:
            break
        head += data
    words = head.split(b"\r\n", 1)[0].split(b" ")
    if not words[0].startswith(b"HTTP/") or len(words) < 2 or not words[1].isdigit():
        return "what answers does not speak HTTP" if head else "the connection was closed without an answer"
    status = int(words[1])
    return "" if status in expect else f"it answers with status {status}"


def _socket(url: str) -> tuple[str, str]:
    """As core.addresses.split_http_socket: the socket ends with the first name in .sock."""
    parts = url.partition("://")[2].split("/")
    end = next((n for n, part in enumerate(parts) if n and len(part) > 5 and part.endswith(".sock")), 0)
    if not end:
        raise UsageError(f'cannot ask "{url}"', f"write it as {FORMS}")
    return "/".join(parts[: end + 1]), "/" + "/".join(parts[end + 1 :])


def _redis(sock: socket.socket) -> str:
    sock.sendall(b"*1\r\n$4\r\nPING\r\n")
    answer = sock.recv(256).split(b"\r\n")[0].decode("latin-1")
    # A server that wants a password is up; one that still loads its data is not.
    return "" if answer.startswith(("+PONG", "-NOAUTH")) else f"Redis answers {answer[:80] or 'nothing'}"


def _host_port(url: str, scheme: str, authority: str) -> tuple[str, int]:
    if scheme in ("unix", "http+unix") and not authority:
        return "", 0
    host, _, port = authority.rpartition("@")[2].rpartition(":")
    if not host or port.endswith("]"):
        host, port = authority.rpartition("@")[2], str(_PORTS.get(scheme, ""))
    if scheme not in ("http", "https", "tcp", "redis") or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f'cannot ask "{url}"', f"write it as {FORMS}")
    return host.strip("[]"), int(port)
