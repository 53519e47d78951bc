"""The upload, against a real HTTP server and the unmodified client in fresh processes."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_faults import Client, all_faults, contents, make_folder, summarize, try_all
from hub_server import File, HubServer
from published_run import write

from cr_hf.errors import PublishError
from cr_hf.hub.upload import check_name


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.mark.parametrize("name", ["tiny", "me/a b", "me/x/y", "me/..", "me/-x", "/x", "me/" + "x" * 100, "", "mé/ü"])
def test_bad_names_are_refused_before_anything_is_done(name: str) -> None:
    with pytest.raises(PublishError) as caught:
        check_name(name)
    assert "\n" not in str(caught.value)


def test_large_files_unicode_and_a_second_version(server: HubServer, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "repository", size=20_000_000)
    with Client(server) as client:
        first = client.publish(folder, "me/large")
        assert first["changed"] is True
        assert contents(folder).items() <= server.files("me/large").items()
        assert client.publish(folder, "me/large") == {**first, "changed": False}
        (folder / "model.safetensors").unlink()
        for shard in (1, 2):
            (folder / f"model-0000{shard}-of-00002.safetensors").write_bytes(random.Random(shard).randbytes(5000))
        assert client.publish(folder, "me/large")["changed"] is True
        assert "model.safetensors" not in server.files("me/large")
        assert "model.safetensors" in server.files("me/large", first["commit"])
    assert [route for route, _ in server.log].count("put") == 3


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        (None, "me/x", "no access token, log in with `hf auth login`"),
        ("hf_wrong", "me/x", "the token is not accepted"),
        ("hf_read", "me/x", "use one with write access"),
        ("hf_read", "me/there", "use one with write access"),
        ("hf_other", "me/x", "use one with write access"),
        ("hf_other", "me/private", "nothing was published"),
    ],
)
def test_tokens(token: str | None, repo: str, message: str, server: HubServer, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "repository")
    with Client(server) as owner:
        owner.publish(folder, "me/there")
        owner.publish(folder, "me/private", private=True)
    write("config.json", "{}")(folder)
    before = server.files("me/there")
    with Client(server, token) as client:
        answer = client.publish(folder, repo)
    assert message in answer["error"]
    assert "nothing was published" in answer["error"]
    assert server.files("me/there") == before
    assert "me/x" not in server.repositories


def test_a_tag_that_is_there_is_never_moved(server: HubServer, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "repository")
    with Client(server) as client:
        first = client.publish(folder, "me/x", tag="v1")
        assert client.publish(folder, "me/x", tag="v1")["changed"] is False
        write("config.json", "{}")(folder)
        answer = client.publish(folder, "me/x", tag="v1")
    assert "tag v1 exists" in answer["error"]
    assert "choose another tag" in answer["error"]
    assert server.repositories["me/x"].tags["v1"] == first["commit"]


def test_a_push_of_somebody_else_meanwhile_is_not_overwritten(server: HubServer, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "repository")

    def somebody(repo: str) -> None:
        server.before_commit = None
        server.repositories[repo].add("theirs", {"README.md": File(b"theirs", False)})

    server.before_commit = somebody
    with Client(server) as client:
        answer = client.publish(folder, "me/x")
        assert "somebody else pushed meanwhile: nothing was published, run the same command again" in answer["error"]
        assert server.files("me/x") == {"README.md": b"theirs"}
        assert client.publish(folder, "me/x")["changed"] is True


@pytest.mark.slow
def test_two_processes_publish_at_once(server: HubServer, tmp_path: Path) -> None:
    same = make_folder(tmp_path / "same")
    other = make_folder(tmp_path / "other")
    write("config.json", '{"other": true}')(other)
    with Client(server) as first, Client(server) as second:
        for turn, theirs in enumerate([same, same, other, other]):
            repo = f"me/x{turn}"
            first.send(same, repo)
            second.send(theirs, repo)
            answers = [first.answer(), second.answer()]
            assert any("commit" in answer for answer in answers), answers
            shown = {name: content for name, content in server.files(repo).items() if name != ".gitattributes"}
            assert shown in (contents(same), contents(theirs))
            for answer in answers:
                assert "commit" in answer or "somebody else pushed meanwhile" in answer["error"]
            if theirs == same:
                assert len(server.repositories[repo].commits) == 2


@pytest.mark.slow
def test_every_fault_ends_in_success_or_one_clear_error_that_a_rerun_completes() -> None:
    outcomes = try_all()
    assert not [outcome for outcome in outcomes if outcome.problem]
    report = summarize(outcomes)
    committed = Path(__file__).parents[2] / "experiments" / "results" / "hub_faults.json"
    shown = json.loads(committed.read_text(encoding="utf-8"))
    assert report["survived"] == report["tried"] == len(all_faults())
    assert (report["tried"], report["survived"]) == (shown["tried"], shown["survived"])


def test_a_refusal_of_the_hub_gives_its_reason(server: HubServer, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "repository")
    write("README.md", "no metadata")(folder)
    with Client(server) as client:
        answer = client.publish(folder, "me/x")
    assert "no metadata" in answer["error"]
    assert "nothing was published" in answer["error"]
