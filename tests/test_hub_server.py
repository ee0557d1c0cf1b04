"""The Hub of the tests: what the real clients find there, and that it is as strict as the Hub."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys

import huggingface_hub
import pytest
from datasets import Dataset
from huggingface_hub import HfApi, ModelCard, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session, http_backoff

from tests.hub_repository import File
from tests.hub_server import HubServer


# huggingface_hub 2.4 gives LFS files to httpx2 as `data=`; drop when it gives them as `content=`.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

WEIGHTS = bytes(range(256)) * 400
MODEL = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "deep/er/notes.txt": b"0123456789"}


@pytest.fixture
def hub(tmp_path):
    with HubServer() as hub, hub.connected(tmp_path / "home"):
        yield hub


@pytest.fixture
def api(hub):
    return HfApi(token=hub.token)


@pytest.fixture
def folder(tmp_path):
    for path, content in MODEL.items():
        (tmp_path / "model" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / path).write_bytes(content)
    return tmp_path / "model"


@pytest.fixture
def pushed(api, folder):
    api.create_repo("user/x")
    return api.upload_folder(repo_id="user/x", folder_path=folder).oid


@pytest.fixture
def impatient(monkeypatch):
    """Uploads that give up at the first error instead of waiting and repeating."""
    monkeypatch.setattr(huggingface_hub.lfs, "http_backoff", functools.partial(http_backoff, max_retries=0))


def raw(hub, method, path, token=None, **options):
    headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **options.pop("headers", {})}
    return get_session().request(method, path if "://" in path else hub.url + path, headers=headers, **options)


# --- what is pushed is there


def test_pushed_folder_is_listed_and_comes_back(hub, api, pushed, folder):
    assert sorted(api.list_repo_files("user/x")) == sorted([".gitattributes", *MODEL])
    assert {path: hub.files("user/x")[path] for path in MODEL} == MODEL
    back = snapshot_download("user/x", allow_patterns=["*.json", "deep/*"])
    assert hf_hub_download("user/x", "deep/er/notes.txt").startswith(back)
    assert not (folder / back / "model.safetensors").exists()
    for path, content in MODEL.items():
        with open(hf_hub_download("user/x", path), "rb") as file:
            assert file.read() == content
    assert "/home/hub/models--user--x/" in back


def test_tree_has_folders_sizes_and_lfs(api, pushed):
    top = {entry.path: entry for entry in api.list_repo_tree("user/x")}
    assert top.keys() == {".gitattributes", "config.json", "deep", "model.safetensors"}
    assert top["model.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert top["model.safetensors"].size == len(WEIGHTS)
    assert top["config.json"].lfs is None
    # the object id of git, so that the client sees unchanged files
    assert top["config.json"].blob_id == hashlib.sha1(b"blob 8\0" + MODEL["config.json"]).hexdigest()
    assert [entry.path for entry in api.list_repo_tree("user/x", "deep", recursive=True)] == [
        "deep/er",
        "deep/er/notes.txt",
    ]
    assert {entry.path for entry in api.get_paths_info("user/x", ["deep", "config.json", "no"])} == {
        "deep",
        "config.json",
    }
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree("user/x", "no"))


def test_files_by_revision(hub, api, pushed):
    api.create_branch("user/x", branch="try/1", revision=pushed)
    api.create_tag("user/x", tag="v1")
    second = api.upload_file(repo_id="user/x", path_or_fileobj=b'{"a": 2}', path_in_repo="config.json").oid
    api.upload_file(repo_id="user/x", path_or_fileobj=b"3", path_in_repo="config.json", revision="try/1")

    def config(revision=None):
        with open(hf_hub_download("user/x", "config.json", revision=revision), "rb") as file:
            return file.read()

    assert [config(), config(second), config("v1"), config(pushed), config("try/1")] == [
        b'{"a": 2}',
        b'{"a": 2}',
        b'{"a": 1}',
        b'{"a": 1}',
        b"3",
    ]
    assert api.model_info("user/x").sha == second
    assert api.model_info("user/x", revision="v1").sha == pushed
    assert [commit.commit_id for commit in api.list_repo_commits("user/x")][:2] == [second, pushed]
    assert [commit.title for commit in api.list_repo_commits("user/x")][-1] == "initial commit"
    references = api.list_repo_refs("user/x")
    assert {branch.name for branch in references.branches} == {"main", "try/1"}
    assert [(tag.name, tag.target_commit) for tag in references.tags] == [("v1", pushed)]
    with pytest.raises(RevisionNotFoundError):
        config("no")
    with pytest.raises(RevisionNotFoundError):
        api.upload_file(repo_id="user/x", path_or_fileobj=b"", path_in_repo="a", revision="no")


def test_unchanged_files_make_no_commit(hub, api, pushed, folder):
    assert api.upload_folder(repo_id="user/x", folder_path=folder).oid == pushed
    assert hub.routes().count("commit") == 1 and hub.routes().count("upload") == 1


def test_deleting_files_folders_and_repositories(hub, api, pushed):
    api.delete_file("config.json", "user/x")
    api.delete_folder("deep", "user/x")
    assert hub.files("user/x").keys() == {".gitattributes", "model.safetensors"}
    with pytest.raises(RemoteEntryNotFoundError):
        api.delete_file("config.json", "user/x")
    api.delete_repo("user/x")
    assert not api.repo_exists("user/x")


def test_kinds_are_apart(hub, api):
    for kind in ("model", "dataset"):
        assert api.create_repo("user/same", repo_type=kind).repo_type == kind
        api.upload_file(repo_id="user/same", repo_type=kind, path_or_fileobj=kind.encode(), path_in_repo="a.txt")
    assert [hub.files("user/same", kind=kind)["a.txt"] for kind in ("model", "dataset")] == [b"model", b"dataset"]


def test_creating_twice(hub, api):
    assert api.create_repo("x").repo_id == "user/x"
    assert api.create_repo("user/x", exist_ok=True).repo_id == "user/x"
    with pytest.raises(HfHubHTTPError, match="(?s)409.*You already created this model repo"):
        api.create_repo("user/x")


def test_cards_are_read_and_checked(api, pushed):
    def push(text):
        return api.upload_file(repo_id="user/x", path_or_fileobj=text.encode(), path_in_repo="README.md")

    push("---\ntags: [a, b]\npipeline_tag: text-classification\nlibrary_name: peft\nlicense: mit\n---\n# X\n")
    info = api.model_info("user/x", files_metadata=True)
    assert (info.pipeline_tag, info.library_name, info.tags) == ("text-classification", "peft", ["a", "b"])
    assert info.card_data.to_dict() == ModelCard.load("user/x").data.to_dict() != {}
    sizes = {file.rfilename: (file.size, bool(file.lfs)) for file in info.siblings}
    assert sizes["model.safetensors"] == (len(WEIGHTS), True) and sizes["config.json"] == (8, False)
    with pytest.raises(ValueError, match="Invalid metadata in README.md"):
        push("---\ntags: [a\n---\n")
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        push("# no header\n")


# --- downloads


def test_head_tells_what_a_file_is_without_its_content(hub, api, pushed):
    for path, content in MODEL.items():
        metadata = huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url("user/x", path))
        assert (metadata.size, metadata.commit_hash) == (len(content), pushed)
    answer = raw(hub, "HEAD", "/user/x/resolve/main/model.safetensors", follow_redirects=False)
    assert (answer.status_code, answer.content) == (302, b"")
    assert answer.headers["X-Linked-ETag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert answer.headers["Location"].startswith(hub.storage_url)
    missing = raw(hub, "HEAD", "/user/x/resolve/main/no.json")
    assert (missing.status_code, missing.headers["X-Repo-Commit"]) == (404, pushed)


@pytest.mark.parametrize("path", ["deep/er/notes.txt", "model.safetensors"], ids=["regular", "lfs"])
@pytest.mark.parametrize(
    ("asked", "part"),
    [("0-3", slice(0, 4)), ("4-", slice(4, None)), ("-3", slice(-3, None)), ("8-999999", slice(8, None))],
)
def test_ranges(hub, pushed, path, asked, part):
    answer = raw(hub, "GET", f"/user/x/resolve/main/{path}", headers={"Range": f"bytes={asked}"})
    assert (answer.status_code, answer.content) == (206, MODEL[path][part])
    assert answer.headers["Content-Range"].endswith(f"/{len(MODEL[path])}")


def test_range_beyond_the_end_is_refused(hub, pushed):
    answer = raw(hub, "GET", "/user/x/resolve/main/config.json", headers={"Range": "bytes=8-"})
    assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */8")


def test_cut_download_goes_on_where_it_stopped(hub, pushed, monkeypatch):
    # the client keeps whole chunks only
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    hub.cut("download")
    with open(hf_hub_download("user/x", "model.safetensors"), "rb") as file:
        assert file.read() == WEIGHTS
    first, second = (ask for ask in hub.requests if ask.route == "download")
    assert first.headers["Range"] is None
    assert second.headers["Range"] == f"bytes={len(WEIGHTS) // 2}-"


# --- who may do what


def test_private_repository_is_for_its_owner_only(hub, api, folder):
    hub.users["hf_other"] = "other"
    api.create_repo("user/x", private=True)
    api.upload_folder(repo_id="user/x", folder_path=folder)
    assert hub.repository("user/x").private and api.model_info("user/x").private
    for token, status in ((False, 401), ("hf_other", 404)):
        for refused in (
            lambda token: HfApi(token=token).model_info("user/x"),
            lambda token: HfApi(token=token).list_repo_files("user/x"),
            lambda token: hf_hub_download("user/x", "config.json", token=token),
            lambda token: snapshot_download("user/x", token=token),
        ):
            with pytest.raises(RepositoryNotFoundError, match=f"{status} Client Error"):
                refused(token)
    with open(hf_hub_download("user/x", "model.safetensors", token=hub.token), "rb") as file:
        assert file.read() == WEIGHTS


def test_only_the_owner_writes(hub, api, pushed):
    hub.users["hf_other"] = "other"
    for token, status in ((False, 401), ("hf_other", 403)):
        with pytest.raises(HfHubHTTPError) as error:
            HfApi(token=token).upload_file(repo_id="user/x", path_or_fileobj=b"", path_in_repo="config.json")
        assert error.value.response.status_code == status
        with pytest.raises(HfHubHTTPError):
            HfApi(token=token).create_repo("user/y")
    assert api.model_info("user/x").sha == pushed and len(hub.repositories) == 1


def test_tokens_are_checked(hub, api):
    assert api.whoami()["name"] == "user"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(token="hf_wrong").whoami()
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        HfApi(token="hf_wrong").model_info("user/x")


def test_storage_never_sees_a_token(hub, api, pushed):
    hf_hub_download("user/x", "model.safetensors", token=hub.token)
    tokens = {route: {ask.token for ask in hub.requests if ask.route == route} for route in hub.routes()}
    assert tokens["upload"] == tokens["download"] == {None}
    assert tokens["resolve"] == tokens["commit"] == tokens["lfs_batch"] == {hub.token}


# --- what the Hub refuses


def test_content_that_is_not_what_it_claims_is_refused(hub):
    answer = raw(hub, "PUT", f"{hub.storage_url}/storage/{'0' * 64}", content=b"x")
    assert answer.status_code == 400 and not hub.storage


def test_commit_of_an_object_that_was_not_uploaded_is_refused(hub, api, pushed):
    lines = [
        {"key": "header", "value": {"summary": "s", "description": ""}},
        {"key": "file", "value": {"path": "new.txt", "content": "", "encoding": "base64"}},
        {"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": "0" * 64, "size": 1}},
    ]
    content = "\n".join(map(json.dumps, lines))
    answer = raw(hub, "POST", "/api/models/user/x/commit/main", hub.token, content=content)
    assert answer.status_code == 400 and "a.bin points to a file that does not exist" in answer.json()["error"]
    assert api.model_info("user/x").sha == pushed


def test_commit_on_a_parent_of_yesterday_is_refused(hub, api, pushed):
    api.upload_file(repo_id="user/x", path_or_fileobj=b"2", path_in_repo="a.txt")
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(repo_id="user/x", path_or_fileobj=b"3", path_in_repo="a.txt", parent_commit=pushed)
    assert hub.files("user/x")["a.txt"] == b"2"


def test_pull_requests_are_not_there(api, pushed):
    with pytest.raises(BadRequestError, match="Only branches"):
        api.upload_file(repo_id="user/x", path_or_fileobj=b"", path_in_repo="a.txt", create_pr=True)


def test_unknown_route_says_so(hub):
    answer = raw(hub, "GET", "/api/spaces")
    assert (answer.status_code, answer.json()["error"]) == (404, "This Hub has no route for GET /api/spaces")
    assert hub.routes() == ["unknown"]


def test_mistake_of_the_server_is_no_transient_error(hub):
    answer = raw(hub, "POST", "/api/repos/create", hub.token, content=b"no json")
    assert answer.status_code == 501 and "JSONDecodeError" in answer.json()["error"]


# --- trouble on demand


def test_busy_hub_is_asked_again(hub, api, folder):
    api.create_repo("user/x")
    hub.fail("lfs_batch", 503)
    api.upload_folder(repo_id="user/x", folder_path=folder)
    assert hub.routes().count("lfs_batch") == 2
    assert hub.files("user/x")["model.safetensors"] == WEIGHTS


def test_faults_end_after_their_number(hub, api):
    hub.fail("whoami", 500, times=2)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="Broken by the test"):
            api.whoami()
    assert api.whoami()["name"] == "user"


def test_cut_upload_is_repeated_by_the_client(hub, api, folder):
    api.create_repo("user/x")
    hub.cut("upload")
    api.upload_folder(repo_id="user/x", folder_path=folder)
    assert hub.routes().count("upload") == 2
    assert hub.files("user/x")["model.safetensors"] == WEIGHTS


def test_push_after_an_interrupted_upload_is_complete(hub, api, folder, impatient):
    (folder / "second.safetensors").write_bytes(WEIGHTS[::-1])
    empty = api.create_repo("user/x") and api.model_info("user/x").sha
    hub.cut("upload")
    with pytest.raises(RuntimeError, match="Error while uploading"):
        api.upload_folder(repo_id="user/x", folder_path=folder)
    assert api.model_info("user/x").sha == empty
    api.upload_folder(repo_id="user/x", folder_path=folder)
    assert hub.files("user/x").items() >= {**MODEL, "second.safetensors": WEIGHTS[::-1]}.items()


def test_push_after_a_refused_commit_uploads_nothing_twice(hub, api, folder):
    api.create_repo("user/x")
    hub.fail("commit", 500)
    with pytest.raises(HfHubHTTPError, match="500"):
        api.upload_folder(repo_id="user/x", folder_path=folder)
    assert hub.files("user/x").keys() == {".gitattributes"}
    api.upload_folder(repo_id="user/x", folder_path=folder)
    assert hub.files("user/x").items() >= MODEL.items()
    assert hub.routes().count("upload") == 1


def test_large_objects_go_in_parts(hub, api, folder):
    hub.part_size = 40_000
    api.create_repo("user/x")
    hub.fail("upload_part", 500)  # a part is sent again, not the whole
    api.upload_folder(repo_id="user/x", folder_path=folder)
    assert hub.routes().count("upload_part") == 4 and hub.routes().count("complete") == 1
    assert "upload" not in hub.routes() and not hub.parts
    assert hub.files("user/x")["model.safetensors"] == WEIGHTS


def test_parts_that_do_not_make_the_object_are_refused(hub):
    place = f"{hub.storage_url}/storage/{hashlib.sha256(WEIGHTS).hexdigest()}"
    etag = raw(hub, "PUT", f"{place}/1", content=WEIGHTS[:10]).headers["ETag"]
    complete = place.replace(f"{hub.storage_url}/storage", "/api/complete")
    answer = raw(hub, "POST", complete, json={"parts": [{"partNumber": 1, "etag": etag}]})
    assert answer.status_code == 400 and not hub.storage


def test_busy_hub_says_when_to_ask_again(hub, api, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    api.create_repo("user/x")
    hub.fail("preupload", 429, retry_after=7)
    api.upload_file(repo_id="user/x", path_or_fileobj=b"1", path_in_repo="a.txt")
    assert waits == [8.0]  # the client adds a second


def test_answer_that_is_lost_leaves_the_commit(hub, api):
    api.create_repo("user/x")
    hub.lose_answer("commit")
    with pytest.raises(Exception, match="disconnected"):
        api.upload_file(repo_id="user/x", path_or_fileobj=b"1", path_in_repo="a.txt")
    assert hub.files("user/x")["a.txt"] == b"1"


def test_faults_can_be_taken_back(hub, api):
    hub.fail("whoami", 500)
    hub.mend()
    assert api.whoami()["name"] == "user"


def test_planted_names_are_listed_as_they_are(hub, api):
    api.create_repo("user/x")
    hub.repository("user/x").commit("main", {"../evil.py": File(b"1"), "/abs": File(b"2")}, "planted")
    assert set(api.list_repo_files("user/x")) == {"../evil.py", "/abs"}


# --- inside and outside the context


def test_this_process_is_offline_again_afterwards(tmp_path):
    before = (huggingface_hub.constants.ENDPOINT, huggingface_hub.constants.HF_HUB_OFFLINE)
    with HubServer() as hub:
        with hub.connected(tmp_path, hub.token):
            assert huggingface_hub.whoami()["name"] == "user"
        assert (huggingface_hub.constants.ENDPOINT, huggingface_hub.constants.HF_HUB_OFFLINE) == before
        with pytest.raises(LocalEntryNotFoundError):
            hf_hub_download("user/x", "config.json", cache_dir=tmp_path)
    assert hub.routes() == ["whoami"]


def test_closed_hub_is_gone(tmp_path):
    with HubServer() as hub:
        pass
    with hub.connected(tmp_path), pytest.raises(Exception, match="refused"):
        raw(hub, "GET", "/api/whoami-v2")


def test_environment_holds_one_token_or_none(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_person")
    assert "HF_TOKEN" not in hub.environment(tmp_path)
    assert hub.environment(tmp_path, "hf_a")["HF_TOKEN"] == "hf_a"
    assert "HF_HUB_OFFLINE" not in hub.environment(tmp_path)


# Ends without the teardown of the interpreter, in which a thread of the stream sometimes aborts (datasets 5.2).
LOAD = """
import json, os
from datasets import load_dataset
tables, table = load_dataset("user/data"), load_dataset("user/data", data_files="more/rows.csv", split="train")
stream = load_dataset("user/data", split="test", streaming=True)
print(json.dumps([{name: part[:] for name, part in tables.items()}, table[:], list(stream)]), flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_datasets_loads_a_private_data_set_in_a_fresh_process(hub, api, tmp_path):
    splits = {"train": {"text": ["a", "b", "c"], "label": [0, 1, 0]}, "test": {"text": ["d"], "label": [1]}}
    api.create_repo("user/data", repo_type="dataset", private=True)
    for split, rows in splits.items():
        Dataset.from_dict(rows).to_parquet(tmp_path / f"{split}.parquet")
        api.upload_file(
            repo_id="user/data",
            repo_type="dataset",
            path_or_fileobj=tmp_path / f"{split}.parquet",
            path_in_repo=f"data/{split}-00000-of-00001.parquet",
        )
    api.upload_file(
        repo_id="user/data", repo_type="dataset", path_or_fileobj=b"text,label\ne,1\n", path_in_repo="more/rows.csv"
    )

    def load(token):
        environment = hub.environment(tmp_path / str(token), token)
        return subprocess.run([sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True)

    done = load(hub.token)
    assert done.returncode == 0, done.stderr
    tables, table, stream = json.loads(done.stdout)
    assert tables == splits and table == {"text": ["e"], "label": [1]} and stream == [{"text": "d", "label": 1}]
    assert hub.token not in done.stderr + done.stdout
    refused = load(None)
    assert refused.returncode and "doesn't exist on the Hub or cannot be accessed" in refused.stderr
