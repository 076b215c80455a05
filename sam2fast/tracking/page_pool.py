"""Stores rows of equal shape in a device tensor, and moves the least recently used rows to the CPU."""

import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.utils.async_copies import AsyncHostCopy, PendingCopies, copy_to_device

SMALLEST = 8
MOST_AT_ONCE = 32  # maximum number of pages that are archived by one copy


class ArchivedRow(NamedTuple):
    """Stores a row on the CPU. Rows of one copy share memory until the last row is freed."""

    copy: AsyncHostCopy
    row: int

    @property
    def tensor(self) -> Tensor:
        """Waits for the copy, and returns a view of the row."""
        return self.copy.tensor[self.row]


class Page:
    """Reference to the values of one row, in the pool or on the CPU. Deleting the page frees the values."""

    __slots__ = ("__weakref__", "archived", "row")

    row: int | None  # index of the row in the pool, or None
    archived: ArchivedRow | None  # copy of the row on the CPU, or None


class _Owner(weakref.ref[Page]):
    """Weak reference to the page of a row. Frees the row when the page is deleted."""

    __slots__ = ("free", "row")

    free: deque[int]  # free rows; a reference to the pool would be a cycle that delays freeing device memory
    row: int


class PagePool:
    """Stores rows in a tensor ``(rows, *shape)`` on a device. Callers refer to a row by its :class:`Page`.

    The number of pages is not limited, but the tensor has only about as many rows as one step uses. If no row is free,
    the values of the least recently used pages move to the CPU. The tensor keeps its address until a step needs more
    rows.

    Args:
        shape, dtype: Shape and dtype of a row. :meth:`widen` changes the dtype.
        device: Device of the rows.
        pending: Collection of started copies of archived pages, to move the copies out of pinned memory.
    """

    def __init__(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, pending: PendingCopies | None = None
    ) -> None:
        self.data = torch.zeros(SMALLEST, *shape, dtype=dtype, device=device)
        self._pending = pending
        self._owners: list[weakref.ref[Page] | None] = [None] * SMALLEST
        self._free = deque(range(SMALLEST))  # finalizers of pages may append rows at any time
        self._last_use = [0] * SMALLEST  # last step that used each row
        self._step = 0

    def reserve(self, rows: int) -> None:
        """Grows to at least ``rows`` rows. Steps that use fewer rows do not reallocate the tensor."""
        size = -(-rows // SMALLEST) * SMALLEST
        if size > len(self._owners):
            more = self.data.new_zeros(size - len(self.data), *self.data.shape[1:])
            self._adopt(torch.cat([self.data, more]))

    def suits(self, data: Tensor) -> bool:
        """Returns True if ``data`` has the pool's dtype and row shape."""
        return data.dtype == self.data.dtype and data.shape[1:] == self.data.shape[1:]

    def move_to(self, data: Tensor) -> None:
        """If the tensor ``data`` :meth:`suits` and has at least as many rows, moves the pool's rows to ``data``."""
        if self.suits(data) and len(data) >= len(self.data):
            data[: len(self.data)].copy_(self.data)
            self._adopt(data)

    def begin_step(self) -> None:
        """Begins a step. Rows that this step does not use may be archived."""
        self._step += 1

    def write(self, values: Tensor) -> list[Page]:
        """Stores ``values (n, *shape)`` in new pages."""
        pages = self.allocate(len(values))
        self.widen(values.dtype)
        self.data.index_copy_(0, self._on_device(pages), values.to(self.data.dtype))
        return pages

    @staticmethod
    def archived_page(values: Tensor) -> Page:
        """Returns a page on the CPU with a copy of ``values (*shape)``."""
        page = Page()
        page.row, page.archived = None, ArchivedRow(AsyncHostCopy(values[None]), 0)
        return page

    def allocate(self, count: int) -> list[Page]:
        """Returns ``count`` new pages with uninitialized rows."""
        pages = [Page() for _ in range(count)]
        for page in pages:
            page.archived = None
            if not self._free:
                self._make_room()
            self._give(self._free.popleft(), page)
        return pages

    def rows(self, pages: Iterable[Page]) -> list[int]:
        """Returns the row of each page, valid until the next step. Copies archived pages back to the device."""
        requested, last_use, step = list(pages), self._last_use, self._step
        for page in requested:
            row = page.row
            if row is None:
                row = self._bring_back(page)
                last_use = self._last_use  # the pool may have grown
            last_use[row] = step  # set now, so that the next page does not take this row
        return [page.row for page in requested]  # type: ignore[misc]

    def _bring_back(self, page: Page) -> int:
        """Copies an archived page back to a row on the device."""
        assert page.archived is not None
        values = page.archived.tensor
        self.widen(values.dtype)
        if not self._free:
            self._make_room()
        row = self._free.popleft()
        self.data[row] = values.to(self.data)
        self._give(row, page)  # comes last, so that an earlier error leaves the page unchanged
        return row

    def read(self, page: Page) -> Tensor:
        """Returns a copy of the page's values. The values of an archived page are on the CPU."""
        if page.row is not None:
            return self.data[page.row].clone()
        assert page.archived is not None
        return page.archived.tensor.clone()

    def widen(self, dtype: torch.dtype) -> None:
        """Promotes the dtype of the rows, so that they store values of ``dtype`` without rounding."""
        self.data = self.data.to(torch.promote_types(self.data.dtype, dtype))

    def _on_device(self, pages: Iterable[Page]) -> Tensor:
        """Returns the row indices of pages in the pool, on the device."""
        return copy_to_device(torch.tensor([page.row for page in pages], device="cpu"), self.data.device)

    def _give(self, row: int, page: Page) -> None:
        owner = _Owner(page, lambda owner: owner.free.append(owner.row))
        owner.row, owner.free = row, self._free
        self._owners[row] = owner
        page.row = row
        self._last_use[row] = self._step

    def _make_room(self) -> None:
        """Frees rows by archiving the least recently used pages. If the step uses all rows, doubles the pool."""
        oldest = sorted(range(len(self._owners)), key=self._last_use.__getitem__)
        most = min(MOST_AT_ONCE, len(oldest) // SMALLEST)
        rows = [row for row in oldest[:most] if self._last_use[row] != self._step]
        if not rows:
            self.reserve(2 * len(self._owners))
        owners = [self._owners[row] for row in rows]
        pages = [None if owner is None else owner() for owner in owners]
        new = [page for page in pages if page is not None and page.archived is None]
        if new:
            copy = AsyncHostCopy(self.data.index_select(0, self._on_device(new)), is_own=True)
            for i, one in enumerate(new):
                one.archived = ArchivedRow(copy, i)
            if self._pending is not None and self.data.is_cuda:
                self._pending.add(lambda: copy.tensor)
        for row, page in zip(rows, pages, strict=True):
            if page is not None and page.row == row:
                page.row = None
            self._owners[row] = None  # deleting the page no longer frees this row
            # A row is free already if its page was deleted meanwhile. Rows without a page, from a failed step, become
            # free.
            if row not in self._free:
                self._free.append(row)

    def _adopt(self, data: Tensor) -> None:
        rows = range(len(self._owners), len(data))
        owners = [*self._owners, *(None for _ in rows)]
        last_use = [*self._last_use, *(0 for _ in rows)]
        self.data, self._owners, self._last_use = data, owners, last_use  # one statement, in case Ctrl-C interrupts
        self._free.extend(rows)
