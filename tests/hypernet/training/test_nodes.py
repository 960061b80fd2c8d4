"""Training on two nodes equals one process at the same global batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import torch
from safetensors.torch import load_file

from tests.fixtures.paths import ROOT
from tests.hypernet.training.node import NODES, STEPS, train


def test_two_gloo_processes_give_the_losses_of_one_at_the_same_global_batch(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    nodes = []
    for rank in range(NODES):
        folder = tmp_path / str(rank)
        folder.mkdir()
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": str(rank)}
        command = [sys.executable, "-m", "tests.hypernet.training.node", str(folder)]
        nodes.append(subprocess.Popen(command, cwd=ROOT, env=os.environ | place))
    losses, weights = train(tmp_path / "one")
    assert [node.wait(300) for node in nodes] == [0] * NODES
    ends = [load_file(tmp_path / str(rank) / "node.safetensors") for rank in range(NODES)]
    theirs = torch.stack([end.pop("losses") for end in ends], 1)  # (steps, nodes)
    torch.testing.assert_close(theirs, losses.view(STEPS, NODES))
    assert (theirs[:, 0] != theirs[:, 1]).all()  # each has its own batches
    for end in ends:
        torch.testing.assert_close(end, weights)
