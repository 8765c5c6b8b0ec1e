"""The miniature world: a renderer for the demo's data, packed in the official archive formats.

``recipe``      how large a world is and how hard, in a typed model
``world``       a recipe with its vocabularies (which class is which body with which part)
``shapes``      outlines of bodies and parts in object coordinates
``textures``    tileable textures, colours and backgrounds
``objects``     one object as a sprite: colour, coverage, mask
``scenes``      images with objects, occlusion and truncation, keyed by (seed, stream, index)
``places``      images that are classified by their composition
``flowers``     images of one flower, in classes that differ little
``annotations`` VOC XML, ImageNet XML, COCO JSON and the ImageNet development kits
``packing``     image files, tar, zip and MAT-files of fixed bytes
``imagenet``, ``coco``, ``openimages``, ``voc``, ``occlusion``, ``classification``
                the archives of each owner
``archives``    any choice of all archives, equal byte for byte for equal recipes

Nothing here needs torch.
"""
