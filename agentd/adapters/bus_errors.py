"""D-Bus error names to our kinds: one table, at the edge. The D-Bus name and text are always kept."""

from __future__ import annotations

from agentd.errors import BusError

_DBUS = "org.freedesktop.DBus.Error."
_SYSTEMD = "org.freedesktop.systemd1."

KINDS = {
    _DBUS + "AccessDenied": "access-denied",
    _DBUS + "AuthFailed": "access-denied",
    _DBUS + "InteractiveAuthorizationRequired": "access-denied",
    _DBUS + "NoReply": "bus-timeout",
    _DBUS + "Timeout": "bus-timeout",
    _DBUS + "TimedOut": "bus-timeout",
    _DBUS + "Disconnected": "bus-down",
    _DBUS + "NoServer": "bus-down",
    _DBUS + "ServiceUnknown": "manager-gone",
    _DBUS + "NameHasNoOwner": "manager-gone",
    _DBUS + "LimitsExceeded": "bus-limits",
    _DBUS + "NoMemory": "bus-limits",
    _DBUS + "InvalidArgs": "bus-invalid",
    _DBUS + "UnknownMethod": "bus-unknown",
    _DBUS + "UnknownObject": "bus-unknown",
    _DBUS + "UnknownInterface": "bus-unknown",
    _DBUS + "UnknownProperty": "bus-unknown",
    _DBUS + "PropertyReadOnly": "bus-invalid",
    _SYSTEMD + "NoSuchUnit": "unit-not-found",
    _SYSTEMD + "LoadFailed": "unit-not-loadable",
    _SYSTEMD + "BadUnitSetting": "unit-not-loadable",
    _SYSTEMD + "UnitMasked": "unit-masked",
    _SYSTEMD + "UnitExists": "unit-exists",
    _SYSTEMD + "NoIsolation": "unit-refused",
    _SYSTEMD + "OnlyByDependency": "unit-refused",
    _SYSTEMD + "JobTypeNotApplicable": "unit-refused",
    _SYSTEMD + "TransactionIsDestructive": "transaction-refused",
    _SYSTEMD + "TransactionJobsConflicting": "transaction-refused",
    _SYSTEMD + "TransactionOrderIsCyclic": "transaction-refused",
    _SYSTEMD + "NoSuchJob": "job-not-found",
    _SYSTEMD + "NoSuchProcess": "process-not-found",
    _SYSTEMD + "ShuttingDown": "manager-stopping",
    _SYSTEMD + "AlreadySubscribed": "already-subscribed",
    _SYSTEMD + "NotSubscribed": "not-subscribed",
}

HINTS = {
    "access-denied": "run it as the user who owns the units, or as root for system units",
    "manager-gone": "check that the service manager runs: systemctl --user is-system-running",
    "unit-masked": "unmask it with: systemctl unmask UNIT (add --user for your own units)",
    "unit-not-found": "list what there is with: systemctl list-unit-files (add --user for your own units)",
    "unit-not-loadable": "see what is wrong with: systemd-analyze verify UNIT (add --user for your own units)",
}


def reply_error(name: str, text: str, doing: str) -> BusError:
    """The error for a reply of type error; `doing` completes "cannot ..."."""
    kind = KINDS.get(name) or ("manager-gone" if name.startswith(_DBUS + "Spawn.") else "bus-error")
    return BusError(kind, f"cannot {doing}: {_sentence(text) or name}", name=name, hint=HINTS.get(kind, ""))


def _sentence(text: str) -> str:
    """systemd's sentence in our style: one line, lower case at the start, no full stop."""
    line = " ".join(text.split()).rstrip(".")
    return line[:1].lower() + line[1:] if line[1:2].islower() or line[1:2] == " " else line
