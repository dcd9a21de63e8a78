"""A training in mixed precision with one bad batch, on the CPU."""

import math

import torch
from torch import nn

import coordcbam as cc


class Net(nn.Module):
    """A small classifier around one block."""

    def __init__(self, block):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 3), block, nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.block(self.stem(x)).mean(dim=(2, 3)))


BLOCKS = {
    "step 2": lambda: cc.CoordCBAM(8, cc.BlockConfig.step2()),
    "step 3": lambda: cc.CoordCBAM(8),
    "Guard": lambda: cc.Guard(nn.Conv2d(8, 8, 1)),
}


def applied_steps(net, dtype, *, fault, steps=60):
    """How many of the steps changed the weights; one batch in them is bad."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    applied = 0
    for step in range(steps):
        x, wanted = torch.randn(4, 3, 8, 8), torch.randint(4, (4,))
        if step == 5 and fault == "pixel":
            x[1, 2, 3, 4] = math.inf
        with torch.autocast("cpu", dtype=dtype):
            loss = nn.functional.cross_entropy(net(x), wanted)
        loss = loss * math.inf if step == 5 and fault == "gradient" else loss
        before = [parameter.clone() for parameter in net.parameters()]
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        cc.commit_(net)
        moved = zip(before, net.parameters(), strict=True)
        applied += any(not torch.equal(old, new) for old, new in moved)
    return applied
