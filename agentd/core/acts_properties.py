"""Which properties of a unit its canary is given, and why others are not. Pure data, and the few that change form.

Names and D-Bus signatures are systemd's. What is about a process's rights and surroundings is copied; what is about
other processes, files of the unit's own or secrets is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

SIGNATURES: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("DynamicUser", "LockPersonality", "MemoryDenyWriteExecute", "MountAPIVFS", "NoNewPrivileges"),
            *("PrivateDevices", "PrivateIPC", "PrivateMounts", "PrivateNetwork", "PrivateTmp", "PrivateUsers"),
            *("ProtectClock", "ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules"),
            *("ProtectKernelTunables", "RestrictRealtime", "RestrictSUIDSGID"),
            *("CPUSchedulingResetOnFork", "IgnoreSIGPIPE"),
        ),
        "b",
    ),
    **dict.fromkeys(
        (
            *("User", "Group", "WorkingDirectory", "RootDirectory", "ProtectHome", "ProtectSystem", "ProtectProc"),
            *("ProcSubset", "KeyringMode", "Personality", "DevicePolicy", "NotifyAccess", "NetworkNamespacePath"),
            *("IPCNamespacePath", "PrivateTmpEx", "PrivateUsersEx", "ProtectControlGroupsEx", "PrivatePIDs"),
            *("ProtectHostnameEx", "PrivateBPF"),
        ),
        "s",
    ),
    **dict.fromkeys(
        (
            *("SupplementaryGroups", "ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths"),
            *("NoExecPaths", "SystemCallArchitectures"),
        ),
        "as",
    ),
    **dict.fromkeys(
        (
            *("SystemCallFilter", "SystemCallLog", "RestrictAddressFamilies", "RestrictFileSystems"),
            "RestrictNetworkInterfaces",
        ),
        "(bas)",
    ),
    **dict.fromkeys(
        (
            *("CapabilityBoundingSet", "AmbientCapabilities", "RestrictNamespaces", "MountFlags", "TimerSlackNSec"),
            *("LimitNOFILE", "LimitNOFILESoft", "LimitCORE", "LimitCORESoft", "LimitMEMLOCK", "LimitMEMLOCKSoft"),
            *("LimitNPROC", "LimitNPROCSoft", "LimitFSIZE", "LimitFSIZESoft", "LimitSTACK", "LimitSTACKSoft"),
            *("LimitRTPRIO", "LimitRTPRIOSoft", "LimitNICE", "LimitNICESoft", "MemoryMax", "MemorySwapMax", "TasksMax"),
        ),
        "t",
    ),
    **dict.fromkeys(("OOMScoreAdjust", "Nice", "SystemCallErrorNumber", "SecureBits"), "i"),
    "UMask": "u",
    **dict.fromkeys(("BindPaths", "BindReadOnlyPaths"), "a(ssbt)"),
    **dict.fromkeys(("TemporaryFileSystem", "DeviceAllow"), "a(ss)"),
    **dict.fromkeys(("IPAddressAllow", "IPAddressDeny"), "a(iayu)"),
    **dict.fromkeys(("SocketBindAllow", "SocketBindDeny"), "a(iiqq)"),
}

IDENTITY = ("User", "Group", "SupplementaryGroups", "DynamicUser")
"""What the control canary is given too: without it, a refusal would be another user's."""

_DIRECTORIES = "its directories belong to the running service; a canary with the same ones would own or remove them"
_SECRET = "credentials are not read"
_IMAGE = "the canary's interpreter would have to be in the image"
LEFT_OUT: Mapping[str, str] = {
    "StateDirectory": _DIRECTORIES,
    "CacheDirectory": _DIRECTORIES,
    "LogsDirectory": _DIRECTORIES,
    "ConfigurationDirectory": _DIRECTORIES,
    "RuntimeDirectory": _DIRECTORIES,
    "LoadCredential": _SECRET,
    "LoadCredentialEncrypted": _SECRET,
    "SetCredential": _SECRET,
    "SetCredentialEncrypted": _SECRET,
    "RemoveIPC": "at its end a canary would remove what the service shares",
    "PAMName": "a session of its own would be opened",
    "RootImage": _IMAGE,
    "MountImages": _IMAGE,
    "ExtensionImages": _IMAGE,
    "ExtensionDirectories": _IMAGE,
    "SELinuxContext": "the policy may not let the canary's interpreter in",
    "AppArmorProfile": "the policy may not let the canary's interpreter in",
    "SmackProcessLabel": "the policy may not let the canary's interpreter in",
}
"""Set properties that the canary does not get, and why."""

_BY_WORD = {
    "PrivateTmpEx": "PrivateTmp",
    "PrivateUsersEx": "PrivateUsers",
    "ProtectControlGroupsEx": "ProtectControlGroups",
    "ProtectHostnameEx": "ProtectHostname",
}
"""systemd 257 has more than yes and no for these; the boolean besides says less."""


def to_copy(wanted: Mapping[str, object], plain: Mapping[str, object]) -> Iterator[tuple[str, str, object]]:
    """Name, signature and value of what differs from `plain`, the properties of a unit without any directive."""
    words = {_BY_WORD[name] for name in wanted if name in _BY_WORD}
    for name, signature in SIGNATURES.items():
        if name in words or name not in wanted or name in IDENTITY:
            continue
        if name not in plain or wanted[name] != plain[name]:
            yield name, signature, as_set(name, wanted[name])


def as_set(name: str, value: object) -> object:
    """systemd reads a working directory that may be missing with "!" before it, and wants "-"."""
    if name == "WorkingDirectory" and isinstance(value, str) and value.startswith("!"):
        return "-" + value[1:]
    return value


def identity(wanted: Mapping[str, object]) -> Iterator[tuple[str, str, object]]:
    for name in IDENTITY:
        if wanted.get(name):
            yield name, SIGNATURES[name], wanted[name]


def same(name: str, one: object, other: object) -> bool:
    """systemd adds to DeviceAllow= what other directives need, also when it is there already."""
    if name == "DeviceAllow" and isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return {tuple(row) for row in one} == {tuple(row) for row in other}
    return one == other


def given(wanted: Mapping[str, object], found: Mapping[str, object], plain: Mapping[str, object]) -> tuple[str, ...]:
    """Directives that a canary with the properties `found` really had, and that a plain unit has not."""
    known = [name for name in SIGNATURES if name in wanted and wanted[name] != plain.get(name)]
    names = [name for name in known if same(name, wanted[name], found.get(name))]
    return tuple(dict.fromkeys([*names, *(_BY_WORD[name] for name in names if name in _BY_WORD)]))


def left_out(wanted: Mapping[str, object], found: Mapping[str, object], plain: Mapping[str, object]) -> Iterator[str]:
    """ "NAME: why", for what is set and was not given."""
    for name, why in LEFT_OUT.items():
        if name in wanted and name in plain and wanted[name] != plain[name]:
            yield f"{name}: {why}"
    had = given(wanted, found, plain)
    for name in SIGNATURES:
        if name in wanted and wanted[name] != plain.get(name) and name not in had:
            yield f"{name}: systemd did not take it over"
