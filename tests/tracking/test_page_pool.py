"""Rows that are handed out, taken back, archived and fetched again, without losing a value."""

import gc
import random

import pytest
import torch
from parity import random_map

from sam2fast.tracking.memory_bank import MemoryBank, MemoryLayout, StepShape
from sam2fast.tracking.page_pool import SMALLEST, PagePool


@pytest.fixture
def pool() -> PagePool:
    return PagePool((3, 2), torch.float32, torch.device("cpu"))


def write(pool: PagePool, *numbers: int) -> list:
    pool.begin_step()
    return pool.write(torch.stack([torch.full((3, 2), float(n)) for n in numbers]))


def value(pool: PagePool, page) -> float:
    values = pool.read(page)
    assert values.shape == (3, 2) and values.unique().numel() == 1
    return float(values[0, 0])


def test_every_value_survives(pool):
    """Random writes and reads, hundreds of pages in a pool of a few rows."""
    rng = random.Random(0)
    pages: dict[int, object] = {}
    for n in range(400):
        pages[n] = write(pool, n)[0]
        chosen = rng.sample(sorted(pages), min(len(pages), 5))
        rows = pool.rows([pages[i] for i in chosen])
        assert [float(pool.data[row, 0, 0]) for row in rows] == chosen
        if rng.random() < 0.3:
            del pages[rng.choice(sorted(pages))]
    assert [value(pool, page) for page in pages.values()] == list(pages)
    assert len(pool.data) == SMALLEST


def test_size_follows_what_one_step_needs(pool):
    pages = write(pool, *range(30))
    assert len(pool.data) == 32
    address = pool.data.data_ptr()
    for n in range(100):
        pages += write(pool, n)
        pool.rows(pages[:20])
    assert len(pool.data) == 32 and pool.data.data_ptr() == address


def test_archived_pages_may_make_the_pool_grow(pool):
    pages = write(pool, *range(SMALLEST))
    write(pool, 100)
    assert any(page.row is None for page in pages)
    more = write(pool, 200)
    pool.begin_step()
    rows = pool.rows(more + pages)
    assert [float(pool.data[row, 0, 0]) for row in rows] == [200, *range(SMALLEST)]
    assert len(pool.data) == 2 * SMALLEST


def test_what_a_step_uses_stays(pool):
    """Pages read in a step keep their rows while it writes."""
    old = write(pool, *range(SMALLEST))
    pool.begin_step()
    rows = pool.rows(old)
    pool.write(torch.zeros(4, 3, 2))
    assert pool.rows(old) == rows
    assert [float(pool.data[row, 0, 0]) for row in rows] == list(range(SMALLEST))


def test_the_longest_unused_goes_first(pool):
    first, second, *_ = write(pool, *range(SMALLEST))
    pool.begin_step()
    pool.rows([first])
    kept = write(pool, 100)
    assert first.row is not None and second.row is None and kept[0].row is not None


def test_a_large_pool_archives_several_pages_at_once(pool):
    pool.reserve(3 * SMALLEST)
    pages = write(pool, *range(3 * SMALLEST))
    write(pool, 100)
    assert [page.row is None for page in pages] == [True] * 3 + [False] * (3 * SMALLEST - 3)
    assert [value(pool, page) for page in pages] == list(range(3 * SMALLEST))
    del pages[0], pages[1]
    assert len({page.row for page in write(pool, 101, 102, 103)}) == 3


def test_forgotten_pages_free_their_rows(pool):
    pages = write(pool, *range(SMALLEST))
    row = pages[3].row
    del pages[3]
    gc.collect()
    assert write(pool, 100)[0].row == row
    assert all(page.archived is None for page in pages)


def test_an_archived_page_is_not_copied_twice(pool):
    page = write(pool, 1)[0]
    write(pool, *range(SMALLEST))
    archived = page.archived
    assert archived is not None and page.row is None
    pool.rows([page])
    write(pool, *range(2 * SMALLEST))
    assert page.row is None and page.archived is archived


def test_wider_values_widen_the_pool():
    """A pool that began in bf16 holds fp32 values exactly, also those archived before."""
    pool = PagePool((3, 2), torch.bfloat16, torch.device("cpu"))
    half = random_map(1, 3, 2).bfloat16()
    first = pool.write(half)[0]
    exact = random_map(1, 3, 2, seed=1)
    second = pool.write(exact)[0]
    assert torch.equal(pool.read(second), exact[0])
    assert torch.equal(pool.read(first), half[0].float())


def test_a_bank_reserves_once_per_shape_and_pool():
    bank = MemoryBank(MemoryLayout(torch.device("cpu"), 64, (16, 16), (4, 4), 8, 16))
    small, large = StepShape(1, 7, 16, 0), StepShape(4, 7, 16, 0)
    for shape, pointers in ((small, 24), (small, 24), (large, 72), (small, 72)):
        bank.reserve(shape)
        assert len(bank.pointers.data) == pointers
    memories = bank.begin_memories(torch.float32)
    assert bank.pools == (memories, bank.pointers, None)
    bank.reserve(small)
    bank.reserve(large)
    assert len(memories.data) == 32
