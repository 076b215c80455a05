"""Stores rows of equal shape in a pool on the device. Rows that are not needed move to an archive on the CPU."""

import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.utils.async_copies import AsyncHostCopy, PendingCopies, copy_to_device

SMALLEST = 8
MOST_AT_ONCE = 32  # pages that are archived: they take one copy together


class ArchivedRow(NamedTuple):
    """Stores a row on the CPU. Rows that were archived together are freed with the last of them."""

    copy: AsyncHostCopy
    row: int

    @property
    def tensor(self) -> Tensor:
        """Waits until the values have arrived, and returns a view of them."""
        return self.copy.tensor[self.row]


class Page:
    """Refers to the values of one row, in the pool or in the archive. They are freed with the last reference."""

    __slots__ = ("__weakref__", "archived", "row")

    row: int | None  # in the pool
    archived: ArchivedRow | None  # on the CPU


class _Owner(weakref.ref[Page]):
    """Refers to the page in a row, and frees the row when the page is collected."""

    __slots__ = ("free", "row")

    free: deque[int]  # not the pool: a cycle would keep device memory until it is collected
    row: int


class PagePool:
    """Stores rows ``(rows, *shape)`` on a device, and returns them as pages.

    The pool has the rows that one step needs and a few more, for any number of pages. A new page takes the row of the
    least recently used page, whose values move to the CPU. The tensor keeps its address until a step needs more rows.

    Args:
        shape, dtype: Shape and dtype of a row; see :meth:`widen`.
        device: Device of the rows.
        pending: Reads the copies of archived pages when they have arrived.
    """

    def __init__(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, pending: PendingCopies | None = None
    ) -> None:
        self.data = torch.zeros(SMALLEST, *shape, dtype=dtype, device=device)
        self._pending = pending
        self._owners: list[weakref.ref[Page] | None] = [None] * SMALLEST
        self._free = deque(range(SMALLEST))  # also written by finalizers of pages, at any time
        self._last_use = [0] * SMALLEST  # the step of each row
        self._step = 0

    def reserve(self, rows: int) -> None:
        """Grows to at least ``rows`` rows, so that steps with fewer rows do not move the tensor."""
        size = -(-rows // SMALLEST) * SMALLEST
        if size > len(self._owners):
            more = self.data.new_zeros(size - len(self.data), *self.data.shape[1:])
            self._adopt(torch.cat([self.data, more]))

    def suits(self, data: Tensor) -> bool:
        """Returns True if another tensor has the same dtype and row shape."""
        return data.dtype == self.data.dtype and data.shape[1:] == self.data.shape[1:]

    def move_to(self, data: Tensor) -> None:
        """Moves to another tensor if it has the same dtype and row shape, and at least as many rows."""
        if self.suits(data) and len(data) >= len(self.data):
            data[: len(self.data)].copy_(self.data)
            self._adopt(data)

    def begin_step(self) -> None:
        """Begins a step. Rows that only earlier steps used may be archived from now on."""
        self._step += 1

    def write(self, values: Tensor) -> list[Page]:
        """Stores ``values (n, *shape)`` in new pages."""
        pages = self.allocate(len(values))
        self.widen(values.dtype)
        self.data.index_copy_(0, self._on_device(pages), values.to(self.data.dtype))
        return pages

    @staticmethod
    def archived_page(values: Tensor) -> Page:
        """Returns a page in the archive with a copy of ``values (*shape)``."""
        page = Page()
        page.row, page.archived = None, ArchivedRow(AsyncHostCopy(values[None]), 0)
        return page

    def allocate(self, count: int) -> list[Page]:
        """Returns new pages with uninitialised rows."""
        pages = [Page() for _ in range(count)]
        for page in pages:
            page.archived = None
            if not self._free:
                self._make_room()
            self._give(self._free.popleft(), page)
        return pages

    def rows(self, pages: Iterable[Page]) -> list[int]:
        """Returns the pages' rows, valid until the next step. Archived pages are copied back."""
        wanted, last_use, step = list(pages), self._last_use, self._step
        for page in wanted:
            row = page.row
            if row is None:
                row = self._bring_back(page)
                last_use = self._last_use  # the pool may have grown
            last_use[row] = step  # before the next page asks for a row
        return [page.row for page in wanted]  # type: ignore[misc]

    def _bring_back(self, page: Page) -> int:
        """Copies an archived page back to a row."""
        assert page.archived is not None
        values = page.archived.tensor
        self.widen(values.dtype)
        if not self._free:
            self._make_room()
        row = self._free.popleft()
        self.data[row] = values.to(self.data)
        self._give(row, page)  # last: until then the page is unchanged
        return row

    def read(self, page: Page) -> Tensor:
        """Returns a copy of the page's values, on the CPU if it is archived."""
        if page.row is not None:
            return self.data[page.row].clone()
        assert page.archived is not None
        return page.archived.tensor.clone()

    def widen(self, dtype: torch.dtype) -> None:
        """Promotes the dtype of the rows, so that values of ``dtype`` keep their precision."""
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
        """Archives the pages that were used least recently, several at once, or grows if the step uses all rows."""
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
            self._owners[row] = None  # the end of the page frees nothing now
            if row not in self._free:  # where a page was freed just now; a row may be lost when a step fails
                self._free.append(row)

    def _adopt(self, data: Tensor) -> None:
        rows = range(len(self._owners), len(data))
        owners = [*self._owners, *(None for _ in rows)]
        last_use = [*self._last_use, *(0 for _ in rows)]
        self.data, self._owners, self._last_use = data, owners, last_use  # together: Ctrl-C may come between two calls
        self._free.extend(rows)
