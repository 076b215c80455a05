"""A pool of equal rows on the device; those that are not needed now move to an archive on the CPU."""

import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from sam2fast.tracking.arrivals import Arrivals, HostCopy
from sam2fast.utils.async_copies import uploaded

SMALLEST = 8


class Page:
    """One row's worth of values, wherever it lies; it is freed with the last reference to it."""

    __slots__ = ("__weakref__", "archived", "row")

    def __init__(self) -> None:
        self.row: int | None = None  # in the pool
        self.archived: HostCopy | None = None  # on the CPU


class PagePool:
    """Rows ``(rows, *shape)`` on a device, handed out as pages.

    Its size is what one step needs and a few more, however many pages exist: a row is taken from the page that was used
    longest ago, whose values then move to the CPU. The tensor stays where it is until a step needs more.

    Args:
        shape: of one row.
        dtype: of the rows; see :meth:`widen`.
        device: where the rows are.
        arrivals: reads the archive's copies when they have come.
    """

    def __init__(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, arrivals: Arrivals | None = None
    ) -> None:
        self.data = torch.zeros(SMALLEST, *shape, dtype=dtype, device=device)
        self._arrivals = arrivals
        self._owners: list[weakref.ref[Page] | None] = [None] * SMALLEST
        self._free = deque(range(SMALLEST))  # written to also when a page dies, which may be at any time
        self._last_use = np.zeros(SMALLEST, np.int64)  # the step of each row
        self._step = 0

    def reserve(self, rows: int) -> None:
        """Grows at once to so many rows and a few, so that steps that need no more leave the tensor where it is."""
        self._grow(-(-rows // SMALLEST) * SMALLEST)

    def move_to(self, data: Tensor) -> None:
        """Goes on in another tensor of the same dtype and shape of rows, with at least as many of them."""
        data[: len(self.data)].copy_(self.data)
        self._adopt(data)

    def begin_step(self) -> None:
        """From here on rows that earlier steps used may be taken away."""
        self._step += 1

    def write(self, values: Tensor) -> list[Page]:
        """New pages holding ``values (n, *shape)``."""
        pages = self.allocate(len(values))
        self.widen(values.dtype)
        rows = uploaded(torch.tensor([page.row for page in pages], device="cpu"), self.data.device)
        self.data.index_copy_(0, rows, values.to(self.data.dtype))
        return pages

    @staticmethod
    def archived_page(values: Tensor) -> Page:
        """A page of this pool that lies in the archive, with a copy of ``values (*shape)``."""
        page = Page()
        page.archived = HostCopy(values)
        return page

    def allocate(self, count: int) -> list[Page]:
        """New pages whose rows hold anything yet."""
        pages = [Page() for _ in range(count)]
        for page in pages:
            self._give(self._free_row(), page)
        return pages

    def rows(self, pages: Iterable[Page]) -> list[int]:
        """The pages' rows, valid until the next step; archived ones are copied back."""
        rows = []
        for page in pages:
            if page.row is None:
                assert page.archived is not None
                self.widen(page.archived.dtype)
                row = self._free_row()
                self.data[row] = page.archived.tensor.to(self.data)
                self._give(row, page)  # last: until then the page is what it was
            assert page.row is not None
            rows.append(page.row)
            self._last_use[page.row] = self._step  # before the next page asks for a row
        return rows

    def read(self, page: Page) -> Tensor:
        """A copy of the page's values, on the CPU if it is archived."""
        if page.row is not None:
            return self.data[page.row].clone()
        assert page.archived is not None
        return page.archived.tensor.clone()

    def widen(self, dtype: torch.dtype) -> None:
        """Makes room for values of another dtype, so that none loses precision."""
        self.data = self.data.to(torch.promote_types(self.data.dtype, dtype))

    def _give(self, row: int, page: Page) -> None:
        free = self._free
        # The callback knows the list and not the pool: a cycle would keep device memory until it is collected.
        self._owners[row] = weakref.ref(page, lambda _: free.append(row))
        page.row = row
        self._last_use[row] = self._step

    def _free_row(self) -> int:
        if self._free:
            return self._free.popleft()
        row = int(self._last_use.argmin())
        if self._last_use[row] == self._step:
            self._grow(2 * len(self._owners))
            return self._free.popleft()
        owner = self._owners[row]
        page = None if owner is None else owner()
        if page is None:  # died in this moment; or the row was lost when a step failed
            with suppress(ValueError):
                self._free.remove(row)
            return row
        self._archive(row, page)
        return row

    def _archive(self, row: int, page: Page) -> None:
        if page.archived is None:
            page.archived = HostCopy(self.data[row])
            if self._arrivals is not None and self.data.is_cuda:
                copy = page.archived
                self._arrivals.add(lambda: copy.tensor)
        page.row = None

    def _grow(self, size: int) -> None:
        if size > len(self._owners):
            more = torch.zeros(
                size - len(self.data), *self.data.shape[1:], dtype=self.data.dtype, device=self.data.device
            )
            self._adopt(torch.cat([self.data, more]))

    def _adopt(self, data: Tensor) -> None:
        rows = range(len(self._owners), len(data))
        owners = [*self._owners, *(None for _ in rows)]
        last_use = np.concatenate([self._last_use, np.zeros(len(rows), np.int64)])
        self.data, self._owners, self._last_use = data, owners, last_use  # at once: Ctrl-C may come between two calls
        self._free.extend(rows)
