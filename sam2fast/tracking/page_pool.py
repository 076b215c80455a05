"""A pool of equal rows on the device; those that are not needed now move to an archive on the CPU."""

import weakref
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

SMALLEST = 8


class Page:
    """One row's worth of values, wherever it lies; it is freed with the last reference to it."""

    __slots__ = ("__weakref__", "archived", "row")

    def __init__(self) -> None:
        self.row: int | None = None  # in the pool
        self.archived: Tensor | None = None  # on the CPU


class PagePool:
    """Rows ``(rows, *shape)`` on a device, handed out as pages.

    Its size is what one step needs, rounded up to a power of two, however many pages exist: a row is taken from the
    page that was used longest ago, whose values then move to the CPU. The tensor stays where it is until a step needs
    more.

    Args:
        shape: of one row.
        dtype: of the rows; see :meth:`widen`.
        device: where the rows are.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        self.data = torch.zeros(SMALLEST, *shape, dtype=dtype, device=device)
        self._owners: list[weakref.ref[Page] | None] = [None] * SMALLEST
        self._last_use = [0] * SMALLEST
        self._step = 0

    def reserve(self, rows: int) -> None:
        """Grows at once to at least so many rows, so that steps that need no more leave the tensor where it is."""
        while len(self._owners) < rows:
            self._grow()

    def begin_step(self) -> None:
        """From here on rows that earlier steps used may be taken away."""
        self._step += 1

    def write(self, values: Tensor) -> list[Page]:
        """New pages holding ``values (n, *shape)``."""
        pages = self.allocate(len(values))
        self.widen(values.dtype)
        rows = torch.tensor([page.row for page in pages], device=self.data.device)
        self.data.index_copy_(0, rows, values.to(self.data.dtype))
        return pages

    @staticmethod
    def archived_page(values: Tensor) -> Page:
        """A page of this pool that lies in the archive, with a copy of ``values (*shape)``."""
        page = Page()
        page.archived = values.to("cpu", copy=True)
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
                self.data[row] = page.archived.to(self.data)
                self._give(row, page)  # last: until then the page is what it was
            assert page.row is not None
            self._last_use[page.row] = self._step
            rows.append(page.row)
        return rows

    def read(self, page: Page) -> Tensor:
        """A copy of the page's values, on the CPU if it is archived."""
        values = page.archived if page.row is None else self.data[page.row]
        assert values is not None
        return values.clone()

    def widen(self, dtype: torch.dtype) -> None:
        """Makes room for values of another dtype, so that none loses precision."""
        self.data = self.data.to(torch.promote_types(self.data.dtype, dtype))

    def _give(self, row: int, page: Page) -> None:
        self._owners[row] = weakref.ref(page)
        self._last_use[row] = self._step
        page.row = row

    def _free_row(self) -> int:
        owners = [None if owner is None else owner() for owner in self._owners]
        for row, page in enumerate(owners):
            if page is None:
                return row
        row = min(range(len(owners)), key=self._last_use.__getitem__)
        if self._last_use[row] == self._step:
            self._grow()
            return len(owners)
        self._archive(row, owners[row])
        return row

    def _archive(self, row: int, page: Page | None) -> None:
        assert page is not None
        if page.archived is None:
            page.archived = self.data[row].to("cpu", copy=True)
        page.row = None

    def _grow(self) -> None:
        more = len(self._owners)
        self.data = torch.cat([self.data, torch.zeros_like(self.data)])
        self._owners += [None] * more
        self._last_use += [0] * more
