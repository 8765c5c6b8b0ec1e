"""Record the average-pooled Conv5 features of a frozen backbone, of every image of some splits.

Writes a folder: conv5.npy, images.parquet (row i is image i) and features.json (what they are of,
with checksums). Started again after an interruption it goes on where it ended.
"""

from __future__ import annotations

from pathlib import Path

from detransfer.console import run
from detransfer.features.extract import BackboneFeatures, load_frozen
from detransfer.features.recording import recording_arguments, write_recording
from detransfer.recipes.classification import FeatureRecipe
from detransfer.strict import load_file


def main() -> None:
    arguments = recording_arguments(str(__doc__)).parse_args()
    recipe = load_file(arguments.recipe, FeatureRecipe)
    backbone, header = load_frozen(arguments.weights, recipe.output_stride, arguments.architecture)
    network = BackboneFeatures(backbone, recipe.precision)
    write_recording(arguments, Path(__file__), recipe, network, ["conv5"], header)


if __name__ == "__main__":
    run(main)
