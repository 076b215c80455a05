"""Packages and extras; ``pyproject.toml`` has all other metadata.

kernels/ and configs/ sit at the top level and install inside sam2fast. Extras are composed of other extras.
"""

from setuptools import find_packages, setup

# kernels/ and configs/ must not install under their own names: `kernels` is a package on the index.
PACKAGE_DIR = {"sam2fast": "sam2fast", "sam2fast.kernels": "kernels", "sam2fast.configs": "configs"}

HUB = ["huggingface-hub>=0.25"]
VIDEO = ["av>=12"]
TRAIN = ["scipy>=1.11", "tensorboard>=2.16.2", "pycocotools>=2.0.7"]
ADAPTERS = ["peft>=0.21"]
POLYGONS = ["shapely>=2.0.6"]
DETECTIONS = ["scipy>=1.11"]
IMAGES = ["tifffile>=2024.8.30", "imagecodecs>=2024.9.22", "pillow-heif>=0.18"]
MEDICAL = ["nibabel>=5.2", "pydicom>=3.0.1", "highdicom>=0.28"]
EVAL = ["scikit-image>=0.22", "scipy>=1.11", "pycocotools>=2.0.7"]
NAPARI = ["napari>=0.6"]
# Export needs all three, an exported model only onnxruntime.
ONNX = ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.20"]
CLUSTER = ["ray>=2.54,<3", "submitit>=1.5"]
SERVE = [
    *VIDEO,
    *POLYGONS,  # of files
    "pycocotools>=2.0.7",  # polygons of imported masks
    "flask>=3.1,<4",
    "werkzeug>=3.1.6,<4",
    "strawberry-graphql>=0.334,<1",
    "graphql-core>=3.3,<4",
    "gunicorn>=25,<28; sys_platform != 'win32'",
]
CVAT = ["cvat-sdk>=2.75,<3", *POLYGONS, "pycocotools>=2.0.7"]
MCP = [*VIDEO, "mcp>=2,<3"]
DOCS = ["mkdocs-material>=9.7,<10", "mkdocstrings[python]>=1.0,<2"]
DATASETS = [*VIDEO, "matplotlib>=3.8"]
NOTEBOOKS = [*VIDEO, "scipy>=1.11", "matplotlib>=3.8", "ipykernel>=6.29", "nbmake>=1.5"]
TEST = [
    "pytest>=8",
    "pytest-benchmark>=4",
    "click>=8.2",  # its CliRunner keeps stderr apart from stdout
    "pytest-xdist>=3.5",
    "hypothesis>=6.100,<7",
    "scikit-image>=0.22",
    "scipy>=1.11",
    "pycocotools>=2.0.7",
    *ADAPTERS,
    *POLYGONS,
    *IMAGES,
    *MEDICAL,
    "opencv-python-headless>=4.9",
    "rasterio>=1.4",
    "supervision>=0.31",  # 0.30 and newer do not require OpenCV
    "build>=1.2",
    "setuptools>=77.0.3",
    *HUB,
    *DATASETS,
    *TRAIN,
    *CLUSTER,
    *ONNX,
    *SERVE,
]
EXTRAS = {
    "hub": HUB,
    "video": VIDEO,
    "train": TRAIN,
    "adapters": ADAPTERS,
    "polygons": POLYGONS,
    "detections": DETECTIONS,
    "images": IMAGES,
    "medical": MEDICAL,
    "napari": NAPARI,
    "cluster": CLUSTER,
    "onnx": ONNX,
    "datasets": DATASETS,
    "eval": EVAL,
    "serve": SERVE,
    "cvat": CVAT,
    "label-studio": SERVE,
    "mcp": MCP,
    "notebooks": NOTEBOOKS,
    "interactive-demo": SERVE,  # as the official package calls it
    "docs": DOCS,
    "test": TEST,
    "dev": [*TEST, "ruff>=0.9", "mypy>=1.13", "types-tqdm", "import-linter>=2.6", "codespell>=2.4", "pre-commit>=3"],
    "all": sorted(
        {*HUB, *VIDEO, *IMAGES, *TRAIN, *ADAPTERS, *POLYGONS, *DETECTIONS, *CLUSTER, *ONNX, *EVAL, *SERVE}
        | {*CVAT, *MCP, *MEDICAL}
    ),
}


def list_packages() -> list[str]:
    """Every package under its installed name; a set, since sam2fast/kernels is a symlink to kernels/."""
    names = set(PACKAGE_DIR)
    for package, directory in PACKAGE_DIR.items():
        names.update(f"{package}.{name}" for name in find_packages(directory))
    return sorted(names)


setup(packages=list_packages(), package_dir=PACKAGE_DIR, extras_require=EXTRAS)
