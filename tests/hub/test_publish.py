"""Publishing, against a real HTTP server and the unmodified client in fresh processes."""

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TinyBackbone
from hub_faults import Client, all_faults, contents, make_folder, summarize, try_all
from hub_server import File, HubServer, Repository
from transformers import AutoTokenizer

from cr_hf import CRForSequenceClassification
from cr_hf.errors import CheckpointError, PublishError
from cr_hf.hub.export import check_folder, check_loads, export_run
from cr_hf.hub.publish import dry_run
from cr_hf.hub.upload import check_name
from cr_hf.runs.train import PROBE_TEXTS

TEXT = "The quick brown fox of this training row jumps over the lazy dog."
RESULTS: dict[str, Any] = {
    "cr_hf_version": "0.1.0",
    "data": {"source": "local files", "revision": None, "synthetic": False, "labels": ["schlecht", "très bien"]},
    "training": {"seed": 0, "epochs": 1.0, "steps": 4, "seconds_training": 1.0, "seconds_preparing": 1.0},
    "metrics": {"test": {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "rows": 10}},
    "environment": {"python": "3.11", "torch": "2", "transformers": "5", "device": "CPU"},
}


@pytest.fixture(scope="module")
def run_dir(tiny_backbone: TinyBackbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves behind, without the training."""
    from cr_hf.runs.results import describe_model

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    labels = {0: "schlecht", 1: "très bien"}
    model = CRForSequenceClassification.from_backbone(
        str(tiny_backbone("bert")), hidden_sizes=[8], freeze_backbone=True, id2label=labels
    )
    model.fit_feature_norm(torch.randn(20, 32))
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbone("bert"))
    tokenizer.save_pretrained(folder)
    probe = {"texts": list(PROBE_TEXTS), "logits": model.predict_texts(PROBE_TEXTS, tokenizer).tolist()}
    (folder / "probe.json").write_text(json.dumps(probe), encoding="utf-8")
    data = {**RESULTS["data"], "rows": {"train": 2, "test": 10}}
    results = {**RESULTS, "data": data, "model": describe_model(model)}
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    train = folder.parent / "train.csv"
    train.write_text(f"text,label\n{TEXT},schlecht\nanother one,très bien\n" * 20, encoding="utf-8")
    recipe = f"backbone: /home/somebody/encoder\ndata:\n  train_file: {train}\noutput_dir: {folder}\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    (folder / "checkpoints" / "checkpoint-4").mkdir(parents=True)
    torch.save({}, folder / "checkpoints" / "checkpoint-4" / "optimizer.pt")
    return folder


@pytest.fixture
def exported(run_dir: Path, tmp_path: Path) -> Path:
    return export_run(run_dir, tmp_path / "repository", name="me/tiny")


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


def command_line(server: HubServer, home: Path, *arguments: str, token: str = "hf_write") -> Any:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": server.url, "HF_HOME": str(home), "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "DISABLE_SAFETENSORS_CONVERSION": "1", "OMP_NUM_THREADS": "1"}
    command = [Path(sys.executable).with_name("cr-hf"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


# ---- the folder ----


def test_the_repository_is_what_a_stranger_needs_and_no_more(exported: Path) -> None:
    names = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    needed = {"config.json", "model.safetensors", "tokenizer.json", "modeling_cr.py", "configuration_cr.py"}
    assert needed | {"README.md", "results.json", "recipe.yaml", "probe.json"} <= names
    assert not [name for name in names if "checkpoint" in name or name.endswith((".pt", ".bin", ".csv"))]
    recipe = (exported / "recipe.yaml").read_text(encoding="utf-8")
    assert "train_file: train.csv" in recipe
    assert "backbone: encoder" in recipe
    check_folder(exported, [TEXT])


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def append(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: write(name, (folder / name).read_text(encoding="utf-8") + text)(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (write("training_args.bin", b"x"), r"^training_args.bin holds training arguments as a pickle"),
        (write("optimizer.pt", b"x"), r"^optimizer.pt is the state of an optimizer"),
        (write("checkpoint-4/rng_state.pth", b"x"), r"^checkpoint-4/rng_state.pth is the state"),
        (write("pytorch_model.bin", b"x"), r"^pytorch_model.bin is a pickle"),
        (write("head.pkl", b"x"), r"^head.pkl is a pickle"),
        (write("vocab.json", pickle.dumps({})), r"^vocab.json is a pickle by its content"),
        (write("train.csv", "text,label"), r"^train.csv may hold training data"),
        (write("notes.docx", b"x"), r"^notes.docx is no part of a checkpoint"),
        (append("README.md", "\nsee /home/me/secret/run"), r"^README.md holds the absolute path /home/me/secret/run"),
        (append("recipe.yaml", "\nx: C:\\Users\\me\\x"), r"^recipe.yaml holds the absolute path"),
        (append("README.md", "\ntoken hf_" + "a" * 34), r"^README.md holds an access token"),
        (append("README.md", f"\n> {TEXT}"), r"^a training text is quoted"),
        (lambda folder: (folder / "config.json").unlink(), r"^config.json is missing"),
        (lambda folder: (folder / "LICENSE").symlink_to("/etc/hostname"), r"^LICENSE is a link"),
    ],
)
def test_what_must_not_be_published_is_refused_by_name(
    change: Callable[[Path], None], message: str, exported: Path
) -> None:
    change(exported)
    with pytest.raises(PublishError, match=message) as caught:
        check_folder(exported, [TEXT])
    assert "\n" not in str(caught.value)


def test_the_token_that_is_logged_in_is_found_whatever_its_form(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "an-unusual-token")
    append("README.md", "\nuse an-unusual-token")(exported)
    with pytest.raises(PublishError, match="holds an access token"):
        check_folder(exported)


def test_an_export_never_mixes_with_other_files(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(PublishError, match="is not an empty folder"):
        export_run(run_dir, tmp_path)
    with pytest.raises(CheckpointError, match="only a finished run can be published"):
        export_run(tmp_path, tmp_path / "new")


def test_what_cannot_travel_is_refused(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="needs a frozen backbone that others can get too"):
        export_run(run_dir, tmp_path / "head", head_only=True)
    shutil.copytree(run_dir, tmp_path / "run")
    config = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
    config["backbone_config"]["auto_map"] = {"AutoModel": "modeling_x.X"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(PublishError, match="needs code of its own repository"):
        export_run(tmp_path / "run", tmp_path / "remote")


@pytest.mark.parametrize("name", ["tiny", "me/a b", "me/x/y", "me/..", "me/-x", "/x", "me/" + "x" * 100, "", "mé/ü"])
def test_bad_names_are_refused_before_anything_is_done(name: str) -> None:
    with pytest.raises(PublishError) as caught:
        check_name(name)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_folder_with_other_logits_or_that_does_not_load_is_refused(exported: Path) -> None:
    probe = json.loads((exported / "probe.json").read_text(encoding="utf-8"))
    probe["logits"][0][0] += 0.01
    write("probe.json", json.dumps(probe))(exported)
    with pytest.raises(PublishError, match="gives other logits than the run did"):
        check_loads(exported)
    (exported / "layers.py").unlink()
    with pytest.raises(PublishError, match="does not load in a fresh process"):
        check_loads(exported)


# ---- the command, from end to end ----


@pytest.mark.slow
def test_publish_and_again_after_an_edit_on_the_web(run_dir: Path, server: HubServer, tmp_path: Path) -> None:
    done = command_line(server, tmp_path, "publish", str(run_dir), "me/tiny", "--tag", "v1", "--private")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Published: me/tiny" in done.stdout
    repository = server.repositories["me/tiny"]
    assert repository.private
    assert len(repository.commits) == 2
    assert repository.tags["v1"] == repository.main.oid
    card = repository.main.files["README.md"].content.decode()
    assert 'model="me/tiny"' in card
    by_hand = File((card + "\n## By hand\n").encode(), False)
    repository.add("on the web", {**repository.main.files, "README.md": by_hand, "picture.png": File(b"png", False)})
    again = command_line(server, tmp_path, "publish", str(run_dir), "me/tiny", "--tag", "v2")
    assert "Nothing changed" in again.stdout, again.stderr[-2000:]
    assert len(repository.commits) == 3
    assert repository.tags["v2"] == repository.main.oid
    assert "## By hand" in server.files("me/tiny")["README.md"].decode()
    assert server.files("me/tiny")["picture.png"] == b"png"


@pytest.mark.slow
def test_a_dry_run_needs_no_network(run_dir: Path, tmp_path: Path) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    folder = dry_run(run_dir, "me/tiny", tmp_path / "out")
    assert 'model="me/tiny"' in (folder / "README.md").read_text(encoding="utf-8")
    check_folder(folder)


@pytest.mark.slow
def test_the_trainer_publishes_by_the_same_path(
    tiny_backbone: TinyBackbone, server: HubServer, tmp_path: Path
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
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_write"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, str(tiny_backbone("bert")), str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    files = server.files("me/trained")
    assert {"README.md", "model.safetensors", "modeling_cr.py", "tokenizer.json"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt"))]
    assert len(server.repositories["me/trained"].commits) == 2
    assert server.repositories["me/trained"].tags["v1"] == server.repositories["me/trained"].main.oid
    assert "epochs: 1" in files["README.md"].decode()


# ---- the upload ----


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
    tiny_backbone: TinyBackbone, server: HubServer, tmp_path: Path
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

    def run(*arguments: str, home: str) -> Any:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / home), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "DISABLE_SAFETENSORS_CONVERSION": "1"}
        command = [sys.executable, "-c", script, str(tmp_path / "head"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    files = {name: File(data, name.endswith(".safetensors")) for name, data in contents(tiny_backbone("bert")).items()}
    server.blobs.update({file.sha256: file.content for file in files.values()})
    server.repositories["me/encoder"] = Repository()
    commit = server.repositories["me/encoder"].add("first", files)
    first = run("make", home="maker")
    assert first.returncode == 0, first.stderr[-2000:]
    source = json.loads((tmp_path / "head" / "config.json").read_text(encoding="utf-8"))["backbone_source"]
    assert source["repo_id"] == "me/encoder"
    assert source["revision"] == commit.oid
    server.repositories["me/encoder"].add("retrained", {**files, "model.safetensors": File(b"other", True)})
    assert run(home="stranger").stdout == first.stdout
    changed = bytearray(files["model.safetensors"].content)
    changed[-1] ^= 1
    commit.files["model.safetensors"] = File(bytes(changed), True)
    server.blobs[commit.files["model.safetensors"].sha256] = bytes(changed)
    assert "has changed: model.safetensors is not the file" in run(home="other stranger").stderr
    del server.repositories["me/encoder"]
    gone = run(home="last stranger")
    assert gone.returncode != 0
    assert f"the backbone me/encoder at {commit.oid} cannot be fetched" in gone.stderr


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
    arguments: list[str], token: str, message: str, run_dir: Path, server: HubServer, tmp_path: Path
) -> None:
    done = command_line(server, tmp_path, "publish", str(run_dir), *arguments, token=token)
    assert done.returncode == 2, done.stderr[-2000:]
    assert message in done.stderr
    assert {route for route, _ in server.log} <= {"whoami"}


def test_a_recipe_that_could_not_be_published_is_refused_before_training(
    tiny_backbone: TinyBackbone, server: HubServer, tmp_path: Path
) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "demo.yaml"
    arguments = [str(recipe), f"backbone={tiny_backbone('bert')}", f"output_dir={tmp_path / 'run'}"]
    arguments += ["push_to_hub=true", "hub_model_id=me/tiny", "use_cpu=true"]
    done = command_line(server, tmp_path / "home", "train", *arguments, token="hf_read")
    assert done.returncode == 2, done.stderr[-2000:]
    assert "use one with write access" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_refusal_of_the_hub_gives_its_reason(server: HubServer, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "repository")
    write("README.md", "no metadata")(folder)
    with Client(server) as client:
        answer = client.publish(folder, "me/x")
    assert "no metadata" in answer["error"]
    assert "nothing was published" in answer["error"]
