"""The formats of masks: the files of each, and what it needs. Imports nothing, since options list the formats."""

# The file for an image in the format's folder. ``coco`` has one for all images.
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
WITH_IMAGES = ("yolo", "yolo-seg", "labelme", "labelme-mask", "label-studio")  # the images lie beside their labels
MOST_OBJECTS = 255  # of a palette image; label 0 is the background
VOLUME_FILES = {"nifti": "masks.nii.gz", "dicom-seg": "masks.dcm"}
