"""Build script: kernels/ and configs/ sit at the top level and install inside sam2fast."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
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
NAPARI = ["napari>=0.6"]
# Export needs all three, running what was exported onnxruntime.
ONNX = ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.20"]
CLUSTER = ["ray>=2.54,<3", "submitit>=1.5"]
# What the web demo is served by.
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
    "supervision>=0.31",  # from 0.30 on without OpenCV
    "build>=1.2",
    "setuptools>=68",
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
    "eval": ["scikit-image>=0.22", "scipy>=1.11", "pycocotools>=2.0.7"],
    "serve": SERVE,
    "cvat": CVAT,
    "label-studio": SERVE,
    "mcp": MCP,
    "notebooks": NOTEBOOKS,
    "interactive-demo": SERVE,  # as the original calls it
    "docs": DOCS,
    "test": TEST,
    "dev": [*TEST, "ruff>=0.9", "mypy>=1.13", "types-tqdm", "import-linter>=2.6", "codespell>=2.4", "pre-commit>=3"],
}
EXTRAS["all"] = sorted(
    {
        requirement
        for name in (
            *(
                "hub",
                "video",
                "images",
                "train",
                "adapters",
                "polygons",
                "detections",
                "cluster",
                "onnx",
                "eval",
                "serve",
            ),
            *("cvat", "label-studio", "mcp", "medical"),
        )
        for requirement in EXTRAS[name]
    }
)


def list_packages() -> list[str]:
    """Every package under its installed name; a set, since sam2fast/kernels is a symlink to kernels/."""
    names = set(PACKAGE_DIR)
    for package, directory in PACKAGE_DIR.items():
        names.update(f"{package}.{name}" for name in find_packages(directory))
    return sorted(names)


def read_version() -> str:
    """``__version__`` of the package, read as text: importing it would need its dependencies."""
    text = (ROOT / "sam2fast" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert match is not None
    return match.group(1)


setup(
    name="sam2fast",
    version=read_version(),
    description="SAM 2, promptable segmentation of images and video, rebuilt around Triton kernels",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    author="The sam2fast authors",
    keywords="segment anything, SAM 2, image segmentation, video object segmentation, tracking, PyTorch, Triton",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    packages=list_packages(),
    package_dir=PACKAGE_DIR,
    package_data={
        "sam2fast": ["py.typed"],
        "sam2fast.configs": ["**/*.yaml"],
        "sam2fast.integrations": ["napari.yaml"],
        "sam2fast.mini": ["*.safetensors", "*.json", "*.md"],
        "sam2fast.nano": ["*.safetensors", "*.md"],
        "sam2fast.demo": ["media/*"],
        "sam2fast.demo.server": ["static/*", "static/assets/*"],
    },
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.6",
        'triton>=3.2; sys_platform == "linux" and platform_machine == "x86_64"',
        "numpy>=1.26",
        "pillow>=10.3",
        "hydra-core>=1.3.2",
        "safetensors>=0.4.3",
        "click>=8.1.3",
        "tqdm>=4.66.3",
        "filelock>=3.21.0",  # earlier ones cannot remove a lock file safely
    ],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["sam2fast = sam2fast.cli:main"],
        "napari.manifest": ["sam2fast = sam2fast.integrations:napari.yaml"],
    },
)
