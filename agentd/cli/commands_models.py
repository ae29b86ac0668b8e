"""The commands about models as files, for the table in `commands`."""

from __future__ import annotations

from agentd.cli.table import DIRECTORIES, FILES, MODELS, NO_WAIT, SLOTS, WAIT, Arg, Command, Opt

GROUP = "Models"
NAME = Arg("name", "name of the model", complete=MODELS)

MODEL_COMMANDS = (
    Command(
        "models", "models, their slots, and which is resident", "models", group=GROUP, examples=["agentctl models"]
    ),
    Command(
        "models show",
        "everything that is known of a model: unit, arguments, files, what was learned",
        "models_show",
        group=GROUP,
        args=[NAME],
        examples=["agentctl models show qwen", "agentctl models show qwen --json | jq .facts"],
    ),
    Command(
        "models verify",
        "whether a model's files are whole, by their headers or by checksums",
        "models_verify",
        group=GROUP,
        args=[Arg("model", "name of a model, or a directory", complete=MODELS)],
        opts=[Opt("--checksums", text="read everything, and compare it with the checksums that are there")],
        examples=["agentctl models verify qwen", "agentctl models verify ~/models/qwen --checksums"],
    ),
    Command(
        "models add",
        "make a unit and a service for one more vLLM model",
        "models_add",
        group=GROUP,
        args=[
            Arg("name", "what it shall be called: the unit is vllm-NAME.service"),
            Arg("extra", "further arguments for vllm serve", many="--"),
        ],
        opts=[
            Opt("--path", value="DIR", complete=DIRECTORIES, text="directory with the model (or a .gguf file)"),
            Opt("--id", value="REPO", text="or its name at Hugging Face, ORG/NAME"),
            Opt("--port", value="N", kind="port", text="port on loopback (default: the next free one from 8001)"),
            Opt("--uds", value="PATH", text="or a unix socket, PATH.sock"),
            Opt("--served-name", value="NAME", text="name that requests use (default: the model's)"),
            Opt("--utilization", value="SHARE", default="0.9", text="of the GPU's memory (default: 0.9)"),
            Opt("--tensor-parallel", value="N", text="GPUs to spread over (default: all of the slot)"),
            Opt("--max-model-len", value="N", text="longest context in tokens, like 8192 or 32k"),
            Opt("--slot", value="NAME", complete=SLOTS, text="which slot (not needed when there is one)"),
            Opt(
                "--switch",
                value="WAY",
                choices=("stop", "sleep1", "sleep2", "auto"),
                default="stop",
                text="what becomes of it when another model is wanted (default: stop)",
            ),
            Opt("--loader", value="FORMAT", text='load format; "auto": the quickest that is installed'),
            Opt("--api-key-credential", value="FILE", complete=FILES, text="file with the API key alone, mode 0600"),
            Opt("--env-file", value="FILE", complete=FILES, text="or a file with VLLM_API_KEY=..., mode 0600"),
            Opt("--vllm", value="PROGRAM", complete=FILES, text="the vllm program (default: ~/.local/bin/vllm)"),
            Opt("--replace", text="change a model that was made by this command"),
            Opt("--force", text="also where its files were edited by hand"),
        ],
        examples=[
            "agentctl models add llama --path ~/models/llama --utilization 0.85",
            "agentctl models add phi --id microsoft/phi-4 --switch sleep1 -- --max-num-seqs 64",
        ],
    ),
    Command(
        "models remove",
        "take away what models add has made; never the weights",
        "models_remove",
        group=GROUP,
        args=[NAME],
        opts=[
            Opt("--keep-files", text="only out of agentd's configuration; the unit and others' drop-ins stay"),
            Opt("--force", text="also where its files were edited by hand"),
        ],
        examples=["agentctl models remove llama"],
    ),
    Command(
        "models sleep-check",
        "put the resident model to sleep and wake it, twice; says whether that is worth it",
        "models_sleep_check",
        group=GROUP,
        args=[NAME],
        opts=[
            Opt("--level", value="N", choices=("1", "2"), text="sleep level (default: the one it is configured for)"),
            Opt("--drain", value="TIME", kind="seconds", text="how long requests in flight may take (0: not at all)"),
            NO_WAIT,
            WAIT,
        ],
        examples=["agentctl models sleep-check qwen", "agentctl models sleep-check qwen --level 2 --drain 2min"],
    ),
    Command(
        "models guard",
        "for systemd, before a model starts: stop the others of its slot that are awake",
        "models_guard",
        group=GROUP,
        args=[
            Arg("unit", "the unit that is about to start"),
            Arg("others", "the other units of the slot and where they answer, as UNIT=URL", many="--"),
        ],
        opts=[Opt("--system", text="units of the system manager")],
        examples=["agentctl models guard vllm-qwen.service -- vllm-dolphin.service=http://127.0.0.1:8002"],
    ),
)
