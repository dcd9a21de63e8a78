"""Batches without a data set, and one step on them with the network's own loss, for each task."""

import pytest
import torch

from coordcbam import commit_

KEYPOINTS = 17


def batch_for(task, size=128, batch=2):
    """Two pictures of noise with two objects each."""
    made = {"img": torch.rand(batch, 3, size, size)}
    if task == "classify":
        return {**made, "cls": torch.arange(batch) % 2}
    count = 2 * batch
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.3, 0.3, 0.2, 0.3]]).repeat(batch, 1)
    made |= {
        "cls": torch.zeros(count, 1),
        "batch_idx": torch.arange(batch).repeat_interleave(2).float(),
        "bboxes": boxes,
    }
    if task == "obb":
        made["bboxes"] = torch.cat([boxes, torch.full((count, 1), 0.3)], dim=1)
    if task == "segment":
        masks = torch.randint(0, 3, (batch, size // 4, size // 4))
        made |= {"masks": masks.float(), "sem_masks": masks}
    if task == "pose":
        made["keypoints"] = torch.rand(count, KEYPOINTS, 3)
    if task == "semantic":
        made["semantic_mask"] = torch.randint(0, 2, (batch, size, size))
    if task == "depth":
        made["depth"] = torch.rand(batch, 1, size, size) + 0.5
    return made


def model_of(name):
    """A model by its file, which older releases may not have."""
    from coordcbam.hosts.ultralytics import YOLO

    try:
        return YOLO(name)
    except FileNotFoundError:
        pytest.skip(f"no {name} in this Ultralytics")


def step(network, task, size=128):
    """Loss, backward, an optimizer's step and the blocks'; the loss."""
    from ultralytics.cfg import get_cfg

    network.args, network.nc = get_cfg(), network.yaml["nc"]  # as a trainer does
    network.train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=1e-3)
    loss = network.loss(batch_for(task, size))[0].sum()
    loss.backward()
    optimizer.step()
    commit_(network)
    return loss.item()
