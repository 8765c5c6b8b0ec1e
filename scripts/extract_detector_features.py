"""Record layers of a frozen detector, of every image of some splits, each image as the one RoI.

Writes a folder: <layer>.npy for each layer, images.parquet (row i is image i) and features.json
(what they are of, with checksums). Started again after an interruption it goes on where it ended.
"""

from __future__ import annotations

from pathlib import Path

from detransfer.console import run
from detransfer.detection.layers import DetectorLayers
from detransfer.detection.predict import load_detector
from detransfer.features.extract import check_stride
from detransfer.features.recording import recording_arguments, write_recording
from detransfer.recipes.classification import FeatureRecipe
from detransfer.strict import load_file
from detransfer.weights import read_header


def main() -> None:
    parser = recording_arguments(str(__doc__))
    parser.add_argument("--layers", nargs="+", required=True, help="conv5, fc1, ... (Table 7)")
    arguments = parser.parse_args()
    recipe = load_file(arguments.recipe, FeatureRecipe)
    detector, _ = load_detector(arguments.weights, arguments.architecture)
    trained = detector.recipe.backbone.output_stride
    check_stride(arguments.weights, trained, recipe.output_stride, fixed=True)
    network = DetectorLayers(detector, arguments.layers, recipe.precision)
    header = read_header(arguments.weights)
    write_recording(arguments, Path(__file__), recipe, network, arguments.layers, header)


if __name__ == "__main__":
    run(main)
