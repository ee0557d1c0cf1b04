"""What the test Hub answers: the table `ROUTES` and a function for each of its lines."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import os
import re
from collections.abc import Callable
from operator import itemgetter
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

import yaml

from tests.hub_messages import Ask, Refused, Reply, reply
from tests.hub_repository import LFS_PATTERNS, LFS_SIZE, Commit, File, Repository, folder_entry, folders


if TYPE_CHECKING:
    from tests.hub_server import HubServer


def asking(hub: HubServer, ask: Ask) -> str | None:
    """The user whose token came with the request."""
    if ask.token is not None and ask.token not in hub.users:
        raise Refused(401, "Invalid credentials in Authorization header")
    return hub.users.get(ask.token or "")


def signed_in(hub: HubServer, ask: Ask) -> str:
    user = asking(hub, ask)
    if user is None:
        raise Refused(401, "Invalid username or password.")
    return user


def opened(hub: HubServer, ask: Ask, *, write: bool = False) -> Repository:
    user, repository = asking(hub, ask), hub.repositories.get((ask.groups["kind"] or "model", ask.groups["name"]))
    if repository is None or (repository.private and user != repository.owner):
        # The client reads the code: of a bare 401 it makes the same for https only.
        raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
    if write and user != repository.owner:
        raise Refused(403 if user else 401, "You don't have the rights to write here")
    return repository


def at_revision(repository: Repository, revision: str | None) -> Commit:
    name = unquote(revision or "main")
    found = repository.find(name)
    if found is None:
        raise Refused(404, f"Invalid rev id: {name}", "RevisionNotFound")
    return found


def whoami(hub: HubServer, ask: Ask) -> Reply:
    user = signed_in(hub, ask)
    access = {"accessToken": {"displayName": "tests", "role": "write"}}
    return reply({"type": "user", "name": user, "fullname": user, "orgs": [], "auth": access})


def create(hub: HubServer, ask: Ask) -> Reply:
    user, kind = signed_in(hub, ask), ask.json.get("type", "model")
    name = f"{ask.json.get('organization') or user}/{ask.json['name']}"
    if not name.startswith(f"{user}/"):
        raise Refused(403, "You don't have the rights to create a repository under this namespace")
    url = {"url": f"{hub.url}/{'' if kind == 'model' else kind + 's/'}{name}", "name": name}
    if (kind, name) in hub.repositories:
        return reply({**url, "error": f"You already created this {kind} repo"}, 409)
    hub.repositories[kind, name] = Repository(kind, name, ask.json.get("visibility") == "private")
    return reply(url)


def delete(hub: HubServer, ask: Ask) -> Reply:
    kind, owner = ask.json.get("type", "model"), ask.json.get("organization") or signed_in(hub, ask)
    ask.groups = {"kind": kind, "name": f"{owner}/{ask.json['name']}"}
    opened(hub, ask, write=True)
    del hub.repositories[kind, ask.groups["name"]]
    return reply({})


def card(content: str) -> dict[str, Any]:
    """The YAML header of a model or data card."""
    header = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---", content, re.DOTALL)
    return (yaml.safe_load(header[1]) or {}) if header else {}


def validate_yaml(hub: HubServer, ask: Ask) -> Reply:
    try:
        empty = not card(ask.json["content"])
    except yaml.YAMLError as error:
        return reply({"error": str(error), "errors": [{"message": str(error)}], "warnings": []}, 400)
    return reply(
        {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}] if empty else []}
    )


def info(hub: HubServer, ask: Ask) -> Reply:
    repository = opened(hub, ask)
    commit = at_revision(repository, ask.groups["revision"])
    data = card(commit.files["README.md"].content.decode()) if "README.md" in commit.files else {}
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.files)]
    if "blobs" in ask.query:
        for sibling in siblings:
            file = commit.files[sibling["rfilename"]]
            lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
            sibling.update(size=file.size, blobId=file.blob, **({"lfs": lfs} if file.lfs else {}))
    known = {key: data[key] for key in ("pipeline_tag", "library_name") if key in data}
    about = {"id": repository.name, "author": repository.owner, "sha": commit.oid, "private": repository.private}
    dates = {"lastModified": commit.date, "createdAt": list(commit.history())[-1].date}
    return reply({**about, **dates, **known, "tags": data.get("tags", []), "cardData": data, "siblings": siblings})


def tree(hub: HubServer, ask: Ask) -> Reply:
    files = at_revision(opened(hub, ask), ask.groups["revision"]).files
    top, recursive = unquote(ask.groups["path"] or ""), ask.query.get("recursive", [""])[0].lower() == "true"
    entries = [file.entry(path) for path, file in files.items()] + [folder_entry(path) for path in folders(files)]
    inside = [entry for entry in entries if entry["path"].startswith(f"{top}/" if top else "")]
    if top and not inside:
        raise Refused(404, f"{top} does not exist on this revision", "EntryNotFound")
    shown = [entry for entry in inside if recursive or os.path.dirname(entry["path"]) == top]
    return reply(sorted(shown, key=itemgetter("path")))


def paths_info(hub: HubServer, ask: Ask) -> Reply:
    files = at_revision(opened(hub, ask), ask.groups["revision"]).files
    wanted = parse_qs(ask.body.decode())["paths"]
    found = [files[path].entry(path) for path in wanted if path in files]
    return reply([*found, *(folder_entry(path) for path in wanted if path in folders(files))])


def refs(hub: HubServer, ask: Ask) -> Reply:
    repository = opened(hub, ask)

    def named(kind: str, names: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in names.items()]

    branches, tags = named("heads", repository.branches), named("tags", repository.tags)
    return reply({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


def commits(hub: HubServer, ask: Ask) -> Reply:
    history = at_revision(opened(hub, ask), ask.groups["revision"]).history()
    return reply(
        [
            {"id": c.oid, "title": c.title, "message": c.message, "date": c.date, "authors": [{"user": c.author}]}
            for c in history
        ]
    )


def branch(hub: HubServer, ask: Ask) -> Reply:
    repository, name = opened(hub, ask, write=True), unquote(ask.groups["branch"])
    if name in repository.branches:
        raise Refused(409, f"Reference refs/heads/{name} already exists")
    start = ask.json.get("startingPoint") if ask.body else None
    repository.branches[name] = at_revision(repository, start).oid
    return reply({})


def tag(hub: HubServer, ask: Ask) -> Reply:
    repository = opened(hub, ask, write=True)
    if ask.json["tag"] in repository.tags:
        raise Refused(409, f"Reference refs/tags/{ask.json['tag']} already exists")
    repository.tags[ask.json["tag"]] = at_revision(repository, ask.groups["revision"]).oid
    return reply({})


def preupload(hub: HubServer, ask: Ask) -> Reply:
    """Which files go to the LFS storage, and what lies at their paths already."""
    there = at_revision(opened(hub, ask, write=True), ask.groups["revision"]).files

    def mode(file: dict[str, Any]) -> str:
        large = file["size"] > LFS_SIZE or any(fnmatch.fnmatch(file["path"], pattern) for pattern in LFS_PATTERNS)
        return "lfs" if large else "regular"

    answers = [{"path": file["path"], "uploadMode": mode(file), "shouldIgnore": False} for file in ask.json["files"]]
    return reply({"files": [{**a, "oid": there[a["path"]].etag} if a["path"] in there else a for a in answers]})


def lfs_batch(hub: HubServer, ask: Ask) -> Reply:
    """Where to upload each object; no action for one that is there."""
    opened(hub, ask, write=True)
    verify = {"href": f"{hub.url}{ask.path.removesuffix('batch')}verify", "header": {}}
    objects = []
    for item in ask.json["objects"]:
        place, size = f"{hub.storage_url}/storage/{item['oid']}", hub.part_size
        sending: dict[str, Any] = {"href": place, "header": {}}
        if size is not None and item["size"] > size:
            numbers = range(1, -(-item["size"] // size) + 1)
            header = {"chunk_size": str(size), **{str(number): f"{place}/{number}" for number in numbers}}
            sending = {"href": f"{hub.url}/api/complete/{item['oid']}", "header": header}
        actions = {"upload": sending, "verify": verify}
        objects.append({**item, **({} if item["oid"] in hub.storage else {"actions": actions})})
    return reply({"transfer": "basic", "objects": objects})


def lfs_verify(hub: HubServer, ask: Ask) -> Reply:
    opened(hub, ask, write=True)
    if len(hub.storage.get(ask.json["oid"], b"")) != ask.json["size"]:
        raise Refused(404, f"Object {ask.json['oid']} was not uploaded")
    return reply({})


def upload(hub: HubServer, ask: Ask) -> Reply:
    if hashlib.sha256(ask.body).hexdigest() != ask.groups["oid"]:
        raise Refused(400, "The content does not have the sha256 of its address")
    hub.storage[ask.groups["oid"]] = ask.body
    return Reply()


def upload_part(hub: HubServer, ask: Ask) -> Reply:
    hub.parts.setdefault(ask.groups["oid"], {})[int(ask.groups["part"])] = ask.body
    return Reply(headers={"ETag": hashlib.md5(ask.body).hexdigest()})


def complete(hub: HubServer, ask: Ask) -> Reply:
    """Join the parts of an object; each is named by its number and the ETag that its upload was answered with."""
    oid, parts = ask.groups["oid"], hub.parts.pop(ask.groups["oid"], {})
    named = {part["partNumber"]: part["etag"] for part in ask.json["parts"]}
    content = b"".join(parts[number] for number in sorted(parts))
    same = named == {number: hashlib.md5(part).hexdigest() for number, part in parts.items()}
    if not same or hashlib.sha256(content).hexdigest() != oid:
        raise Refused(400, "The parts do not make the object")
    hub.storage[oid] = content
    return reply({})


def download(hub: HubServer, ask: Ask) -> Reply:
    if ask.groups["oid"] not in hub.storage:
        raise Refused(404, "No such object")
    return ranged(ask, hub.storage[ask.groups["oid"]], {"ETag": f'"{ask.groups["oid"]}"'})


def commit(hub: HubServer, ask: Ask) -> Reply:
    """Apply a commit as newline-delimited JSON: all of it or nothing."""
    repository = opened(hub, ask, write=True)
    parent, name = at_revision(repository, ask.groups["revision"]), unquote(ask.groups["revision"])
    if name not in repository.branches or "create_pr" in ask.query:
        raise Refused(400, "Only branches take commits here")
    files, header = dict(parent.files), {}
    for line in map(json.loads, ask.body.splitlines()):
        key, value = line["key"], line["value"]
        if key == "header":
            header = value
        elif key == "file":
            files[value["path"]] = File(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in hub.storage:
                raise Refused(400, f"LFS pointer of {value['path']} points to a file that does not exist")
            files[value["path"]] = File(hub.storage[value["oid"]], lfs=True)
        else:
            path = value["path"].rstrip("/")
            gone = [old for old in files if old == path or (key == "deletedFolder" and old.startswith(f"{path}/"))]
            if not gone:
                raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for old in gone:
                del files[old]
    if header.get("parentCommit") not in (None, parent.oid):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    made = repository.commit(name, files, header.get("summary", ""), header.get("description", ""))
    prefix = "" if repository.kind == "model" else f"{repository.kind}s/"
    url = f"{hub.url}/{prefix}{repository.name}/commit/{made.oid}"
    return reply({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


def resolve(hub: HubServer, ask: Ask) -> Reply:
    """A file: by itself, or as a redirect to the LFS storage."""
    made = at_revision(opened(hub, ask), ask.groups["revision"])
    path, headers = unquote(ask.groups["path"]), {"X-Repo-Commit": made.oid}
    if path not in made.files:
        raise Refused(404, "Entry not found", "EntryNotFound", **headers)
    file = made.files[path]
    headers["ETag"] = f'"{file.etag}"'
    if not file.lfs:
        return ranged(ask, file.content, headers)
    linked = {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(file.size)}
    return Reply(b"", 302, {**headers, **linked, "Location": f"{hub.storage_url}/storage/{file.sha256}"})


def ranged(ask: Ask, content: bytes, headers: dict[str, str]) -> Reply:
    """The content, or the part of it that the `Range` header asks for."""
    headers = {**headers, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", ask.headers.get("Range") or "")
    if asked is None:
        return Reply(content, 200, headers)
    size = len(content)
    start = int(asked[1]) if asked[1] else max(size - int(asked[2]), 0)
    stop = min(int(asked[2]) + 1, size) if asked[1] and asked[2] else size
    if start >= stop:
        raise Refused(416, "Requested range not satisfiable", **{"Content-Range": f"bytes */{size}"})
    return Reply(content[start:stop], 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"})


NAME = r"(?P<name>[^/]+/[^/]+?)"
API = rf"/api/(?P<kind>model|dataset|space)s/{NAME}"
WEB = rf"/(?:(?P<kind>dataset|space)s/)?{NAME}"
REVISION = r"(?P<revision>[^/]+)"
OBJECT = r"/storage/(?P<oid>[0-9a-f]{64})"
Route = Callable[["HubServer", Ask], Reply]
ROUTES: list[tuple[str, str, Route]] = [
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("POST", "/api/repos/create", create),
    ("DELETE", "/api/repos/delete", delete),
    ("GET", rf"{API}(?:/revision/{REVISION})?", info),
    ("GET", rf"{API}/tree/{REVISION}(?:/(?P<path>.+))?", tree),
    ("POST", rf"{API}/paths-info/{REVISION}", paths_info),
    ("GET", rf"{API}/refs", refs),
    ("GET", rf"{API}/commits/{REVISION}", commits),
    ("POST", rf"{API}/branch/(?P<branch>[^/]+)", branch),
    ("POST", rf"{API}/tag/{REVISION}", tag),
    ("POST", rf"{API}/preupload/{REVISION}", preupload),
    ("POST", rf"{API}/commit/{REVISION}", commit),
    ("POST", rf"{WEB}\.git/info/lfs/objects/batch", lfs_batch),
    ("POST", rf"{WEB}\.git/info/lfs/objects/verify", lfs_verify),
    ("PUT", OBJECT, upload),
    ("PUT", rf"{OBJECT}/(?P<part>\d+)", upload_part),
    ("POST", OBJECT.replace("storage", "api/complete"), complete),
    ("GET HEAD", OBJECT, download),
    ("GET HEAD", rf"{WEB}/resolve/{REVISION}/(?P<path>.+)", resolve),
]


def unknown(hub: HubServer, ask: Ask) -> Reply:
    raise Refused(404, f"This Hub has no route for {ask.method} {ask.path}")


def find_route(method: str, path: str) -> tuple[Route, dict[str, Any]]:
    for methods, pattern, route in ROUTES:
        match = re.fullmatch(pattern, path)
        if match and method in methods.split():
            return route, match.groupdict()
    return unknown, {}
