"""The miniature world: a renderer for the demo's data, packed in the official archive formats.

``world``       the recipe and the vocabularies (which class is which body with which part)
``shapes``      outlines of bodies and parts in object coordinates
``textures``    tileable textures, colours and backgrounds
``objects``     one object as a sprite: colour, coverage, mask
``scenes``      images with objects, occlusion and truncation, keyed by (seed, stream, index)
``annotations`` VOC XML, COCO JSON and the ImageNet development kit
``archives``    the archives themselves, equal byte for byte for equal recipes

Nothing here needs torch.
"""
