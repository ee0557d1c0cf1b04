"""Repositories of the test Hub, in memory: files by revision, every commit with all of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Any


LFS_PATTERNS = ("*.arrow", "*.bin", "*.model", "*.npz", "*.parquet", "*.pt", "*.pth", "*.safetensors", "*.zip")
LFS_SIZE = 10 * 2**20
"""Files of these names, or above this size in bytes, go to the LFS storage."""


@dataclass(frozen=True)
class File:
    content: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def blob(self) -> str:
        """The object id git gives to what it stores, the pointer for an LFS file."""
        data = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob

    def entry(self, path: str) -> dict[str, Any]:
        lfs = {"lfs": {"oid": self.sha256, "size": self.size, "pointerSize": len(self.pointer)}} if self.lfs else {}
        return {"type": "file", "path": path, "oid": self.blob, "size": self.size, **lfs}


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: Commit | None
    title: str
    message: str
    author: str
    date: str
    files: Mapping[str, File]

    def history(self) -> Iterator[Commit]:
        commit: Commit | None = self
        while commit is not None:
            yield commit
            commit = commit.parent


class Repository:
    """Files by revision: branches and tags are names of commits."""

    def __init__(self, kind: str, name: str, private: bool):
        self.kind, self.name, self.private = kind, name, private
        self.owner = name.split("/")[0]
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self._commits: dict[str, Commit] = {}
        attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS_PATTERNS)
        self.commit("main", {".gitattributes": File(attributes.encode())}, "initial commit")

    def commit(self, branch: str, files: Mapping[str, File], title: str, message: str = "") -> Commit:
        parent = self.find(branch)
        tree = {path: file.blob for path, file in sorted(files.items())}
        seed = json.dumps([parent and parent.oid, title, message, tree, len(self._commits)])
        oid = hashlib.sha1(seed.encode()).hexdigest()
        date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        self._commits[oid] = Commit(oid, parent, title, message, self.owner, date, dict(files))
        self.branches[branch] = oid
        return self._commits[oid]

    def find(self, revision: str) -> Commit | None:
        return self._commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)


def folders(files: Iterable[str]) -> set[str]:
    return {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."}


def folder_entry(path: str) -> dict[str, str]:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest()}
