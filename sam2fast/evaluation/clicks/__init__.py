"""Evaluates a model on images with simulated clicks and boxes. See docs/evaluation.md."""

from sam2fast.evaluation.clicks.protocol import BoxScores, ClickScores, evaluate_boxes, evaluate_clicks

__all__ = ["BoxScores", "ClickScores", "evaluate_boxes", "evaluate_clicks"]
