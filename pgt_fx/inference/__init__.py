"""Scores of a video: original, progressive or streamed view, several clips and crops, the cost."""

from pgt_fx.inference.cost import Cost
from pgt_fx.inference.predict import Prediction, predict

__all__ = ["Cost", "Prediction", "predict"]
