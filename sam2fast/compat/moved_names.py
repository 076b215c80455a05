"""Maps earlier names of sam2fast's modules, classes and functions to current names, for old imports and pickles."""

# Earlier module -> current module. Submodules move with their package. A submodule that also got another name needs an
# entry below the package's current name.
MOVED = {
    "sam2fast.io.mask_formats": "sam2fast.results.formats",
    "sam2fast.mask_formats": "sam2fast.results",
    "sam2fast.results.writers": "sam2fast.results.image_writers",
    "sam2fast.video_results": "sam2fast.results",
    "sam2fast.results.coco_video": "sam2fast.results.coco",
}
# Earlier modules that documents named: the first import of each gives a DeprecationWarning.
DOCUMENTED: tuple[str, ...] = ("sam2fast.mask_formats", "sam2fast.video_results")
# Current module -> earlier attribute -> full current name. The module had the attribute at its current or earlier name.
RENAMED: dict[str, dict[str, str]] = {}
