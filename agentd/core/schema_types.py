"""The kinds of values that the configuration knows: durations, sizes, names, paths, directives of a unit.

An annotation says all that can be said of one value alone; `leaves` puts it into force and into words.
"""

from __future__ import annotations

from typing import Annotated, NewType

from msgspec import Meta

Seconds = NewType("Seconds", float)
Bytes = NewType("Bytes", int)
MemoryLimit = NewType("MemoryLimit", str)
"""As systemd reads it: a size ("4G"), a share of the machine's memory ("80%") or "infinity"; "" for the default."""
Quota = NewType("Quota", str)
"""CPU time as systemd reads it: "200%" is two CPUs; "" for the default."""
Directive = NewType("Directive", tuple[str, ...])
"""The values of one directive of a unit, a line each; a file may write a single one as a string."""

Positive = Annotated[Seconds, Meta(gt=0)]
Delay = Annotated[Seconds, Meta(ge=0)]
"""A duration that may be 0: do not wait."""
Size = Annotated[Bytes, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Share = Annotated[float, Meta(ge=0, le=1)]
GpuIndex = Annotated[int, Meta(ge=0, le=1023)]
HttpStatus = Annotated[int, Meta(ge=100, le=599)]

Text = Annotated[str, Meta(min_length=1)]
UnitName = Annotated[str, Meta(extra={"form": "unit"})]
Url = Annotated[str, Meta(extra={"form": "url"})]
HttpPath = Annotated[str, Meta(extra={"form": "http-path"})]
Listen = Annotated[str, Meta(extra={"form": "listen"})]
FilePath = Annotated[str, Meta(extra={"form": "path"})]
SecretFile = Annotated[str, Meta(extra={"form": "path", "secret": True})]
"""Never shown in a message: someone may have written the secret itself here."""
Names = Annotated[tuple[str, ...], Meta(extra={"unique": True})]
VariableName = Annotated[str, Meta(extra={"form": "variable"})]
UnitPath = Annotated[str, Meta(min_length=1, extra={"form": "unit-path"})]
"""A path in a unit file; it may begin with one of systemd's specifiers."""
UnitPaths = Annotated[tuple[UnitPath, ...], Meta(extra={"unique": True})]
Addresses = Annotated[tuple[Annotated[str, Meta(extra={"form": "network"})], ...], Meta(extra={"unique": True})]
DirectiveName = Annotated[str, Meta(extra={"form": "directive"})]
DirectiveNames = Annotated[tuple[DirectiveName, ...], Meta(extra={"unique": True})]
Directives = dict[str, Directive]
"""Directives of a unit's [Service] section, by name."""
