"""Two hosts, each a network namespace of Linux with its own address and a cable between them, train one model."""

import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import accelerate.commands.launch
import psutil
import pytest
from children import Child, fork_workers, start_together

from cr_hf.runs.recipe import load_recipe
from cr_hf.runs.train import train_recipe

ROOT = Path(__file__).resolve().parents[2]
TINY = ["data.name=embedded", "data.label_names=null", "data.max_train_samples=60", "data.max_eval_samples=30"]
TINY += ["hidden_sizes=[8]", "use_cpu=true", "num_train_epochs=2", "eval_strategy=steps"]
TINY += ["per_device_train_batch_size=8", "save_strategy=steps", "eval_steps=3", "save_steps=3", "warmup_steps=2"]


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[str]]:
    """Names of two namespaces, 10.77.0.1 and 10.77.0.2."""
    if shutil.which("ip") is None or os.geteuid():
        pytest.skip("network namespaces need Linux, iproute2 and root")
    names = [f"cr{number}x{os.getpid()}" for number in (1, 2)]

    def ip(words: str) -> None:
        subprocess.run(["ip", *words.split()], check=True, capture_output=True)

    try:
        for name in names:
            ip(f"netns add {name}")
        ip(f"link add wire netns {names[0]} type veth peer name wire netns {names[1]}")
        for number, name in enumerate(names, 1):
            ip(f"-n {name} addr add 10.77.0.{number}/24 dev wire")
            for device in ("lo", "wire"):
                ip(f"-n {name} link set {device} up")
        yield names
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def launch(host: str, rank: int, train: list[str]) -> None:
    """`accelerate launch` on one of the two hosts."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{host}") as namespace:
        if libc.setns(namespace.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")
    os.environ["GLOO_SOCKET_IFNAME"] = "wire"
    fork_workers()
    machine = f"--num_machines 2 --machine_rank {rank} --num_processes 2 --main_process_ip 10.77.0.1"
    config = ["--main_process_port=29477", "--config_file", str(ROOT / "configs" / "accelerate" / "ddp.yaml")]
    sys.argv = ["accelerate", *machine.split(), *config, "-m", "cr_hf.cli", "train", *train]
    accelerate.commands.launch.main()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["demo", "sst5_finetune"])
def test_one_host_is_lost_and_the_run_resumed(
    kind: str, hosts: list[str], tiny_backbone: Callable[..., Path], tmp_path: Path
) -> None:
    """Its weights are those of two processes of one host that nothing stopped."""
    recipe, values = ROOT / "recipes" / f"{kind}.yaml", [*TINY, f"backbone={tiny_backbone('bert')}"]
    train = [str(recipe), *values, f"output_dir={tmp_path / 'two'}"]

    def start(*more: str) -> list[Child]:
        return [Child(partial(launch, host, rank, [*train, *more])) for rank, host in enumerate(hosts)]

    broken, until = start(), time.monotonic() + 120
    while not list((tmp_path / "two").glob("checkpoints/checkpoint-3")) and time.monotonic() < until:
        time.sleep(0.002)
    lost = psutil.Process(broken[1].pid)
    for process in [*lost.children(recursive=True), lost]:
        process.kill()
    assert all(child.wait().code for child in broken)
    assert not (tmp_path / "two" / "results.json").exists()
    for ended in [child.wait() for child in start("--resume")]:
        assert ended.code == 0, ended.errors[-3000:]
    whole = load_recipe(recipe, [*values, f"output_dir={tmp_path / 'one'}"])
    for ended in [child.wait() for child in start_together(lambda: train_recipe(whole))]:
        assert ended.code == 0, ended.errors[-3000:]
    two, one = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("two", "one"))
    assert two == one
