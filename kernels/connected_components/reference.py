import torch


def connected_components_reference(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Joins horizontal runs of foreground that touch runs of the row above, smallest run first."""
    N, _, H, W = mask.shape
    labels = torch.zeros(N, 1, H, W, dtype=torch.int32, device=mask.device)
    if mask.numel() == 0:
        return labels, labels.clone()
    foreground = mask[:, 0] != 0  # (N, H, W)
    starts = foreground.clone()
    starts[..., 1:] &= ~foreground[..., :-1]
    run = starts.flatten().cumsum(0).view(N, H, W) - 1  # index of a pixel's run, in row-major order
    first_pixel = starts.flatten().nonzero()[:, 0]  # (R,) of each run
    root = _join(*_touching_runs(foreground, run), len(first_pixel))  # (R,)

    pixels = foreground.flatten().nonzero()[:, 0]
    component = root[run.flatten()[pixels]]
    area = torch.bincount(component, minlength=len(first_pixel))
    areas = torch.zeros_like(labels)
    labels.view(-1)[pixels] = (first_pixel[component] % (H * W) + 1).to(torch.int32)
    areas.view(-1)[pixels] = area[component].to(torch.int32)
    return labels, areas


def _touching_runs(foreground: torch.Tensor, run: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of runs ``(upper, lower)`` in neighbouring rows that touch at an edge or a corner."""
    upper, lower = [], []
    W = foreground.shape[-1]
    for shift in (-1, 0, 1):  # column of the upper pixel less that of the lower one
        above = slice(max(shift, 0), W + min(shift, 0))
        below = slice(max(-shift, 0), W + min(-shift, 0))
        touching = foreground[:, :-1, above] & foreground[:, 1:, below]
        upper.append(run[:, :-1, above][touching])
        lower.append(run[:, 1:, below][touching])
    return torch.cat(upper), torch.cat(lower)


def _join(a: torch.Tensor, b: torch.Tensor, count: int) -> torch.Tensor:
    """The smallest member of each of ``count`` nodes' component, given the edges ``a - b``."""
    root = torch.arange(count, device=a.device)
    while a.numel():
        # Hook the larger root of every edge onto the smaller, then let all nodes point at their root again.
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        root.scatter_reduce_(0, high, low, "amin")
        while not torch.equal(root[root], root):
            root = root[root]
        a, b = root[a], root[b]
        open_edges = a != b
        a, b = a[open_edges], b[open_edges]
    return root
