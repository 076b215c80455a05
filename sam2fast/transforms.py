"""Converts images to model inputs, and mask logits to masks of the image's size."""

import io
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sam2fast.io.image_files import FileImage, read_image
from sam2fast.io.images import IMAGE_READ_ERRORS
from sam2fast.io.rle import compress_run_lengths
from sam2fast.io.value_scale import SIXTEEN_TO_EIGHT_BITS
from sam2fast.kernels.mask_ops import (
    fill_holes_and_remove_sprinkles,
    upsample_and_pack,
    upsample_and_threshold,
    upsample_masks,
)
from sam2fast.kernels.mask_ops.bits import unpack_bits
from sam2fast.kernels.preprocess import MEAN, STD, resize_and_normalise
from sam2fast.kernels.run_lengths import encode_upsampled
from sam2fast.utils.async_copies import copy_to_device, copy_to_host
from sam2fast.utils.errors import FixableError

ImageLike: TypeAlias = np.ndarray | Image.Image | Tensor | str | Path | bytes | BinaryIO
FileLike: TypeAlias = str | Path | bytes | bytearray | memoryview | BinaryIO
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
TWELVE_BITS = 4095  # maximum value of 12 bits

_log = logging.getLogger(__name__)


class ImageError(FixableError, ValueError):
    """Raised if an image cannot be read or has an unsupported format."""


def to_pixels(image: ImageLike) -> Tensor:
    """Converts an image to ``(H, W, 3)`` RGB: uint8, or fp32 in [0, 1] for float input.

    Accepts arrays ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` RGB and ``(H, W, 4)`` RGBA, tensors of these shapes or with
    channels first, PIL images of any mode, and image files as paths, bytes or binary file objects. Repeats grey
    channels, drops alpha, and converts 16 bits to 8. Applies the EXIF orientation of files. If a file of more than 8
    bits uses only part of the range (microscopes, X-rays, satellites), the values are scaled. A log message gives the
    scale. For files with several pages or bands, the message gives the selected page and bands. See
    :func:`~sam2fast.io.image_files.read_image`. As in the official package, arrays and PIL images are not scaled. If
    values of an array or PIL image seem to have another range, a warning is given.

    Raises:
        ImageError: If the image is empty or unreadable, or has an unsupported shape, dtype or range of values.
        FileNotFoundError: If the file does not exist.
        TypeError: If ``image`` has an unsupported type.
    """
    if is_file(image):
        return read_pixels(image)[0]
    if isinstance(image, Image.Image):
        image = _from_pil(image)
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    elif isinstance(image, Tensor):
        if image.ndim == 3 and image.shape[0] in CHANNELS:  # ambiguous shapes are read as channels first
            image = image.permute(1, 2, 0)
    else:
        raise TypeError(
            f"expected an array, a PIL image, a tensor, a path, bytes or an open file, got {type(image).__name__}"
        )
    return _checked(image)


def is_file(image: Any) -> TypeGuard[FileLike]:
    """Returns True if an image is a path, a file's bytes, or an open file."""
    if isinstance(image, np.ndarray | Image.Image | Tensor):
        return False
    return isinstance(image, str | Path | bytes | bytearray | memoryview) or hasattr(image, "read")


def read_file_image(file: FileLike) -> FileImage:
    """Calls :func:`~sam2fast.io.image_files.read_image`. :func:`to_pixels` lists the errors."""
    name = str(file) if isinstance(file, str | Path) else "the data"
    if isinstance(file, str | Path) and not os.path.isfile(file):  # never raises, unlike Path.is_file
        raise FileNotFoundError(f"no image file {name!r}")
    try:
        if isinstance(file, io.TextIOBase):
            raise ValueError('it is open as text; expected mode "rb"')
        return read_image(file)
    except IMAGE_READ_ERRORS as error:
        raise ImageError(f"{name} cannot be read as an image: {error}") from error


def read_pixels(file: FileLike) -> tuple[Tensor, dict[str, Any]]:
    """Reads an image file, and converts the image as :func:`to_pixels` does.

    Returns:
        The pixels, and a dict of the selected page, bands and scale from
        :meth:`~sam2fast.io.image_files.FileImage.choices`.
    """
    image = read_file_image(file)
    scale = image.own_scale()
    if note := image.note(scale):
        _log.warning("%s %s", file if isinstance(file, str | Path) else "the data", note)
    return to_pixels(image.pixels(scale)), image.choices(scale)


def _warn_if_black(maximum: float, limit: float, cause: str) -> None:
    """Warns if the maximum of an image is above 0, but at most ``limit``."""
    if 0 < maximum <= limit:
        # The message contains no value, so that Python shows the message only once for all frames of a video.
        warnings.warn(f"the image is almost black: {cause}", stacklevel=4)


def _from_pil(image: Image.Image) -> np.ndarray:
    if 0 in image.size:
        raise ImageError(f"the image is empty: {image.width}x{image.height}")
    try:
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            values = np.asarray(image)
        else:
            # PIL cannot convert premultiplied grey to RGB.
            image = image.convert("LA") if image.mode == "La" else image
            return np.asarray(image.convert("RGB"))
    except IMAGE_READ_ERRORS as error:  # PIL decodes files lazily
        raise ImageError(f"the image cannot be decoded: {error}") from error
    if values.dtype.kind == "f":
        return values
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"the integer image has values from {values.min()} to {values.max()}; expected 0 to 65535")
    return values.astype(np.uint16)


def _from_array(array: np.ndarray) -> Tensor:
    array = np.asarray(array)  # converts masked arrays and matrices
    if array.ndim == 3 and array.shape[2] not in CHANNELS and array.shape[0] in CHANNELS:
        raise ImageError(f"the array {array.shape} has its channels first; expected (H, W, 3): use transpose(1, 2, 0)")
    if array.dtype == np.uint8:
        _warn_if_black(array.max(initial=0), 1, "it is uint8, where white is 255, and has values 0 and 1 only")
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:  # any byte order
        cause = f"it has 16 bits, where white is 65535, and values up to {TWELVE_BITS} only; scale them, or use uint8"
        _warn_if_black(array.max(initial=0), TWELVE_BITS, cause)
        array = np.asarray(np.rint(array / SIXTEEN_TO_EIGHT_BITS)).astype(np.uint8)  # np.rint may give a scalar
    elif not np.issubdtype(array.dtype, np.floating):
        raise ImageError(f"the image has dtype {array.dtype}; expected uint8, uint16, or float in [0, 1]")
    if array.dtype.itemsize > 8:  # long doubles in either byte order
        array = array.astype(np.float64)
    strides_fit = all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)
    if not (array.flags.writeable and array.flags.aligned and array.dtype.isnative and strides_fit):
        array = array.astype(array.dtype.newbyteorder("="), order="C")  # torch cannot share memory of such arrays
    return torch.from_numpy(array)


def _checked(image: Tensor) -> Tensor:
    if image.is_meta or image.layout != torch.strided:
        raise ImageError(f"the image is a {image.layout} tensor on {image.device}; expected a dense tensor with values")
    image = image.detach()
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in CHANNELS:
        raise ImageError(f"the image has shape {tuple(image.shape)}; expected (H, W), (H, W, 3) or (H, W, 4)")
    if image.numel() == 0:
        raise ImageError(f"the image is empty: shape {tuple(image.shape)}")
    if image.shape[2] != 3:
        image = image[..., :3].expand(-1, -1, 3)
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise ImageError(f"the image has dtype {image.dtype}; expected uint8, or float in [0, 1]")
    image = image.float()
    low, high = (float(x) for x in torch.aminmax(image))
    if not (low >= 0 and high <= 1):  # also rejects NaN
        raise ImageError(f"the float image has values from {low:g} to {high:g}; expected [0, 1], or uint8 for [0, 255]")
    cause = "it is float, where white is 1, and has values up to 1/255 only, as if divided twice"
    _warn_if_black(high, 1.01 / 255, cause)
    return image


class SAM2Transforms(nn.Module):
    """Resizes and normalises images, scales coordinates, and post-processes masks.

    Results match ``sam2.utils.transforms.SAM2Transforms``. Does not need torchvision.

    Args:
        resolution: Side S of the model's square input.
        mask_threshold: Logit above which a pixel is foreground.
        max_hole_area, max_sprinkle_area: Maximum areas of holes to fill, and of sprinkles to remove, in low-resolution
            pixels. See :func:`~sam2fast.kernels.mask_ops.fill_holes_and_remove_sprinkles`.
        mean, std: Mean and standard deviation per channel, for pixels in [0, 1].
    """

    def __init__(
        self,
        resolution: int,
        mask_threshold: float,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__()
        self.mean, self.std = list(mean), list(std)
        self.resolution = resolution
        self.mask_threshold = mask_threshold
        self.max_hole_area = max_hole_area
        self.max_sprinkle_area = max_sprinkle_area

    def __call__(self, x: ImageLike, device: torch.device | str = "cpu") -> Tensor:
        """Converts one image to fp32 ``(3, S, S)`` on ``device``. uint8 pixels are converted on the device."""
        return self.from_pixels(to_pixels(x), device)

    def from_pixels(self, pixels: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """Converts the result of :func:`to_pixels` to fp32 ``(3, S, S)`` on ``device``."""
        white = 255.0 if pixels.dtype == torch.uint8 else 1.0
        size = (self.resolution, self.resolution)
        return resize_and_normalise(copy_to_device(pixels, device)[None], size, self.mean, self.std, white)[0]

    @staticmethod
    def to_tensor(x: ImageLike) -> Tensor:
        """Converts one image to fp32 ``(3, H, W)`` in [0, 1]."""
        pixels = to_pixels(x)
        return pixels.permute(2, 0, 1).contiguous().float() / (255 if pixels.dtype == torch.uint8 else 1)

    def transforms(self, x: Tensor) -> Tensor:
        """Resizes and normalises float images ``(..., 3, H, W)`` in [0, 1] to ``(..., 3, S, S)``. Keeps the dtype.

        The operation is differentiable.

        Raises:
            ImageError: If the shape is not ``(..., 3, H, W)``, or the tensor is not floating-point.
        """
        if not x.is_floating_point() or x.ndim < 3 or x.shape[-3] != 3:
            raise ImageError(f"got {x.dtype} {tuple(x.shape)}; expected float images (..., 3, H, W) in [0, 1]")
        pixels, size = x.reshape(-1, *x.shape[-3:]).permute(0, 2, 3, 1), (self.resolution, self.resolution)
        resized = resize_and_normalise(pixels.float(), size, self.mean, self.std, white=1.0)
        return resized.reshape(*x.shape[:-2], *size).to(x.dtype)

    def forward_batch(self, img_list: Sequence[ImageLike], device: torch.device | str = "cpu") -> Tensor:
        """Converts B images, which may differ in size, to ``(B, 3, S, S)``."""
        return torch.stack([self(image, device) for image in img_list])

    def transform_coords(
        self, coords: Tensor, normalize: bool = False, orig_hw: tuple[int, int] | None = None
    ) -> Tensor:
        """Converts coordinates (x, y), ``(..., 2)``, to pixels of the model's input.

        Args:
            normalize: If True, ``coords`` are in pixels of an image of size ``orig_hw``. If False, ``coords`` are in
                [0, 1].

        Raises:
            ValueError: If ``normalize`` is True and ``orig_hw`` is None.
        """
        if normalize:
            if orig_hw is None:
                raise ValueError("normalize=True needs orig_hw, the image's (height, width)")
            height, width = orig_hw
            coords = coords / coords.new_tensor([width, height])
        return coords * self.resolution

    def transform_boxes(self, boxes: Tensor, normalize: bool = False, orig_hw: tuple[int, int] | None = None) -> Tensor:
        """Converts boxes ``(..., 4)`` XYXY to corners ``(B, 2, 2)`` in pixels of the model's input."""
        return self.transform_coords(boxes.reshape(-1, 2, 2), normalize, orig_hw)

    def postprocess_masks(self, masks: Tensor, orig_hw: tuple[int, int]) -> Tensor:
        """Removes holes and sprinkles from logits ``(B, C, h, w)``. Returns upsampled fp32 logits ``(B, C, H, W)``."""
        return upsample_masks(self.cleaned(masks), orig_hw)

    def postprocess_to_bool(self, masks: Tensor, orig_hw: tuple[int, int], threshold: float) -> Tensor:
        """Thresholds :meth:`postprocess_masks` to bool masks ``(B, C, H, W)``, without creating logits of this size."""
        return upsample_and_threshold(self.cleaned(masks), orig_hw, threshold)

    @staticmethod
    def encode_cleaned(masks: Tensor, orig_hw: tuple[int, int], threshold: float) -> np.ndarray:
        """Converts logits ``(..., h, w)`` from :meth:`cleaned` to COCO's run lengths ``(...)`` at the size (H, W)."""
        rles = np.empty(masks.shape[:-2].numel(), dtype=object)
        rles[:] = compress_run_lengths(encode_upsampled(masks.flatten(0, -3), orig_hw, threshold))
        return rles.reshape(masks.shape[:-2])

    def cleaned(self, masks: Tensor) -> Tensor:
        """Returns low-resolution logits ``(B, C, h, w)`` without holes and sprinkles, in fp32."""
        areas = self.max_hole_area, self.max_sprinkle_area
        return fill_holes_and_remove_sprinkles(masks.float(), self.mask_threshold, *areas)


def unpacked_on_host(
    logits: Tensor, size: Sequence[int], threshold: float, dtype: type[np.generic], *others: Tensor
) -> tuple[Any, ...]:
    """Computes masks from ``logits (..., h, w)``. Copies the masks as bits to the CPU, together with ``others``.

    Returns:
        A new array ``(..., H, W)`` of 0 and 1, and ``others`` on the CPU, see
        :func:`~sam2fast.utils.async_copies.copy_to_host`.
    """
    height, width = size
    bits, *copied = copy_to_host(upsample_and_pack(logits, (height, width), threshold), *others)
    return unpack_bits(bits, width, dtype), *copied
