"""The official formats that there are readers for: name of the format, module of its reader.

Apart from the readers, so that the catalog and the downloads depend on none of them.
"""

READERS = {
    "caltech256": "detransfer.data.readers.caltech256",
    "coco": "detransfer.data.readers.coco",
    "imagenet_cls": "detransfer.data.readers.imagenet_cls",
    "voc": "detransfer.data.readers.voc",
}
