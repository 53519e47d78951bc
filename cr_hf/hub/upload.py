"""Bring a repository of the Hub to the files of a folder: one atomic commit, verified after; a rerun completes it."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_token,
    hf_hub_download,
    set_client_factory,
    snapshot_download,
)
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils._http import default_client_factory
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from ..errors import PublishError
from ..runs import CARD, EVAL_RESULTS

TIMEOUT = 60.0
"""Seconds without a byte after which a call is given up; the client itself would wait for ever."""
ATTEMPTS = 3
PASSING = (408, 409, 412, 429)
"""Statuses after which a step is looked at once more; after a 409 or 412, what is on the main branch decides."""
FAILURES = (httpx2.HTTPError, OSError, ValueError, KeyError, RuntimeError)
"""What the client raises when a call fails: its own errors, the network's, a failed upload wrapped in a RuntimeError,
and an answer that is no JSON or lacks a part."""
EXPLANATIONS = {
    401: "the token is not accepted, or the repository is not there for it (401): log in with `hf auth login`",
    403: "the token may not do this (403): use one with write access to the namespace",
    409: "somebody else pushed meanwhile (409): run the same command again",
    412: "somebody else pushed meanwhile (412): run the same command again",
    429: "too many requests (429): wait and run the same command again",
}
REPLACED = ("model.safetensors", "model.safetensors.index.json", "model-", EVAL_RESULTS)
"""Starts of the files that only a publish makes: they go when the next publish does not make them."""
TAG = re.compile(r"(?!.*(\.\.|\.lock$))[\w][\w.+-]{0,200}")

T = TypeVar("T")


@dataclass
class Published:
    """What stands on the Hub.

    Args:
        repo_id: the repository.
        commit: on its main branch.
        changed: whether this publish made that commit; otherwise it was there already.
        tag: the tag at that commit, if one was asked for.
    """

    repo_id: str
    commit: str
    changed: bool
    tag: str | None = None


@dataclass(frozen=True)
class _Repository:
    """A repository of the Hub, and the client that asks for it."""

    api: HfApi
    repo_id: str
    kind: str

    @property
    def name(self) -> dict[str, Any]:
        """As the client's functions take it."""
        return {"repo_id": self.repo_id, "repo_type": self.kind}

    def make(self, private: bool | None) -> None:
        """Make it only if it does not exist: creating an existing one needs rights in its namespace."""
        try:
            self.api.repo_info(**self.name, timeout=TIMEOUT)
        except RepositoryNotFoundError:
            sdk = "gradio" if self.kind == "space" else None
            self.api.create_repo(**self.name, private=private, exist_ok=True, space_sdk=sdk)

    def head(self) -> str:
        """The newest commit of the main branch."""
        return str(self.api.repo_info(**self.name, revision="main", timeout=TIMEOUT).sha)

    def card(self, commit: str) -> str | None:
        """Its README at a commit, if it has one."""
        with tempfile.TemporaryDirectory() as cache:
            options: dict[str, Any] = {"revision": commit, "cache_dir": cache, "token": self.api.token}
            try:
                path = hf_hub_download(**self.name, filename=CARD, **options)
            except EntryNotFoundError as error:
                if isinstance(error, FileNotFoundError):  # not an answer: the Hub was not reached
                    raise
                return None
            return Path(path).read_text(encoding="utf-8")

    def changes(self, commit: str, folder: Path) -> tuple[list[str], list[str]]:
        """Files that differ from those of a commit, and files of an earlier publish that are no longer made."""
        tree = self.api.list_repo_tree(**self.name, recursive=True, revision=commit)
        remote = {item.path: item for item in tree if isinstance(item, RepoFile)}
        local = folder_digests(folder)
        additions = []
        for path, digest in local.items():
            item = remote.get(path)
            if item is None or (
                item.lfs.sha256 != digest if item.lfs else item.blob_id != git_hash((folder / path).read_bytes())
            ):
                additions.append(path)
        return additions, [path for path in remote if path not in local and path.startswith(REPLACED)]

    def set_tag(self, tag: str, commit: str) -> None:
        """Set a tag; one that is there already must name the same commit."""
        tags = self.api.list_repo_refs(**self.name).tags
        at = next((ref.target_commit for ref in tags if ref.name == tag), None)
        if at is None:
            self.api.create_tag(**self.name, tag=tag, revision=commit)
        elif at != commit:
            raise PublishError(
                f"{self.repo_id}: tag {tag} exists at commit {at[:12]}; the files are published as commit "
                f"{commit[:12]} on main without a tag: choose another tag"
            )


def check_access(repo_id: str, token: str | None = None, tag: str | None = None) -> str:
    """Refuse, before any work, what the Hub would refuse after it.

    Args:
        repo_id: `namespace/name`.
        token: the one that is logged in by default.
        tag: to be set.

    Returns:
        The token.

    Raises:
        PublishError: if a name is not allowed, or the token is missing, wrong, or may not write to the namespace.
    """
    check_name(repo_id)
    if tag is not None and not TAG.fullmatch(tag):
        raise PublishError(f"tag {tag!r} is no name of a tag: use letters, digits, dots, dashes and underscores")
    token, state = _token(repo_id, token), "nothing was published"
    with _timeouts():
        account = _call(f"{repo_id}: asking whose token it is", state, lambda: HfApi(token=token).whoami())
    names = [account["name"], *(organisation["name"] for organisation in account.get("orgs", []))]
    is_readonly = (account.get("auth") or {}).get("accessToken", {}).get("role") == "read"
    if is_readonly or repo_id.split("/")[0] not in names:
        raise PublishError(
            f"{repo_id}: {state}: the token of {account['name']} may not write there: use one with write access to "
            f"the namespace {repo_id.split('/')[0]}"
        )
    return token


def _token(repo_id: str, token: str | None) -> str:
    token = token or get_token()
    if not token:
        raise PublishError(f"{repo_id}: nothing was published: no access token, log in with `hf auth login` first")
    return token


def check_name(repo_id: str) -> None:
    """Refuse a name that the Hub would refuse.

    Raises:
        PublishError: with the rule.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"{repo_id!r} is no repository name: {str(error).splitlines()[0]}") from error
    if "/" not in repo_id:
        raise PublishError(f"{repo_id!r} has no namespace: give namespace/name, such as me/{repo_id}")


def upload(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    tag: str | None = None,
    token: str | None = None,
    message: str | None = None,
    kind: str = "model",
    before: Callable[[str | None], None] | None = None,
    after: Callable[[Path], None] | None = None,
) -> Published:
    """Bring the main branch of a repository to the files of a checked folder, in one commit, and verify it.

    Args:
        folder: the repository's files.
        repo_id: `namespace/name`.
        private, tag, token, message: see `publish_run`.
        kind: `"model"` or `"space"`, a page that gradio serves.
        before: called with the card that is on the Hub (`None` without one) before anything is compared.
        after: called with the files of a new commit as they were downloaded again; raises if they are not right.

    Raises:
        PublishError: saying what was published, what was not, and the mend.
    """
    token = _token(repo_id, token)
    repository, state = _Repository(HfApi(token=token), repo_id, kind), "nothing was published"
    with _timeouts():
        _call(f"{repo_id}: making the repository", state, lambda: repository.make(private))
        parent = _call(f"{repo_id}: reading the repository", state, repository.head)
        if before is not None:
            before(_call(f"{repo_id}: reading the card", state, lambda: repository.card(parent)))
        commit = _commit(repository, folder, parent, message or "Publish a ChainzRule classifier")
        published = Published(repo_id, commit, commit != parent, tag)
        state = f"the files are published as commit {commit[:12]} on main"
        if tag is not None:
            _call(f"{repo_id}: setting tag {tag}", f"{state}, the tag is not", lambda: repository.set_tag(tag, commit))
            state += f", with tag {tag}"
        # In a cache of its own, so that no earlier download answers for the Hub.
        with tempfile.TemporaryDirectory() as cache:
            options: dict[str, Any] = {"revision": commit, "cache_dir": cache, "token": token}
            what = f"{repo_id}: downloading them again"
            download = partial(snapshot_download, **repository.name, **options)
            found = Path(_call(what, f"{state}; not verified", download))
            _compare(found, folder, f"{repo_id}: {state}", after if published.changed else None)
    return published


def folder_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path in the repository."""
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as handle:
            digests[path.relative_to(folder).as_posix()] = sha_fileobj(handle).hex()
    return digests


def _compare(found: Path, folder: Path, state: str, after: Callable[[Path], None] | None) -> None:
    """Refuse files that came back different from what was sent."""
    digests = folder_digests(found)
    for name, digest in folder_digests(folder).items():
        if digests.get(name) != digest:
            raise PublishError(f"{state}, but {name} came back changed: run the same command again")
    if after is not None:
        try:
            after(found)
        except PublishError as error:
            raise PublishError(f"{state}, but {error}") from error


def _commit(repository: _Repository, folder: Path, parent: str, message: str) -> str:
    """The commit on main that has the folder's files: a new one, or `parent` if it has them already."""
    repo_id, state = repository.repo_id, "nothing was published"

    def attempt() -> str:
        # Asked each time: an earlier attempt may have succeeded although its reply was lost.
        head = repository.head()
        additions, deletions = repository.changes(head, folder)
        if not additions and not deletions:
            return head
        if head != parent:
            raise PublishError(f"{repo_id}: somebody else pushed meanwhile: {state}, run the same command again")
        operations: list[Any] = [CommitOperationAdd(path, str(folder / path)) for path in additions]
        operations += [CommitOperationDelete(path) for path in deletions]
        options: dict[str, Any] = {"commit_message": message, "parent_commit": parent}
        return repository.api.create_commit(**repository.name, operations=operations, **options).oid

    return _call(f"{repo_id}: uploading", state, attempt)


def _call(what: str, state: str, action: Callable[[], T]) -> T:
    """Do one step, again after a failure that may pass; else one line that says how things stand."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except FAILURES as failure:
            wrapped = failure.__cause__ if isinstance(failure, RuntimeError) else None
            error = wrapped if isinstance(wrapped, Exception) else failure
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status is None:  # the network, or an answer that is not JSON; another ValueError is about our input
                passing = not isinstance(error, ValueError) or isinstance(error, json.JSONDecodeError)
            else:
                passing = status in PASSING or status >= 500
            if passing and attempt < ATTEMPTS:
                time.sleep(attempt)
                continue
            raise PublishError(f"{what} failed, {_explain(error, status)}; {state}") from error
    raise AssertionError


def _explain(error: Exception, status: int | None) -> str:
    if status in EXPLANATIONS:
        return EXPLANATIONS[status]
    if status is not None and status >= 500:
        return f"the Hub is in trouble ({status}): run the same command again later"
    if isinstance(error, httpx2.TimeoutException):
        return f"no answer within {TIMEOUT:.0f} s: check the network and run the same command again"
    said = getattr(error, "server_message", None) or str(error)
    cause = " ".join(said.split())[:400] or type(error).__name__
    return f"{cause} ({type(error).__name__}): {'mend it and ' if status == 400 else ''}run the same command again"


@contextmanager
def _timeouts() -> Iterator[None]:
    """Give every call of the client a timeout: by default most have none."""

    def client() -> httpx2.Client:
        made = default_client_factory()
        made.timeout = httpx2.Timeout(TIMEOUT)
        return made

    set_client_factory(client)
    try:
        yield
    finally:
        set_client_factory(default_client_factory)
