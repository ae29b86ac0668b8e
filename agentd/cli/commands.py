"""All commands of agentctl."""

from __future__ import annotations

from agentd.cli.commands_gateway import GATEWAY_COMMANDS
from agentd.cli.commands_gateway import GROUP as GATEWAY
from agentd.cli.commands_models import MODEL_COMMANDS
from agentd.cli.commands_profiles import GROUP as PROFILES
from agentd.cli.commands_profiles import PROFILE_COMMANDS
from agentd.cli.commands_stores import GROUP as DATA
from agentd.cli.commands_stores import STORE_COMMANDS
from agentd.cli.table import CHANGES, DIRECTORIES, MODELS, NO_WAIT, SERVICES, SLOTS, WAIT, Arg, Command, Opt

DRAIN = Opt("--drain", value="TIME", kind="seconds", text="wait so long for running requests (0: not at all)")
ON_BUSY = Opt(
    "--on-busy",
    value="POLICY",
    choices=("abort", "refuse"),
    text="when requests still run after the drain: abort them, or refuse the change",
)
SLOT = Opt("--slot", value="NAME", complete=SLOTS, text="which slot (not needed when there is one)")
CONFIG = Opt(
    "--config", value="DIR", complete=DIRECTORIES, text="directory that replaces /etc/agentd and the user's own"
)
LINES = Opt("-n", "--lines", value="N", kind="count", text="how many")
NAME = Arg("name", "name of a service", complete=SERVICES)

UNIT = Arg("unit", "a service or a unit (default: all)", many="?", complete=SERVICES)
RESTART = Opt(
    "--restart", text="restart the services whose drop-ins change, one at a time, and undo what does not start"
)
FORCE = Opt("--force", text="also replace drop-ins of ours that somebody edited")
ALL = Opt("--all", text="show what is effective line by line, too")

STATE, SWITCH, CARE, HARDENING, TOOLS = "What is going on", "Models", "Services", "Hardening", "More"

COMMANDS: tuple[Command, ...] = (
    Command(
        "status",
        "slots, services and what needs attention",
        "status",
        group=STATE,
        opts=[Opt("--check", text="exit 1 when something is not as it should be")],
        examples=["agentctl status", "agentctl status --json | jq .slots"],
    ),
    Command("gpu", "GPU memory and who holds it", "gpu", group=STATE, examples=["agentctl gpu"]),
    Command(
        "events",
        "the history: starts, deaths, switches, changes of the configuration",
        "events",
        group=STATE,
        opts=[Opt("-f", "--follow", text="go on as things happen"), LINES],
        examples=["agentctl events -n 20", "agentctl events -f"],
    ),
    Command(
        "logs",
        "a service's log, by journalctl",
        "logs",
        group=STATE,
        args=[
            Arg("name", 'a service, a unit, or "agentd"', complete=SERVICES),
            Arg("journalctl", "options for journalctl", many="--"),
        ],
        opts=[Opt("-f", "--follow", text="go on as lines come"), LINES],
        examples=["agentctl logs qwen -f", "agentctl logs qwen -n 500 -- --since today -p warning"],
    ),
    Command(
        "switch-model",
        "make a model resident in its slot, and undo that when it fails",
        "switch_model",
        group=SWITCH,
        args=[Arg("model", "name of the model", complete=MODELS)],
        opts=[
            NO_WAIT,
            DRAIN,
            ON_BUSY,
            Opt("--force", text="try even though the model failed a moment ago"),
            Opt("--no-rollback", text="leave the slot empty on failure"),
            Opt("--dry-run", text="show what would be checked and done, and do nothing"),
            WAIT,
        ],
        examples=["agentctl switch-model qwen", "agentctl switch-model dolphin --drain 2min --on-busy refuse"],
    ),
    Command(
        "switch status",
        "the last changes, or one of them in full",
        "switch_status",
        group=SWITCH,
        args=[Arg("id", "id of a change", many="?", complete=CHANGES)],
        opts=[Opt("-f", "--follow", text="watch it to its end; the exit code is the change's"), LINES],
        examples=["agentctl switch status", "agentctl switch status s1a2b3c4d5e -f"],
    ),
    Command(
        "switch cancel",
        "cancel a change; the model that serves, or served before, is kept",
        "switch_cancel",
        group=SWITCH,
        args=[Arg("id", "id of the change (default: the one that runs)", many="?", complete=CHANGES)],
        opts=[NO_WAIT, WAIT],
        examples=["agentctl switch cancel"],
    ),
    *MODEL_COMMANDS,
    Command(
        "unload",
        "empty a slot",
        "unload",
        group=SWITCH,
        opts=[SLOT, DRAIN, ON_BUSY, NO_WAIT, WAIT],
        examples=["agentctl unload"],
    ),
    Command(
        "lease",
        "lend a slot's GPU to something else for a time; the model comes back by itself",
        "lease",
        group=SWITCH,
        opts=[
            Opt("--for", value="TIME", kind="seconds", text='how long, like "2h" or "1h 30min" (required)'),
            SLOT,
            DRAIN,
            ON_BUSY,
            NO_WAIT,
            WAIT,
        ],
        examples=["agentctl lease --for 2h", "agentctl lease end"],
    ),
    Command(
        "lease end",
        "end a lease now and bring the model back",
        "lease_end",
        group=SWITCH,
        opts=[SLOT, NO_WAIT, WAIT],
        examples=["agentctl lease end"],
    ),
    Command("services", "services and their health", "services", group=CARE, examples=["agentctl services"]),
    Command(
        "start", "start a service", "service_actions", group=CARE, args=[NAME], examples=["agentctl start litellm"]
    ),
    Command("stop", "stop a service", "service_actions", group=CARE, args=[NAME], examples=["agentctl stop ollama"]),
    Command(
        "restart",
        "restart a service",
        "service_actions",
        group=CARE,
        args=[NAME],
        examples=["agentctl restart litellm"],
    ),
    Command(
        "wait-ready",
        "wait until a service really answers; for scripts and ExecStartPost=",
        "wait_ready",
        group=CARE,
        args=[NAME],
        opts=[
            Opt(
                "--timeout", value="TIME", kind="seconds", default=600.0, text="give up after so long (default: 10min)"
            ),
            Opt("--url", value="URL", text="ask this url (http, http+unix, tcp, redis or unix), not agentd"),
            Opt("--quiet", text="say nothing when it is ready; the journal of a unit is for the unit's own words"),
            Opt("--expect", value="STATUS", text="HTTP statuses that count, like 200 or 200,401 (default: 200)"),
            CONFIG,
        ],
        examples=[
            "agentctl wait-ready qwen --timeout 5min",
            "agentctl wait-ready qwen --url http://127.0.0.1:8001/health",
        ],
    ),
    Command(
        "dropins plan",
        "what an installation of the hardening drop-ins would change",
        "dropins_plan",
        group=HARDENING,
        args=[UNIT],
        opts=[FORCE],
        examples=["agentctl dropins plan", "agentctl dropins plan litellm"],
    ),
    Command(
        "dropins apply",
        "install the declared drop-ins, all or nothing",
        "dropins_apply",
        group=HARDENING,
        args=[UNIT],
        opts=[RESTART, FORCE, NO_WAIT, WAIT],
        examples=["agentctl dropins apply", "agentctl dropins apply litellm --restart"],
    ),
    Command(
        "dropins verify",
        "what is really in effect for the running processes, why not, and the fix",
        "dropins_verify",
        group=HARDENING,
        args=[UNIT],
        opts=[ALL],
        examples=["agentctl dropins verify", "agentctl dropins verify litellm --all"],
    ),
    Command(
        "dropins prove",
        "try the forbidden and the needed in the same sandbox as the unit's",
        "dropins_verify",
        group=HARDENING,
        args=[Arg("unit", "a service or a unit", complete=SERVICES)],
        opts=[ALL],
        examples=["agentctl dropins prove litellm"],
    ),
    Command(
        "dropins show",
        "the declared drop-ins with their comments, or the sets installed so far",
        "dropins_show",
        group=HARDENING,
        args=[UNIT],
        opts=[Opt("--sets", text="list the installed sets instead")],
        examples=["agentctl dropins show litellm", "agentctl dropins show --sets"],
    ),
    Command(
        "dropins rollback",
        "bring an earlier set of drop-ins back",
        "dropins_apply",
        group=HARDENING,
        args=[Arg("set", "id of a set (default: the one before)", many="?")],
        opts=[RESTART, NO_WAIT, WAIT],
        examples=["agentctl dropins rollback", "agentctl dropins rollback 3 --restart"],
    ),
    Command(
        "dropins adopt",
        "take a unit's edited or hand-written drop-ins over into the configuration",
        "dropins_adopt",
        group=HARDENING,
        args=[Arg("unit", "a service or a unit", complete=SERVICES)],
        examples=["agentctl dropins adopt litellm"],
    ),
    Command(
        "host-setup",
        "what root has to set up once, so that a user's limits and sandboxes can be enforced",
        "host_setup",
        group=HARDENING,
        opts=[
            Opt("--apply", text="do it (as root); without this it is only shown"),
            Opt("--undo", text="take our files away again (as root)"),
            Opt("--restart", text="with --apply: restart the user's manager too, and all services of the user"),
            Opt("--user", value="NAME", text="whose manager (default: your own, under sudo that of the one who calls)"),
            Opt("--yes", text="do not ask"),
            CONFIG,
        ],
        examples=["agentctl host-setup", "agentctl host-setup --apply --user ai", "agentctl host-setup --undo"],
    ),
    *STORE_COMMANDS,
    *GATEWAY_COMMANDS,
    *PROFILE_COMMANDS,
    Command(
        "config show",
        "the configuration, as the files say it",
        "config_show",
        group=TOOLS,
        opts=[
            Opt("--provenance", text="say for every value which file set it"),
            Opt("--defaults", text="show the values that no file sets, too"),
            CONFIG,
        ],
        examples=["agentctl config show --provenance"],
    ),
    Command(
        "config check",
        "check the configuration's files and list every error",
        "config_check",
        group=TOOLS,
        opts=[CONFIG],
        examples=["agentctl config check", "agentctl config check --config ./etc"],
    ),
    Command("reload", "make agentd read its configuration again", "reload", group=TOOLS, examples=["agentctl reload"]),
    Command("version", "versions of agentctl and of agentd", "version", group=TOOLS, examples=["agentctl version"]),
    Command(
        "completion",
        "print the completions for a shell",
        "completion",
        group=TOOLS,
        args=[Arg("shell", "bash, zsh or fish", choices=("bash", "zsh", "fish"))],
        examples=["agentctl completion bash > ~/.local/share/bash-completion/completions/agentctl"],
    ),
    Command(
        "sandbox",
        "a private systemd with everything in it, to look at and to test in",
        "cmd_sandbox",
        group=TOOLS,
        own_parser=True,
    ),
)

BY_WORDS = {command.words: command for command in COMMANDS}
GROUPS = (STATE, SWITCH, CARE, HARDENING, DATA, GATEWAY, PROFILES, TOOLS)


def find(argv: list[str]) -> tuple[Command | None, list[str]]:
    """The command with the most words that `argv` begins with, and what follows it."""
    for count in (2, 1):
        command = BY_WORDS.get(tuple(argv[:count]))
        if command is not None and len(argv) >= count:
            return command, argv[count:]
    return None, argv
