"""A predictor with known masks, in the place of a teacher."""

import numpy as np


class FakePredictor:
    """Predicts the left half for clicks in it, elsewhere the right quarter; each mask three times."""

    def set_image(self, image):
        self.size = image.shape[:2]

    def predict(self, points, labels, *, multimask_output, return_logits):
        assert points.shape[1:] == (1, 2) and labels.shape == points.shape[:2] and (labels == 1).all()
        assert multimask_output and return_logits
        height, width = self.size
        answers, ious = [], []
        for x, _ in points[:, 0]:
            sure, unsure = np.full((2, height, width), -9, np.float32)
            sure[:, : width // 2] = 9
            unsure[:, : width // 2] = np.linspace(3, -3, width // 2)  # unstable
            if x > width / 2:
                sure = sure[:, ::-1].copy()
                sure[:, : -width // 4] = -9
            tiny = np.full_like(sure, -9)
            tiny[:2, :2] = 9
            answers.append([sure, unsure, tiny])
            ious.append([0.95 if x < width / 2 else 0.9, 0.99, 0.99])
        answers.append([np.full((height, width), 9, np.float32)] * 3)
        return np.array(answers[:-1]), np.array(ious, np.float32), np.zeros(0)
