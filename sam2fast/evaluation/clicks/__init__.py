"""How well a model finds objects of pictures by 1, 2, 3, ... clicks and by a box. See docs/image_evaluation.md."""

from sam2fast.evaluation.clicks.protocol import BoxScores, ClickScores, evaluate_boxes, evaluate_clicks

__all__ = ["BoxScores", "ClickScores", "evaluate_boxes", "evaluate_clicks"]
