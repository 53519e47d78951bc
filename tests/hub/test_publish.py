"""Publishing from end to end, against a real HTTP server and the unmodified client in processes of their own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from against_hub import Commands
from children import Ended
from conftest import TinyBackbone
from hub_faults import contents
from hub_server import File, HubServer, Repository
from published_run import append, make_run, write

from cr_hf.errors import PublishError
from cr_hf.hub.export import check_folder
from cr_hf.hub.publish import dry_run


@pytest.fixture(scope="module")
def run_dir(tiny_backbone: TinyBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "tiny", tiny_backbone("bert"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HubServer, Commands]]:
    with HubServer() as running:
        commands = Commands(running, tmp_path_factory.mktemp("home"))
        yield running, commands
        commands.close()


@pytest.fixture
def server(hub: tuple[HubServer, Commands]) -> HubServer:
    """The Hub, with nothing on it."""
    for state in (hub[0].repositories, hub[0].blobs, hub[0].log):
        state.clear()
    return hub[0]


@pytest.fixture
def commands(hub: tuple[HubServer, Commands]) -> Commands:
    return hub[1]


@pytest.mark.slow
def test_publish_and_again_after_an_edit_on_the_web(run_dir: Path, server: HubServer, commands: Commands) -> None:
    done = commands.command_line("publish", run_dir, "me/tiny", "--tag", "v1", "--private")
    assert done.code == 0, done.errors[-2000:]
    assert "Published: me/tiny" in done.output
    repository = server.repositories["me/tiny"]
    assert repository.private
    assert len(repository.commits) == 2
    assert repository.tags["v1"] == repository.main.oid
    card = repository.main.files["README.md"].content.decode()
    assert 'model="me/tiny"' in card
    by_hand = File((card + "\n## By hand\n").encode(), False)
    repository.add("on the web", {**repository.main.files, "README.md": by_hand, "picture.png": File(b"png", False)})
    again = commands.command_line("publish", run_dir, "me/tiny", "--tag", "v2")
    assert "Nothing changed" in again.output, again.errors[-2000:]
    assert len(repository.commits) == 3
    assert repository.tags["v2"] == repository.main.oid
    assert "## By hand" in server.files("me/tiny")["README.md"].decode()
    assert server.files("me/tiny")["picture.png"] == b"png"


@pytest.mark.slow
def test_a_space_is_published_beside_its_model(run_dir: Path, server: HubServer, commands: Commands) -> None:
    done = commands.command_line("publish", run_dir, "me/tiny", "--space", "me/page")
    assert done.code == 0, done.errors[-2000:]
    assert "Published: me/page" in done.output
    files = server.files("spaces/me/page")
    assert set(files) == {"app.py", "perturbations.py", "requirements.txt", "README.md", ".gitattributes"}
    assert b"- me/tiny\n" in files["README.md"]
    assert b'"me/tiny"' in files["app.py"]
    again = commands.command_line("publish", run_dir, "me/tiny", "--space", "me/page")
    assert again.output.count("Nothing changed") == 2, again.errors[-2000:]
    before = len(server.repositories)
    refused = commands.command_line("publish", run_dir, "me/second", "--space", "other/page")
    assert refused.code == 2
    assert "other/page" in refused.errors
    assert len(server.repositories) == before


@pytest.mark.slow
def test_a_dry_run_needs_no_network(run_dir: Path, tmp_path: Path) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    folder = dry_run(run_dir, "me/tiny", tmp_path / "out")
    assert 'model="me/tiny"' in (folder / "README.md").read_text(encoding="utf-8")
    check_folder(folder)


@pytest.mark.slow
def test_the_trainer_publishes_by_the_same_path(
    tiny_backbone: TinyBackbone, server: HubServer, commands: Commands, tmp_path: Path
) -> None:
    script = """
import sys
from transformers import AutoTokenizer
from cr_hf import CRForSequenceClassification, CRTrainer, CRTrainingArguments
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = CRForSequenceClassification.from_backbone(sys.argv[1], hidden_sizes=[8])
rows = [{**tokenizer(text), "labels": label} for text, label in (("good film", 1), ("bad film", 0))] * 8
arguments = CRTrainingArguments(
    sys.argv[2], num_train_epochs=1, use_cpu=True, push_to_hub=True, hub_model_id="me/trained",
    save_strategy="epoch", eval_strategy="epoch",
)
trainer = CRTrainer(model, arguments, train_dataset=rows, eval_dataset=rows, processing_class=tokenizer)
trainer.train()
print("published", trainer.push_to_hub(tag="v1"))
assert not trainer.push_to_hub(tag="v1").changed
"""
    done = commands.script(script, tiny_backbone("bert"), tmp_path / "run")
    assert done.code == 0, done.errors[-2000:]
    files = server.files("me/trained")
    assert {"README.md", "model.safetensors", "modeling_cr.py", "tokenizer.json"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt"))]
    assert len(server.repositories["me/trained"].commits) == 2
    assert server.repositories["me/trained"].tags["v1"] == server.repositories["me/trained"].main.oid
    assert "epochs: 1" in files["README.md"].decode()


@pytest.mark.slow
def test_loading_a_local_model_opens_no_connection(run_dir: Path) -> None:
    script = """
import socket, sys
def refuse(*arguments):
    raise AssertionError(f"a connection was opened: {arguments}")
socket.socket.connect = socket.create_connection = refuse
import cr_hf
from transformers import AutoModelForSequenceClassification, AutoTokenizer
AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
AutoTokenizer.from_pretrained(sys.argv[1])
"""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-c", script, str(run_dir)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_a_backbone_on_the_hub_is_fetched_at_its_commit_and_checked(
    tiny_backbone: TinyBackbone, server: HubServer, commands: Commands, tmp_path: Path
) -> None:
    script = """
import sys
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from cr_hf import CRForSequenceClassification
folder = sys.argv[1]
if len(sys.argv) > 2:
    tokenizer = AutoTokenizer.from_pretrained("me/encoder")
    model = CRForSequenceClassification.from_backbone(
        "me/encoder", hidden_sizes=[8], freeze_backbone=True, feature_norm="layer_norm"
    )
    model.save_pretrained(folder, head_only=True)
    tokenizer.save_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder)
print("logits", model.predict_texts(["a witty film"], AutoTokenizer.from_pretrained(folder)).tolist())
"""

    def run(*arguments: str) -> Ended:
        """With nothing fetched before."""
        shutil.rmtree(commands.home / "hub", ignore_errors=True)
        return commands.script(script, tmp_path / "head", *arguments)

    files = {name: File(data, name.endswith(".safetensors")) for name, data in contents(tiny_backbone("bert")).items()}
    server.blobs.update({file.sha256: file.content for file in files.values()})
    server.repositories["me/encoder"] = Repository()
    commit = server.repositories["me/encoder"].add("first", files)
    first = run("make")
    assert first.code == 0, first.errors[-2000:]
    source = json.loads((tmp_path / "head" / "config.json").read_text(encoding="utf-8"))["backbone_source"]
    assert source["repo_id"] == "me/encoder"
    assert source["revision"] == commit.oid
    shutil.rmtree(commands.home / "hub")
    wanted = ["backbone=me/encoder", f"output_dir={tmp_path / 'run'}", "num_train_epochs=1"]
    demo = Path(__file__).resolve().parents[2] / "recipes" / "demo.yaml"
    trained = commands.command_line("train", demo, *wanted)
    assert trained.code == 0, trained.errors[-2000:]
    server.repositories["me/encoder"].add("retrained", {**files, "model.safetensors": File(b"other", True)})
    assert run().output == first.output
    changed = bytearray(files["model.safetensors"].content)
    changed[-1] ^= 1
    commit.files["model.safetensors"] = File(bytes(changed), True)
    server.blobs[commit.files["model.safetensors"].sha256] = bytes(changed)
    assert "has changed: model.safetensors is not the file" in run().errors
    del server.repositories["me/encoder"]
    gone = run()
    assert gone.code != 0
    assert f"the backbone me/encoder at {commit.oid} cannot be fetched" in gone.errors


# ---- nothing is deleted, nothing is done in vain ----


class TestFolders:
    @pytest.fixture
    def folder(self, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Of an earlier dry run; that it loads is seen elsewhere."""
        monkeypatch.setattr("cr_hf.hub.publish.check_loads", lambda folder: None)
        return dry_run(run_dir, "me/tiny", tmp_path / "some" / "where")

    def test_an_earlier_dry_run_is_replaced_and_its_card_keeps_what_was_written_by_hand(
        self, folder: Path, run_dir: Path
    ) -> None:
        append("README.md", "\n## By hand\n")(folder)
        (folder / "model-00001-of-00002.safetensors").write_bytes(b"of another run")
        dry_run(run_dir, "me/tiny", folder)
        assert "## By hand" in (folder / "README.md").read_text(encoding="utf-8")
        assert not (folder / "model-00001-of-00002.safetensors").exists()

    @pytest.mark.parametrize("name", ["thesis.txt", ".git/config", "LICENSE", "inner/model.safetensors"])
    def test_a_file_of_the_users_is_left_and_named(self, name: str, folder: Path, run_dir: Path) -> None:
        write(name, "mine")(folder)
        before = contents(folder)
        with pytest.raises(PublishError, match=f"holds {name},"):
            dry_run(run_dir, "me/tiny", folder)
        assert contents(folder) == before

    def test_a_link_is_left(self, folder: Path, run_dir: Path) -> None:
        (folder.parent / "link").symlink_to(folder)
        (folder.parent / "mine.json").write_text("{}", encoding="utf-8")
        (folder / "vocab.json").symlink_to(folder.parent / "mine.json")
        for place, message in ((folder.parent / "link", "is not an empty folder"), (folder, r"holds vocab\.json")):
            with pytest.raises(PublishError, match=message):
                dry_run(run_dir, "me/tiny", place)
        assert (folder.parent / "mine.json").is_file()

    def test_what_is_refused_leaves_nothing(
        self, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(folder: Path) -> None:
            raise PublishError("it does not load")

        monkeypatch.setattr("cr_hf.hub.publish.check_loads", refuse)
        with pytest.raises(PublishError, match="it does not load"):
            dry_run(run_dir, "me/tiny", tmp_path / "some" / "where")
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "token", "message"),
    [
        (["me/tiny"], "hf_wrong", "the token is not accepted"),
        (["me/tiny"], "hf_read", "use one with write access"),
        (["me/tiny"], "hf_other", "use one with write access"),
        (["nobody/tiny"], "hf_write", "use one with write access"),
        (["me/tiny", "--tag", "a tag"], "hf_write", "is no name of a tag"),
        (["me/tiny", "--tag", "x" * 300], "hf_write", "is no name of a tag"),
        (["me/x/y"], "hf_write", "is no repository name"),
    ],
)
def test_what_the_hub_would_refuse_is_refused_before_anything_is_made(
    arguments: list[str], token: str, message: str, run_dir: Path, server: HubServer, commands: Commands
) -> None:
    done = commands.command_line("publish", run_dir, *arguments, token=token)
    assert done.code == 2, done.errors[-2000:]
    assert message in done.errors
    assert {route for route, _ in server.log} <= {"whoami"}


def test_a_recipe_that_could_not_be_published_is_refused_before_training(
    tiny_backbone: TinyBackbone, server: HubServer, commands: Commands, tmp_path: Path
) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "demo.yaml"
    arguments = [str(recipe), f"backbone={tiny_backbone('bert')}", f"output_dir={tmp_path / 'run'}"]
    arguments += ["push_to_hub=true", "hub_model_id=me/tiny", "use_cpu=true"]
    done = commands.command_line("train", *arguments, token="hf_read")
    assert done.code == 2, done.errors[-2000:]
    assert "use one with write access" in done.errors
    assert not (tmp_path / "run").exists()
