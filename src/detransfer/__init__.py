"""What does a backbone learn from object detection instead of classification?"""

__version__ = "0.1.0"
