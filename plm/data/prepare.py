"""Raw text to cleaned, split, tokenised shards, once for each combination of what decides them."""

import hashlib
import inspect
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from plm.config import digest, locate
from plm.data.documents import disk_errors, sync
from plm.data.indexed import token_dtype
from plm.data.job import Job, Progress
from plm.data.pool import cores
from plm.data.prepared import MANIFEST, Prepared
from plm.data.recipe import PATH_MARK, Recipe, Source
from plm.data.sources.files import KINDS, TABLES, list_files
from plm.errors import ConfigError, DataError, PlmError, Unfinished
from plm.rounds.template import DEFAULT

_HERE = Path(__file__).resolve().parent
_CHAT = _HERE.parent / "formats" / "chat.py"
_TEMPLATE = _HERE.parent / "rounds" / "template.py"
_IMPORT = re.compile(
    r"^from plm\.(data\.sources|data\.steps|formats|rounds)\.(\w+) import ", re.MULTILINE
)
_DECIDING = (
    "documents", "clean", "split", "textstore", "tokenizer", "adopt", "encode", "indexed",
    "packing", "shards", "signatures", "pool", "journal", "job", "manifest", "tally",
    "conversations", "conversation_shards", "pairs", "pair_shards",
)  # fmt: skip


def is_prepared(
    recipe: Recipe,
    *,
    data_dir: Path,
    vocab_size: int,
    block_tokens: int,
    seed: int = 0,
    path: str | None = None,
) -> Path | None:
    """The folder of an earlier preparation with the same settings, or None."""
    key = _key(recipe, vocab_size, block_tokens, seed, path)
    folder = _folder(Path(data_dir), recipe, key)
    return folder if (folder / MANIFEST).is_file() else None


def prepare(
    recipe: Recipe,
    *,
    data_dir: Path,
    vocab_size: int,
    block_tokens: int,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
    path: str | None = None,
) -> Prepared:
    """Prepare a recipe, or open what an earlier call prepared.

    Args:
        recipe: from `load_recipe`.
        data_dir: where prepared recipes lie; `<name>-<12 hex of all that decides the result>`.
        vocab_size: of the tokenizer, at most.
        block_tokens: recorded for the order of data; at least 2.
        seed: of the split, of the tokenizer's sample and of the order of documents.
        workers: processes, by default the cores; the result does not depend on it.
        progress: told what is going on.
        path: file or folder of a recipe that reads the user's own text.
    Raises:
        ConfigError: a setting that cannot work.
        DataError: a source that cannot be read or is too small; a full disk.
    """
    if block_tokens < 2:
        raise ConfigError(f"block_tokens={block_tokens} must be at least 2")
    token_dtype(vocab_size)
    key = _key(recipe, vocab_size, block_tokens, seed, path)
    folder = _folder(Path(data_dir), recipe, key)
    if (folder / MANIFEST).is_file():
        return Prepared(folder)
    told = progress or (lambda what, done, total: None)
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder, told), _work_folder(folder) as work:
            if work is not None:
                job = Job(recipe, key, work, vocab_size, block_tokens, seed, path)
                job.run(workers or cores(), told)
    return Prepared(folder)


@contextmanager
def _work_folder(folder: Path) -> Iterator[Path | None]:
    """A folder to work in that becomes `folder` when all has gone well.

    It is gone on with if the work was interrupted, was killed, or had to stop for want of disk or
    network; the user's mistake removes it. Yields None where another process has finished the work
    meanwhile.
    """
    if (folder / MANIFEST).is_file():
        yield None
        return
    if folder.exists():
        shutil.rmtree(folder)
    # Only the holder of the lock writes in it.
    work = folder.with_name(f"{folder.name}.partial")
    work.mkdir(exist_ok=True)
    try:
        with disk_errors(work):
            yield work
    except Unfinished:
        raise
    except PlmError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    sync(*work.iterdir(), work)
    os.replace(work, folder)
    sync(folder.parent)


def _folder(data_dir: Path, recipe: Recipe, key: dict[str, Any]) -> Path:
    return data_dir / f"{recipe.name}-{digest(key, 12)}"


@contextmanager
def _lock(folder: Path, told: Progress) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        told("waiting for another process that prepares the same data", 0, None)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _key(
    recipe: Recipe, vocab_size: int, block_tokens: int, seed: int, path: str | None
) -> dict[str, Any]:
    """All that decides the shards."""
    if recipe.takes_path and path is None:
        raise ConfigError(f"recipe {recipe.name} reads your own text: name it with data.path=…")
    if path is not None and not recipe.takes_path:
        raise ConfigError(
            f"data.path={path} is set, but recipe {recipe.name} does not read it; use recipe=text"
        )
    states = []
    if path is not None:
        states = [[name, *_state(file)] for file, name in list_files(path, _kinds(recipe))]
    for named in dict.fromkeys(p for source in recipe.sources.values() for p in _paths(source)):
        states += _states(named)
    content = {**recipe.content, "sources": {}}
    for name, source in recipe.content["sources"].items():
        # What a set is said to hold changes no shard.
        content["sources"][name] = {k: v for k, v in source.items() if k != "published_tokens"}
    template, refinement = recipe.template, recipe.refinement_text
    return {
        "recipe": content,
        **({"chat_template": template} if template is not None else {}),
        **({"shown": list(recipe.shown)} if recipe.pairs else {}),
        **({"refinement": refinement} if refinement is not None else {}),
        "tokenizer": recipe.tokenizer.content_mark(),
        "versions": installed_versions(recipe),
        "code": _code_hash(recipe),
        "vocab_size": vocab_size,
        "block_tokens": block_tokens,
        "seed": seed,
        "files": states,
    }


def _kinds(recipe: Recipe) -> tuple[str, ...]:
    """Kinds of files that are read under the path that the user gives."""
    reading = [s for s in recipe.sources.values() if PATH_MARK in str(s.origin)]
    return TABLES if all(source.rendered for source in reading) else KINDS


def _paths(source: Source) -> Iterator[str]:
    """What a source's settings name that lies on this disk: its files, and evaluation sets."""
    waiting: list[Any] = [source.origin, source.steps]
    yield from (f"{prefix}{end}" for prefix in source.shards.values() for end in (".bin", ".idx"))
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            for key in ("path", "dataset"):
                if isinstance(node.get(key), str) and os.path.exists(os.path.expanduser(node[key])):
                    yield node[key]
        if isinstance(node, dict | list):
            waiting.extend(node.values() if isinstance(node, dict) else node)


def _state(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _states(path: str | Path) -> Iterator[list[Any]]:
    """Path, size and time of a file, or of each file under a folder."""
    try:
        root = Path(path).expanduser()
        for file in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if file.is_file() and not file.name.startswith("."):
                yield [str(file.relative_to(root)), *_state(file)]
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def installed_versions(recipe: Recipe) -> dict[str, str | None]:
    """What is here of what the recipe names, and tokenizers; None where it is missing."""
    found: dict[str, str | None] = {}
    for name in sorted({*recipe.versions, "tokenizers"}):
        if name == "python":
            found[name] = platform.python_version()
            continue
        try:
            about = metadata.distribution(name).read_text("METADATA") or ""
        except metadata.PackageNotFoundError:
            found[name] = None
            continue
        # Not metadata.version: it parses the readme too, and this runs at every start.
        # A build's suffix (+cpu, +cu128) does not change the text.
        match = re.search(r"^Version: ([^+\s]+)", about, re.MULTILINE)
        found[name] = match.group(1) if match else None
    return found


def _code_hash(recipe: Recipe) -> str:
    """Of the code that makes these shards: a changed step never meets what it made before."""
    files = {_HERE / f"{name}.py" for name in _DECIDING}
    waiting = [
        Path(inspect.getsourcefile(locate(choice["_target_"])) or __file__)
        for source in recipe.sources.values()
        for choice in (source.origin, *source.steps)
        if choice
    ]
    if recipe.template is not None:
        waiting.append(_CHAT)
    if recipe.pairs:
        waiting.append(_TEMPLATE)
    while waiting:
        file = waiting.pop()
        if file not in files:
            files.add(file)
            # Sources and steps share helpers of theirs.
            for folder, name in _IMPORT.findall(file.read_text(encoding="utf-8")):
                waiting.append(_HERE.parent.joinpath(*folder.split("."), f"{name}.py"))
    if _CHAT in files:
        files.add(_CHAT.with_name("chatml.jinja"))
    if _TEMPLATE in files:
        # The text that an origin shows answers with where none is named.
        files.add(DEFAULT)
    total = hashlib.sha256()
    for file in sorted(files):
        total.update(file.name.encode() + file.read_bytes())
    return total.hexdigest()
