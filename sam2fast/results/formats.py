"""Lists formats of masks and their files. Imports nothing, since command line options list the formats."""

# Maps formats to an image's file in the output folder. ``coco`` has one file for all images.
FILES = {
    "yolo": "labels/{}.txt",
    "yolo-seg": "labels/{}.txt",
    "labelme": "{}.json",
    "labelme-mask": "{}.json",
    "label-studio": "{}.json",
    "png": "{}_masks.png",
    "npz": "{}.npz",
    "geojson": "{}.geojson",
}
WITH_POLYGONS = ("yolo-seg", "labelme", "geojson")
WITH_IMAGES = ("yolo", "yolo-seg", "labelme", "labelme-mask", "label-studio")  # formats with images beside labels
MOST_OBJECTS = 255  # maximum objects in a palette image; label 0 is the background
VOLUME_FILES = {"nifti": "masks.nii.gz", "dicom-seg": "masks.dcm"}
