"""Whether a model's files are whole: headers, index, configuration, on request checksums. Blocks: run it in a thread.

Only headers are read, so a hundred shards take some milliseconds however large they are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from agentd.adapters.weight_reads import Unreadable, ends, opened, read_small
from agentd.core import model_files, safetensors
from agentd.ports_models import CheckedFiles, FileProblem

FETCH = "fetch the file again"
PIECE = 8 * 1024**2
HASHERS = 4
SMALL_JSON = 2 * 1024**2
"""Larger ones (tokenizers) are not parsed: that would hold the interpreter for a tenth of a second."""

Beat = Callable[[], None]
"""Called all the time; what it raises ends the check."""
Told = Callable[[int, int], None]
"""(bytes hashed so far, bytes in all)."""


def _nobody(done: int, whole: int) -> None:
    del done, whole


def check(path: str, *, checksums: bool = False, beat: Beat = lambda: None, told: Told = _nobody) -> CheckedFiles:
    """A directory with a model, one of Hugging Face's cache, or a single file of weights."""
    place = Path(model_directory(path))
    if not place.exists():
        return CheckedFiles(0, 0, (FileProblem(str(place), "does not exist", "fetch the model"),))
    whole = place.is_dir()
    found = _Check(place if whole else place.parent, beat, told, only="" if whole else place.name)
    try:
        if whole:
            found.directory()
        else:
            found.one(place.name)
        if checksums:
            found.checksums()
    except Unreadable as error:
        found.problem(error.path, error.text)
    return found.result()


def model_directory(path: str) -> str:
    """Of a model's place in Hugging Face's cache ("models--ORG--NAME") the snapshot in use; else the path itself."""
    root = Path(path)
    snapshots = root / "snapshots"
    try:
        if not snapshots.is_dir():
            return path
        main = root / "refs" / "main"
        if main.is_file() and (chosen := snapshots / main.read_text().strip()).is_dir():
            return str(chosen)
        newest = max(snapshots.iterdir(), key=lambda entry: entry.stat().st_mtime, default=None)
    except (OSError, ValueError):
        return path
    return str(newest) if newest is not None else path


@dataclass
class _Check:
    root: Path
    beat: Beat
    told: Told
    only: str = ""
    """The file that is the model; "" for all of `root`."""
    problems: list[FileProblem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    weights: dict[str, int] = field(default_factory=dict)
    compared: int = 0

    def result(self) -> CheckedFiles:
        problems = tuple(sorted(self.problems, key=lambda problem: problem.path))
        size = sum(self.weights.values())
        return CheckedFiles(len(self.weights), size, problems, self.compared, tuple(self.notes))

    def problem(self, path: str | Path, text: str, fix: str = FETCH) -> None:
        if not any(known.path == str(path) and known.problem == text for known in self.problems):
            self.problems.append(FileProblem(str(path), text, fix))

    # -- headers ----------------------------------------------------------------------------------------------

    def directory(self) -> None:
        try:
            names = sorted(os.listdir(self.root))  # noqa: PTH208 - names are all there is to it
        except OSError as error:
            raise Unreadable(self.root, error) from None
        weights = model_files.preferred(names)
        self._texts(names, weights)
        index = self._index(names)
        if index is not None:
            self._by_index(index)
        elif not weights:
            self.problem(self.root, "has no weights (*.safetensors, *.gguf, *.bin)", "fetch the model")
        else:
            for name in model_files.missing_shards(weights):
                self.problem(self.root / name, "is missing, by the count in the names of the others")
            for name in weights:
                self.one(name)

    def one(self, name: str) -> Mapping[str, safetensors.Tensor]:
        """One file of weights; its tensors when it is a whole safetensors file."""
        self.beat()
        path = self.root / name
        try:
            if name.endswith(".safetensors"):
                size, tensors = _header(path)
            else:
                size, tensors = _other(path), {}
        except (Unreadable, safetensors.BadHeader, model_files.BadText) as error:
            self.problem(path, error.text if isinstance(error, Unreadable) else str(error))
            return {}
        self.weights[name] = size
        return tensors

    def _index(self, names: Sequence[str]) -> model_files.Index | None:
        if model_files.INDEX not in names:
            return None
        path = self.root / model_files.INDEX
        try:
            return model_files.parse_index(read_small(path))
        except Unreadable as error:
            self.problem(path, error.text)
        except model_files.BadText as error:
            self.problem(path, str(error))
        return None

    def _by_index(self, index: model_files.Index) -> None:
        size = 0
        for shard, wanted in sorted(index.shards.items()):
            before = len(self.problems)
            tensors = self.one(shard)
            size += sum(tensor.end - tensor.begin for tensor in tensors.values())
            if len(self.problems) == before and (lacking := model_files.missing_tensors(wanted, tensors)):
                self.problem(self.root / shard, lacking)
        if index.total_size not in (0, size) and not self.problems:
            self.notes.append(f"the index tells of {index.total_size} bytes of tensors, there are {size}")

    def _texts(self, names: Sequence[str], weights: Sequence[str]) -> None:
        """The files of JSON; a model in GGUF's or Mistral's own format needs none."""
        for name in model_files.JSON_FILES:
            if name in names:
                self._json(self.root / name)
        own = "params.json" in names or "model_index.json" in names or any(w.endswith(".gguf") for w in weights)
        if "config.json" not in names and not own:
            self.problem(self.root / "config.json", "is missing")
        if not own and not any(name in names for name in model_files.TOKENIZERS):
            self.notes.append("there is no tokenizer beside the weights")

    def _json(self, path: Path) -> None:
        self.beat()
        try:
            size, head, tail = ends(path, 64, 64)
            if size <= SMALL_JSON:
                model_files.parse_json(read_small(path))
            elif not model_files.ends_like_json(head, tail):
                self.problem(path, f"breaks off after {size} bytes")
        except Unreadable as error:
            self.problem(path, error.text)
        except model_files.BadText as error:
            self.problem(path, str(error))

    # -- checksums --------------------------------------------------------------------------------------------

    def checksums(self) -> None:
        wanted = self._digests()
        sizes: dict[str, int] = {}
        for name in wanted:
            try:
                sizes[name] = (self.root / name).stat().st_size
            except OSError as error:
                self.problem(self.root / name, Unreadable(self.root / name, error).text)
        if not wanted:
            of = f" of {self.only}" if self.only else ""
            blobs = "neither in a list (SHA256SUMS, *.sha256) nor in Hugging Face's blobs"
            self.notes.append(f"no checksums{of} are there, {blobs}")
        progress = _Progress(self.beat, self.told, sum(sizes.values()))
        with ThreadPoolExecutor(HASHERS, "checksums") as pool:
            hashed = {name: pool.submit(_hashed, self.root / name, progress) for name in sizes}
            try:
                for name, future in hashed.items():
                    self._compare(name, wanted[name], future.result())
            except BaseException:
                progress.ended = True
                pool.shutdown(cancel_futures=True)
                raise

    def _compare(self, name: str, wanted: str, found: str | Unreadable) -> None:
        if isinstance(found, Unreadable):
            self.problem(self.root / name, found.text)
            return
        self.compared += 1
        if found != wanted:
            self.problem(self.root / name, f"is damaged: its SHA-256 is {found[:12]}..., not {wanted[:12]}...")

    def _digests(self) -> dict[str, str]:
        """Name -> SHA-256 that the file must have, by the lists beside it and by the names of blobs. Beside a model of
        one file there may be others that are not its own, and checksums of those."""
        found: dict[str, str] = {}
        for entry in sorted(self.root.iterdir()):
            if entry.is_symlink() and (digest := model_files.blob_digest(os.path.basename(os.readlink(entry)))):  # noqa: PTH119, PTH115
                found[entry.name] = digest
        for entry in sorted(self.root.iterdir()):
            lists = entry.name.upper() in ("SHA256SUMS", "SHA256SUM", "SHA256SUMS.TXT", "CHECKSUMS.SHA256")
            if lists or entry.name.endswith(".sha256"):
                alone = "" if lists else entry.name.removesuffix(".sha256")
                try:
                    text = read_small(entry).decode(errors="replace")
                except Unreadable as error:
                    if lists or self.only in ("", alone):
                        self.problem(entry, error.text)
                    continue
                found |= model_files.parse_sums(text, alone=alone)
        return {name: digest for name, digest in found.items() if self.only in ("", name)}


@dataclass
class _Progress:
    """Shared by the hashing threads; counts a little too low when two add at once, which nobody sees."""

    beat: Beat
    told: Told
    whole: int
    done: int = 0
    ended: bool = False

    def more(self, size: int) -> bool:
        """False: nobody wants the result any more."""
        self.done += size
        self.told(self.done, self.whole)
        self.beat()
        return not self.ended


def _hashed(path: Path, progress: _Progress) -> str | Unreadable:
    digest = hashlib.sha256()
    try:
        with opened(path) as file:
            while (piece := file.read(PIECE)) and progress.more(len(piece)):
                digest.update(piece)
    except Unreadable as error:
        return error
    except OSError as error:
        return Unreadable(path, error)
    return digest.hexdigest()


def _header(path: Path) -> tuple[int, Mapping[str, safetensors.Tensor]]:
    """Size and tensors. Raises Unreadable, BadHeader."""
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(safetensors.PREFIX)
            if prefix == model_files.LFS_POINTER[: safetensors.PREFIX]:
                raise model_files.BadText("is only a pointer of Git LFS, the file itself was not fetched")
            return size, safetensors.parse(file.read(safetensors.header_length(prefix, size)), size)
    except OSError as error:
        raise Unreadable(path, error) from None


def _other(path: Path) -> int:
    """Size of a file of another format. Raises Unreadable, BadText."""
    size, head, tail = ends(path, 64, model_files.ZIP_TAIL)
    problem = (
        model_files.gguf_problem(head[:24], size)
        if path.name.endswith(".gguf")
        else model_files.torch_problem(head, tail, size)
    )
    if problem:
        raise model_files.BadText(problem)
    return size
