"""The commands of profiles of use."""

from __future__ import annotations

from agentd.cli.table import DIRECTORIES, NO_WAIT, PROFILES, WAIT, Arg, Command, Opt

GROUP = "Profiles of use"
CONFIG = Opt(
    "--config", value="DIR", complete=DIRECTORIES, text="directory that replaces /etc/agentd and the user's own"
)

PROFILE_COMMANDS: tuple[Command, ...] = (
    Command(
        "profile list",
        "the profiles of use, which is selected, and what is wrong with those that cannot be",
        "profile_list",
        group=GROUP,
        opts=[CONFIG],
        examples=["agentctl profile list"],
    ),
    Command(
        "profile show",
        "what a profile changes",
        "profile_show",
        group=GROUP,
        args=[Arg("name", "name of a profile", complete=PROFILES)],
        opts=[CONFIG],
        examples=["agentctl profile show production"],
    ),
    Command(
        "profile use",
        "put a profile into force: settings, services and models as one change, undone when it fails",
        "profile_use",
        group=GROUP,
        args=[Arg("name", "name of a profile", many="?", complete=PROFILES)],
        opts=[
            Opt("--none", text="no profile"),
            Opt("--dry-run", text="show what would be done, and do nothing"),
            NO_WAIT,
            WAIT,
            CONFIG,
        ],
        examples=[
            "agentctl profile use production",
            "agentctl profile use testing --dry-run",
            "agentctl profile use --none",
        ],
    ),
)
