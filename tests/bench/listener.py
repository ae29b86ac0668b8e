"""An event listener of supervisord: passes on what it is told, with the time, to a datagram socket."""

import socket
import sys
import time


def main() -> None:
    news = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    news.connect(sys.argv[1])
    while True:
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        head = sys.stdin.readline()
        at = time.clock_gettime_ns(time.CLOCK_MONOTONIC) / 1e6
        if not head:
            return
        fields = dict(word.split(":") for word in head.split())
        payload = dict(word.split(":") for word in sys.stdin.read(int(fields["len"])).split())
        if payload.get("processname") != "watch":
            news.send(f"{at} {fields['eventname']} {payload.get('pid', 0)}".encode())
        sys.stdout.write("RESULT 2\nOK")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
