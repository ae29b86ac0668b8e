"""The commands about the gateway and its keys, for the table in `commands`."""

from __future__ import annotations

from agentd.cli.table import DIRECTORIES, FILES, NO_WAIT, WAIT, Arg, Command, Opt

GROUP = "Gateway"
CONFIG = Opt(
    "--config", value="DIR", complete=DIRECTORIES, text="directory that replaces /etc/agentd and the user's own"
)
SOURCES = Opt("--sources", value="DIR", complete=DIRECTORIES, text="directory of the sources (default: as configured)")
NO_NETWORK = Opt("--no-network", text="do not ask the providers, and do not look at listening sockets")
WHAT = Arg("what", "provider or model", choices=("provider", "model"))
NAME = Arg("name", "its name in the sources")

GATEWAY_COMMANDS = (
    Command(
        "gateway init",
        "lay the three sources down to begin with; what is there stays",
        "gateway_init",
        group=GROUP,
        opts=[Opt("--into", value="DIR", complete=DIRECTORIES, text="directory (default: as configured)"), CONFIG],
        examples=["agentctl gateway init", "agentctl gateway init --into ./gateway"],
    ),
    Command(
        "gateway import",
        "make the sources from a hand-written LiteLLM config",
        "gateway_import",
        group=GROUP,
        args=[Arg("file", "a LiteLLM config", complete=FILES)],
        opts=[
            Opt("--into", value="DIR", complete=DIRECTORIES, text="directory of the sources (default: as configured)"),
            Opt("--force", text="replace sources that are there"),
            CONFIG,
        ],
        examples=["agentctl gateway import ~/.config/litellm/config.yaml --into ./gateway"],
    ),
    Command(
        "gateway validate",
        "check the sources and what they need; every problem with its place and its fix",
        "gateway_validate",
        group=GROUP,
        opts=[
            NO_NETWORK,
            Opt("--strict", text="warnings count as errors"),
            Opt("--format", value="FORMAT", choices=("text", "json", "sarif"), text="text, json or sarif"),
            SOURCES,
            CONFIG,
        ],
        examples=["agentctl gateway validate", "agentctl gateway validate --no-network --format sarif > gateway.sarif"],
    ),
    Command(
        "gateway prove",
        "measure by requests, against stand-ins under a scratch LiteLLM, that the policy of the sources holds",
        "gateway_prove",
        group=GROUP,
        opts=[
            Opt("--full", text="with the real times, not with shorter ones: about ten minutes"),
            Opt("--only", value="NAME", text='a promise, the beginning of names or a pattern: "breaker", "chain:*"'),
            SOURCES,
            CONFIG,
        ],
        examples=["agentctl gateway prove", "agentctl gateway prove --only breaker --json"],
    ),
    Command(
        "gateway generate",
        "write LiteLLM's config from the sources; the version before is kept",
        "gateway_generate",
        group=GROUP,
        opts=[
            Opt("--dry-run", text="show what would change, and write nothing"),
            Opt("--force", text="also replace a file that somebody edited"),
            Opt("--output", value="FILE", complete=FILES, text='write there instead; "-" is standard output'),
            NO_NETWORK,
            SOURCES,
            CONFIG,
        ],
        examples=["agentctl gateway generate --dry-run", "agentctl gateway generate"],
    ),
    Command(
        "gateway diff",
        "what a generation would change; exit 1 when something would",
        "gateway_diff",
        group=GROUP,
        args=[Arg("version", "compare the file with this earlier version instead", many="?")],
        opts=[SOURCES, CONFIG],
        examples=["agentctl gateway diff"],
    ),
    Command(
        "gateway status",
        "whether it serves what its file promises, by which configuration, and what to do about it",
        "gateway_status",
        group=GROUP,
        opts=[
            Opt("--look", text="look at it now instead of showing the last look"),
            Opt("--check", text="exit 1 when something needs attention"),
        ],
        examples=["agentctl gateway status", "agentctl gateway status --look --json"],
    ),
    Command(
        "gateway apply",
        "put what the sources give to use: check it, write it, restart, verify; undone when it does not come up",
        "gateway_apply",
        group=GROUP,
        opts=[
            Opt("--dry-run", text="show what would be done, and do nothing"),
            Opt("--force", text="also over a file that somebody edited"),
            NO_WAIT,
            WAIT,
        ],
        examples=["agentctl gateway apply --dry-run", "agentctl gateway apply"],
    ),
    Command(
        "gateway rollback",
        "bring an earlier generated config back",
        "gateway_rollback",
        group=GROUP,
        args=[Arg("version", "id of a version (default: the one before)", many="?")],
        opts=[
            Opt("--list", text="list the versions instead"),
            Opt("--apply", text="let agentd put it to use, too, and undo that when it does not come up"),
            NO_WAIT,
            WAIT,
            CONFIG,
        ],
        examples=["agentctl gateway rollback --list", "agentctl gateway rollback --apply"],
    ),
    Command(
        "gateway serve",
        "run LiteLLM with agentd's runtime, in place of this process (for litellm.service)",
        "gateway_serve",
        group=GROUP,
        opts=[
            Opt("--config", value="FILE", complete=FILES, text="the generated configuration"),
            Opt("--host", value="ADDRESS", default="127.0.0.1", text="address, when systemd hands over no socket"),
            Opt("--port", value="N", kind="port", default=4001, text="port, when systemd hands over no socket"),
            Opt("--control", value="PATH", complete=FILES, text="unix socket where agentd looks at it"),
            Opt("--standby", text="accept on the public socket only after SIGUSR1"),
            Opt("--litellm", value="PROGRAM", complete=FILES, text="the litellm program (default: PATH, ~/.local/bin)"),
        ],
        examples=["agentctl gateway serve --config ~/.config/litellm/litellm-unified.yaml --port 4001"],
    ),
    Command(
        "gateway enable",
        "enable a provider or a model in the sources",
        "gateway_edit",
        group=GROUP,
        args=[WHAT, NAME],
        opts=[SOURCES, CONFIG],
        examples=["agentctl gateway enable provider openai"],
    ),
    Command(
        "gateway disable",
        "disable a provider or a model in the sources",
        "gateway_edit",
        group=GROUP,
        args=[WHAT, NAME],
        opts=[SOURCES, CONFIG],
        examples=["agentctl gateway disable model dolphin"],
    ),
    Command(
        "gateway set",
        "set one value in the sources; comments stay",
        "gateway_edit",
        group=GROUP,
        args=[
            Arg("path", "where, with dots: policy.retries, models.qwen.limits.rpm"),
            Arg("value", "the value, as YAML"),
        ],
        opts=[SOURCES, CONFIG],
        examples=["agentctl gateway set policy.timeouts.try 20s", "agentctl gateway set ports.gateway 4002"],
    ),
    Command(
        "secrets init",
        "make the keys that are missing, for the gateway and the vLLM servers",
        "secrets_init",
        group=GROUP,
        opts=[Opt("--show", text="print the keys"), CONFIG],
        examples=["agentctl secrets init"],
    ),
    Command(
        "secrets check",
        "whether every key is there, strong, private, the same everywhere, and what the gateway says",
        "secrets_check",
        group=GROUP,
        opts=[Opt("--no-network", text="do not ask the running gateway"), CONFIG],
        examples=["agentctl secrets check"],
    ),
    Command(
        "secrets rotate",
        "new keys everywhere, in the order that refuses nobody; undone when it fails",
        "secrets_rotate",
        group=GROUP,
        opts=[
            Opt("--master", text="only the gateway's own key"),
            Opt("--vllm", text="only the keys of the vLLM servers"),
            Opt("--overlap", text="go on accepting the old master key, until --finish"),
            Opt("--finish", text="end an overlap: the old master key is refused from then on"),
            Opt("--dry-run", text="show what would be done, and do nothing"),
            CONFIG,
        ],
        examples=["agentctl secrets rotate --dry-run", "agentctl secrets rotate --master --overlap"],
    ),
    Command(
        "smoke-test",
        "ask every model one real question through the gateway",
        "smoke_test",
        group=GROUP,
        opts=[
            Opt("--model", value="NAME", text="only this one"),
            Opt("--url", value="URL", text="the gateway's address (default: as configured)"),
            Opt("--timeout", value="TIME", kind="seconds", default=120.0, text="longest wait for one answer (120 s)"),
            Opt("--concurrency", value="N", kind="count", default=1, text="so many questions at once (1)"),
            CONFIG,
        ],
        examples=["agentctl smoke-test", "agentctl smoke-test --model qwen --json"],
    ),
)
