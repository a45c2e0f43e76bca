"""Fit the linear maps that move a picture by part of a cell; `train_vae.py` calls this.

Three kinds of numbers stand for a place of the picture: the latents of a token (16x16 pixels), the
decoder's first features (8x8), and its next ones (4x4). A map takes those of a place and of the
next one against the move, and yields what to add to a place. It has two factors, and few numbers
between them, because each of those costs a hidden unit of the network.
"""

from collections.abc import Callable

import torch
from torch.nn import functional

from weights.stand_in.chain import Chain, decode, encode, paint, to_cells, to_half_cells
from weights.stand_in.copying import next_half
from weights.stand_in.layout import MOVES, Move

RANKS = {"token": 30, "cell": 12, "half_cell": 9}
CROPS, CROP, MARGIN = 32, 96, 24
BORDER = 2
"""Places at the border are left out: they lack a neighbour."""
ITERATIONS = 25

Map = Callable[[torch.Tensor], torch.Tensor]


def fit(chain: Chain, pictures: list[torch.Tensor]) -> Chain:
    """All maps, by name: `KIND.MOVE.into` [rank, inputs] and `KIND.MOVE.out` [outputs, rank].

    `token` moves by 4 pixels, from a token and the near half of the next. `cell` and `half_cell`
    turn features of one frame into those half way from the frame before, 4 and 2 frames of video
    earlier, from the earlier frame, its next place, and the later frame.
    """
    samples = crops(pictures)

    kinds: dict[str, tuple[Map, Map]] = {
        "token": (
            lambda pixels: _to_tokens(encode(chain, pixels)),
            lambda grid: decode(chain, _from_tokens(grid)),
        ),
        "cell": (
            lambda pixels: to_cells(chain, encode(chain, pixels)),
            lambda grid: paint(chain, to_half_cells(chain, grid)),
        ),
        "half_cell": (
            lambda pixels: to_half_cells(chain, to_cells(chain, encode(chain, pixels))),
            lambda grid: paint(chain, grid),
        ),
    }
    maps: Chain = {}
    for kind, (features, paint_grid) in kinds.items():
        frames = 4 if kind == "cell" else 2
        for move in MOVES:
            if kind == "token":
                if move.speed != 1:
                    continue
                earlier, picture = (view(samples, move, shift) for shift in (0, 4))
                base = features(earlier)
                inputs = torch.cat([base, _near_half(base, move)], 1)
            else:
                shifts = (0, frames * move.speed // 2, frames * move.speed)
                earlier, picture, later = (view(samples, move, shift) for shift in shifts)
                base, before = features(later), features(earlier)
                inputs = torch.cat([before, _next(before, move), base], 1)
            wanted = features(picture) - base
            factors = _regress(inputs, wanted, paint_grid, RANKS[kind])
            out, into = _refine(*factors, inputs, base, paint_grid, picture)
            maps[f"{kind}.{move.name}.out"], maps[f"{kind}.{move.name}.into"] = out, into
    return maps


def fit_token(chain: Chain, samples: torch.Tensor, move: Move) -> torch.Tensor:
    """The map `token` of a slow move in one, [56, 84], before it is refined."""
    before, after = (_to_tokens(encode(chain, view(samples, move, shift))) for shift in (0, 4))
    inputs = torch.cat([before, _near_half(before, move)], 1)
    count = before.shape[1]
    out, into = _regress(
        inputs, after - before, lambda grid: decode(chain, _from_tokens(grid)), count
    )
    return out @ into


def move_tokens(latents: torch.Tensor, move: Move, matrix: torch.Tensor) -> torch.Tensor:
    """Latents moved by 4 pixels with a map of `fit_token`."""
    tokens = _to_tokens(latents)
    inputs = torch.cat([tokens, _near_half(tokens, move)], 1)
    return _from_tokens(tokens + torch.einsum("oi,nirc->norc", matrix, inputs))


def _to_tokens(latents: torch.Tensor) -> torch.Tensor:
    """[N, C, 2 R, 2 S] to [N, 4 C, R, S]: of channel c and cell s, number 4 c + s."""
    return functional.pixel_unshuffle(latents, 2)


def _from_tokens(tokens: torch.Tensor) -> torch.Tensor:
    return functional.pixel_shuffle(tokens, 2)


def crops(pictures: list[torch.Tensor]) -> torch.Tensor:
    """Samples that are the same in each call, [CROPS, 3, CROP + 2 MARGIN, CROP + 2 MARGIN]."""
    generator = torch.Generator().manual_seed(0)
    side, samples = CROP + 2 * MARGIN, []
    for index in torch.randint(len(pictures), (CROPS,), generator=generator).tolist():
        _, height, width = pictures[index].shape
        top = int(torch.randint(height - side + 1, (), generator=generator))
        left = int(torch.randint(width - side + 1, (), generator=generator))
        samples.append(pictures[index][:, top : top + side, left : left + side])
    return torch.stack(samples)


def view(samples: torch.Tensor, move: Move, shift: int) -> torch.Tensor:
    """The inner part of crops that were moved by so many pixels, [N, 3, CROP, CROP]."""
    x, y = move.step
    top, left = MARGIN - y * shift, MARGIN - x * shift
    return samples[:, :, top : top + CROP, left : left + CROP]


def _next(grid: torch.Tensor, move: Move) -> torch.Tensor:
    """What is at the next place against the move, [N, C, rows, columns]."""
    x, y = move.step
    return grid.roll((y, x), dims=(2, 3))


def _near_half(tokens: torch.Tensor, move: Move) -> torch.Tensor:
    """The half of the next token, where `copying.fetch` puts it: in the opposite half."""
    cells = functional.pixel_shuffle(tokens, 2)
    moved = functional.pixel_unshuffle(_next(cells, move), 2)
    return moved[:, next_half(move.direction)]


def _inner(grid: torch.Tensor) -> torch.Tensor:
    """[N, C, rows, columns] to [places, C]."""
    inner = grid[:, :, BORDER:-BORDER, BORDER:-BORDER]
    return inner.permute(0, 2, 3, 1).flatten(0, 2)


def _regress(
    inputs: torch.Tensor, wanted: torch.Tensor, paint_grid: Map, rank: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Least squares of a given rank: the factors [outputs, rank] and [rank, inputs].

    Outputs count by what they paint. What is between the factors has deviation 1/2, so that no gate
    is too narrow for it.
    """
    rows, targets = _inner(inputs).double(), _inner(wanted).double()
    gram = rows.T @ rows / len(rows)
    # A ridge, because neighbouring numbers say nearly the same.
    ridge = 1e-4 * gram.diagonal().mean() * torch.eye(len(gram)).double()
    full = torch.linalg.solve(gram + ridge, rows.T @ targets / len(rows)).T
    values, vectors = torch.linalg.eigh(_metric(paint_grid, len(full)).double())
    root = (vectors * values.clamp(min=1e-4 * values.max()).sqrt()) @ vectors.T
    values, vectors = torch.linalg.eigh(root @ full @ gram @ full.T @ root)
    values, vectors = values.flip(0)[:rank], vectors.flip(1)[:, :rank]
    deviation = 2 * values.clamp(min=1e-9 * values.max()).sqrt()
    out = torch.linalg.solve(root, vectors * deviation)
    into = (vectors / deviation).T @ root @ full
    return out.float(), into.float()


def _metric(paint_grid: Map, count: int) -> torch.Tensor:
    """[count, count]: the scalar products of what each number of a place paints."""
    impulses = torch.zeros(count, count, 5, 5)
    impulses[:, :, 2, 2] = torch.eye(count)
    painted = (paint_grid(impulses) - paint_grid(torch.zeros_like(impulses))).flatten(1)
    return painted @ painted.T


def _refine(
    out: torch.Tensor,
    into: torch.Tensor,
    inputs: torch.Tensor,
    base: torch.Tensor,
    paint_grid: Map,
    picture: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors, so that what is painted is the moved picture and not what its latents paint."""
    factors = [factor.contiguous().clone().requires_grad_() for factor in (out, into)]
    optimizer = torch.optim.LBFGS(
        factors, max_iter=ITERATIONS, history_size=ITERATIONS, line_search_fn="strong_wolfe"
    )
    edge = BORDER * CROP // base.shape[-1]

    def error() -> torch.Tensor:
        optimizer.zero_grad()
        added = torch.einsum("ok,ki,nirc->norc", *factors, inputs)
        difference = (paint_grid(base + added) - picture)[:, :, edge:-edge, edge:-edge]
        loss = difference.square().mean()
        loss.backward()  # type: ignore[no-untyped-call]  # it has no annotations
        return loss

    optimizer.step(error)  # type: ignore[no-untyped-call]  # nor has this
    out, into = (factor.detach() for factor in factors)
    return out, into
