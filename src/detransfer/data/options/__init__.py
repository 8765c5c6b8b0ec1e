"""What can be chosen of each official format, apart from its reader.

A module for each format, with ``Options``: a typed, frozen model whose keys are the options of the
reader, and which says what an index of the format will hold. ``provides`` is the task that it can
be used for: ``detection`` (boxes), ``classification`` (a label an image) or ``segmentation``
(masks). ``split_names()`` returns the splits, and for each whether it has the truth. The workflow
checks a study by these before it plans anything, so importing one is cheap: no pandas, no torch.
"""
