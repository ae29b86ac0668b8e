"""The commands about stores, for the table in `commands`."""

from __future__ import annotations

from agentd.cli.table import DIRECTORIES, FILES, NO_WAIT, STORES, WAIT, Arg, Command, Opt

GROUP = "Stores"
STORE = Arg("store", "name of a store (default: all)", many="?", complete=STORES)
ONE = Arg("store", "name of a store (not needed when there is one)", many="?", complete=STORES)

STORE_COMMANDS = (
    Command(
        "redis status",
        "how durable the data of each Redis is, and what to do about it",
        "redis_status",
        group=GROUP,
        args=[STORE],
        examples=["agentctl redis status", "agentctl redis status redis --json"],
    ),
    Command(
        "redis verify",
        "look anew: run time, configuration file, append-only file; exit 1 unless all is durable",
        "redis_verify",
        group=GROUP,
        args=[STORE],
        opts=[Opt("--all", text="show what is as it should be line by line, too")],
        examples=["agentctl redis verify", "agentctl redis verify redis --all"],
    ),
    Command(
        "redis enforce",
        "bring a Redis to AOF and RDB, now and in its file, without a restart",
        "redis_change",
        group=GROUP,
        args=[ONE],
        opts=[
            Opt("--dry-run", text="show what would be done, and do nothing"),
            Opt("--accept-loss", text="go on with the data set that is there, although it was found empty"),
            NO_WAIT,
            WAIT,
        ],
        examples=["agentctl redis enforce --dry-run", "agentctl redis enforce redis"],
    ),
    Command(
        "redis drill",
        "prove on a copy that the next start would bring the data back",
        "redis_change",
        group=GROUP,
        args=[ONE],
        opts=[NO_WAIT, WAIT],
        examples=["agentctl redis drill redis"],
    ),
    Command(
        "redis backup",
        "save, copy, and check the copy by loading it",
        "redis_change",
        group=GROUP,
        args=[ONE],
        opts=[
            Opt(
                "--to", value="DIR", complete=DIRECTORIES, text="directory for the backup (default: the configured one)"
            ),
            Opt("--keep", value="N", kind="count", text="so many backups of the store stay (default: as configured)"),
            NO_WAIT,
            WAIT,
        ],
        examples=["agentctl redis backup", "agentctl redis backup redis --to /srv/backups --keep 30"],
    ),
    Command(
        "redis restore",
        "put a backup into the data directory of a stopped Redis",
        "redis_restore",
        group=GROUP,
        args=[Arg("backup", "directory of a backup", complete=DIRECTORIES)],
        opts=[
            Opt("--into", value="DIR", complete=DIRECTORIES, text="data directory (default: that of the store)"),
            Opt("--check", text="only check the backup: every file, and that it loads"),
            Opt("--store", value="NAME", complete=STORES, text="which store (default: the one in the backup)"),
        ],
        examples=[
            "agentctl redis restore ~/backups/redis-20270115T120000Z --check",
            "agentctl redis restore ~/backups/redis-20270115T120000Z --store redis",
        ],
    ),
    Command(
        "redis persist",
        "what a redis.conf makes effective, and the lines that bring it to the policy; for root",
        "redis_persist",
        group=GROUP,
        args=[Arg("file", "the main configuration file of a Redis", complete=FILES)],
        opts=[
            Opt("--unit", value="UNIT", text="unit whose arguments count (default: that of the running server)"),
            Opt("--apply", text="edit the file; the old text is kept beside it"),
        ],
        examples=[
            "agentctl redis persist /etc/redis/redis.conf",
            "agentctl redis persist /etc/redis/redis.conf --unit redis-server.service --apply",
        ],
    ),
)
