"""Verdicts from the unit's cgroup and those above it: limits, weights, protections, and controllers that are missing.

A limit holds as far as the tightest cgroup on the way up allows. A file that is missing is a controller that the unit
has not got, whatever systemd's properties say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentd.core.directives_spec import Check
from agentd.core.judge_context import Context, Item, Outcome
from agentd.core.judge_controllers import absent, again
from agentd.core.loaded_text import ranges, size_text
from agentd.core.loaded_values import INFINITY, bitmap, decimal_size, span
from agentd.evidence import CgroupLevel
from agentd.findings import Verdict

_PAGE = 65536
"""The largest page size: the kernel rounds memory limits down to pages."""


def limit(context: Context, item: Item) -> Outcome:
    file, wanted = item.spec.arg, item.loaded.value
    missing = absent(context, file)
    if missing is not None or not isinstance(wanted, int):
        return missing or _unsaid(item)
    own = _amount(context.levels[0].files[file])
    text = f"{file} {_shown(file, own)}"
    if not _close(file, own, wanted):
        return Outcome(False, text, f"{file} was changed after systemd had written it", again(context))
    tight = _tightest(context, file)
    if tight is not None and _amount(tight.files[file]) < own:
        return _tighter(file, _shown(file, _amount(tight.files[file])), tight)
    return Outcome(True, text)


def _tighter(file: str, shown: str, level: CgroupLevel) -> Outcome:
    return Outcome(
        False,
        f"{file} {shown}, from {level.path}",
        f"{level.path}, which is above the unit, allows only {shown}",
        f"raise it there, or declare less: systemctl set-property {level.path.rpartition('/')[2]} ...",
        Verdict.OVERRIDDEN,
        f"/sys/fs/cgroup{level.path}/{file}",
    )


def _tightest(context: Context, file: str) -> CgroupLevel | None:
    above = [level for level in context.levels[1:] if file in level.files]
    return min(above, key=lambda level: _amount(level.files[file]), default=None)


def protection(context: Context, item: Item) -> Outcome:
    """MemoryLow=, MemoryMin=: worth no more than what every cgroup above has."""
    file, wanted = item.spec.arg, item.loaded.value
    missing = absent(context, file)
    if missing is not None or not isinstance(wanted, int):
        return missing or _unsaid(item)
    own = _amount(context.levels[0].files[file])
    text = f"{file} {size_text(own)}"
    if not _close(file, own, wanted):
        return Outcome(False, text, f"{file} was changed after systemd had written it", again(context))
    tight = _tightest(context, file)
    if tight is not None and _amount(tight.files[file]) < own:
        less = size_text(_amount(tight.files[file]))
        return Outcome(
            False, f"{text}, but {less} in {tight.path}",
            f"memory is protected only as far as every cgroup above is: {tight.path} has {less}",
            f"set {item.spec.key}= for {tight.path.rpartition('/')[2]} too", Verdict.NOT_EFFECTIVE,
        )  # fmt: skip
    return Outcome(True, text)


def quota(context: Context, item: Item) -> Outcome:
    file, _, period_only = item.spec.arg.partition(" ")
    missing, wanted = absent(context, file), item.loaded.value
    if missing is not None or not isinstance(wanted, int):
        return missing or _unsaid(item)
    text = context.levels[0].files[file]
    amount, period = _ratio(text)
    if period_only:
        return Outcome(period == wanted or None, f"{file} {text}", "it counts only together with CPUQuota=")
    shown = f"{file} {text}"
    if amount >= INFINITY or wanted >= INFINITY:
        if (amount >= INFINITY) != (wanted >= INFINITY):
            return Outcome(False, shown, f"{file} was changed after systemd had written it", again(context))
    elif abs(amount - wanted) * 100 > wanted:
        return Outcome(False, shown, f"{file} was changed after systemd had written it", again(context))
    above = [level for level in context.levels[1:] if file in level.files]
    tight = min(above, key=lambda level: _ratio(level.files[file])[0], default=None)
    if tight is not None and _ratio(tight.files[file])[0] < amount:
        return _tighter(file, tight.files[file], tight)
    return Outcome(True, shown)


def _ratio(text: str) -> tuple[int, int]:
    """(microseconds of CPU time a second, period in microseconds) of cpu.max."""
    amount, _, period = text.partition(" ")
    microseconds = int(period or 100_000)
    return (INFINITY if amount == "max" else int(amount) * 1_000_000 // microseconds), microseconds


def weight(context: Context, item: Item) -> Outcome:
    file, wanted = item.spec.arg, item.loaded.value
    missing = absent(context, file, *(("io.bfq.weight",) if file == "io.weight" else ()))
    if missing is not None or not isinstance(wanted, int):
        return missing or _unsaid(item)
    files = context.levels[0].files
    if wanted == 0:
        idle = files.get("cpu.idle", "")
        return Outcome(idle == "1", f"cpu.idle {idle or 'missing'}")
    name = file if file in files else "io.bfq.weight"
    text = files[name]
    number = text.removeprefix("default").split()[0]
    if name != file and wanted > 100:
        wanted = 100 + (wanted - 100) * 900 // 9900  # as systemd scales it: BFQ's ends at 1000
    cause = f"{name} was changed after systemd had written it"
    return Outcome(int(number) == wanted, f"{name} {number}", cause, again(context))


def cpus(context: Context, item: Item) -> Outcome:
    file, wanted = item.spec.arg, item.loaded.value
    missing = absent(context, file)
    if missing is not None or not isinstance(wanted, frozenset):
        return missing or _unsaid(item)
    files = context.levels[0].files
    own = bitmap((files[file],))
    effective = bitmap((files[f"{file}.effective"],)) if f"{file}.effective" in files else own
    text = f"{file}.effective {ranges(effective) or 'none'}"
    if not effective:
        return Outcome(None, text, "the kernel names none")
    return Outcome(effective <= wanted and own <= wanted, text)


def flag(context: Context, item: Item) -> Outcome:
    missing = absent(context, item.spec.arg)
    if missing is not None:
        return missing
    text = context.levels[0].files[item.spec.arg]
    return Outcome(text == ("1" if item.loaded.value else "0"), f"{item.spec.arg} {text}")


def device(context: Context, item: Item) -> Outcome:
    """Lines are by device number, which a path does not show: as many as want an amount must have it."""
    file, _, key = item.spec.arg.partition(" ")
    missing = absent(context, file)
    if missing is not None or not isinstance(item.loaded.value, tuple):
        return missing or _unsaid(item)
    text = context.levels[0].files[file]
    fields = [word for line in text.splitlines() for word in line.split()[1:]]
    wanted = []
    for _, amount in item.loaded.value:
        number = span(amount) if key == "target" else decimal_size(amount)
        wanted.append(f"{key}={number}" if key else str(number))
    lacking = [word for word in dict.fromkeys(wanted) if fields.count(word) < wanted.count(word)]
    return Outcome(not lacking, f"{file} {'without ' + ' '.join(lacking) if lacking else ' '.join(wanted)}")


def present(context: Context, item: Item) -> Outcome:
    return absent(context, item.spec.arg) or Outcome(True, f"{item.spec.arg} is counted")


def oom_policy(context: Context, item: Item) -> Outcome:
    missing = absent(context, "memory.oom.group")
    if missing is not None:
        return missing
    text = context.levels[0].files["memory.oom.group"]
    return Outcome(text == ("1" if item.loaded.value == "kill" else "0"), f"memory.oom.group {text}")


def delegate(context: Context, item: Item) -> Outcome:
    """The mark is made by the system manager alone. Below a user manager every cgroup belongs to the user as it is;
    what a delegated one has is every controller, whether or not a limit asks for it."""
    del item
    if not context.user or not context.levels:
        return _xattr(context, "delegate", "delegated")
    words = context.levels[0].files.get("cgroup.controllers", "").split()
    missing = sorted(set(context.host.delegated) - set(words))
    if not words or not context.host.delegated:
        return Outcome(None, "no controller in the cgroup", "there is none that could be delegated")
    if missing:
        return Outcome(False, f"without controller {' '.join(missing)}")
    return Outcome(True, f"controllers {' '.join(words)}")


def oomd_preference(context: Context, item: Item) -> Outcome:
    return _xattr(context, f"oomd_{item.loaded.value}", f"oomd_{item.loaded.value}")


def _xattr(context: Context, name: str, word: str) -> Outcome:
    if not context.levels:
        return Outcome(None, "", "the cgroup is gone")
    xattrs = context.levels[0].xattrs
    found = next((n for n in (f"user.{name}", f"trusted.{name}") if xattrs.get(n) == "1"), "")
    if found:
        return Outcome(True, f"{found} is set")
    if not context.user and context.host.uid != 0:
        return Outcome(None, f"no {word} seen", "systemd may have marked it where only root can read")
    return Outcome(False, f"the cgroup is not marked {word}")


def _unsaid(item: Item) -> Outcome:
    return Outcome(
        None, "", f"how much {item.spec.key}={item.setting.text} is cannot be told without systemd's property"
    )


def _amount(text: str) -> int:
    return INFINITY if text == "max" else int(text)


def _close(file: str, own: int, wanted: int) -> bool:
    if own == wanted:
        return True
    return file.startswith("memory.") and own < wanted < INFINITY and wanted - own < _PAGE


def _shown(file: str, amount: int) -> str:
    if amount >= INFINITY:
        return "max"
    return size_text(amount) if file.startswith("memory.") else str(amount)


CGROUP: Mapping[Check, Callable[[Context, Item], Outcome]] = {
    Check.CGROUP_LIMIT: limit,
    Check.CGROUP_PROTECTION: protection,
    Check.CGROUP_QUOTA: quota,
    Check.CGROUP_WEIGHT: weight,
    Check.CGROUP_CPUS: cpus,
    Check.CGROUP_FLAG: flag,
    Check.CGROUP_DEVICE: device,
    Check.CGROUP_PRESENT: present,
    Check.OOM_POLICY: oom_policy,
    Check.DELEGATE: delegate,
    Check.OOMD_PREFERENCE: oomd_preference,
}
