"""The official formats that there are readers for: name of the format, module of its reader.

Apart from the readers, so that the catalog and the downloads depend on none of them.
"""

READERS = {
    "caltech256": "detransfer.data.readers.caltech256",
    "coco": "detransfer.data.readers.coco",
    "flowers102": "detransfer.data.readers.flowers102",
    "image_folder": "detransfer.data.readers.image_folder",
    "imagenet_cls": "detransfer.data.readers.imagenet_cls",
    "imagenet_det": "detransfer.data.readers.imagenet_det",
    "imagenet_loc": "detransfer.data.readers.imagenet_loc",
    "openimages": "detransfer.data.readers.openimages",
    "sun397": "detransfer.data.readers.sun397",
    "voc": "detransfer.data.readers.voc",
    "voc_segmentation": "detransfer.data.readers.voc_segmentation",
}
