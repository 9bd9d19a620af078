"""Independent NumPy versions of what the package computes, written for clarity: loops, float64 where it helps."""

import numpy as np


def letterbox(image, target, pad):
    """Long side to target, pixels where they belong, bottom-right padding; resize itself is OpenCV's in both."""
    import cv2

    height, width = image.shape[:2]
    scale = min(target / height, target / width)
    new_h, new_w = (
        int(np.rint(height * scale)),
        int(np.rint(width * scale)),
    )  # half to even
    if scale != 1:
        image = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    canvas = np.full((target, target, 3), pad, np.uint8)
    for row in range(new_h):
        canvas[row, :new_w] = image[row]
    return canvas, scale


def iou(first, second):
    """As ONNX Runtime does it in float32: corners in any order, nothing for empty boxes."""
    f = np.float32
    ax1, ax2, ay1, ay2 = *sorted((first[0], first[2])), *sorted((first[1], first[3]))
    bx1, bx2, by1, by2 = *sorted((second[0], second[2])), *sorted((second[1], second[3]))
    width, height = f(min(ax2, bx2) - max(ax1, bx1)), f(min(ay2, by2) - max(ay1, by1))
    if not (width > 0 and height > 0):
        return f(0)
    common = f(width * height)
    area_a, area_b = f(f(ax2 - ax1) * f(ay2 - ay1)), f(f(bx2 - bx1) * f(by2 - by1))
    union = f(f(area_a + area_b) - common)
    return f(common / union) if union > 0 else f(0)


def select(boxes, scores, joints, confidence, threshold, candidates, limit):
    """One image: (A, 4), (A,), (A, J, 3) to the indices of the kept anchors, best first."""
    order = sorted(range(len(scores)), key=lambda anchor: (-scores[anchor], anchor))[:candidates]
    kept = []
    for anchor in order:
        if not scores[anchor] > confidence or len(kept) == limit:
            break
        if all(iou(boxes[anchor], boxes[other]) <= threshold for other in kept):
            kept.append(anchor)
    return kept


def decode(logits, distances, offsets, height, width, strides):
    """Raw heads of one image, (1 + J, A), (68, A), (2J, A), to boxes (A, 4), scores (A,), joints (A, J, 3)."""
    joints_count = len(offsets) // 2
    boxes, scores, joints = [], [], []
    anchor = 0
    for stride in strides:
        for y in range(height // stride):
            for x in range(width // stride):
                sides = []
                for side in range(4):
                    bins = np.exp(distances[side * 17 : side * 17 + 17, anchor].astype(np.float64))
                    sides.append((bins / bins.sum() * np.arange(17)).sum() * stride)
                cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
                boxes.append((cx - sides[0], cy - sides[1], cx + sides[2], cy + sides[3]))
                confidences = 1 / (1 + np.exp(-logits[:, anchor].astype(np.float64)))
                scores.append(confidences[0])
                xy = offsets[:, anchor].reshape(joints_count, 2).astype(np.float64)
                joints.append(
                    [((u + x) * stride, (v + y) * stride, c) for (u, v), c in zip(xy, confidences[1:], strict=True)]
                )
                anchor += 1
    return np.array(boxes), np.array(scores), np.array(joints)


def pose_nms(boxes, scores, joints, score_threshold, iou_threshold, candidates, limit):
    """PoseNMS_TRT as operators/README.md states it: (B, A, 4), (B, A, 1), (B, A, J, 3) to four outputs, float32."""
    batch, joints_count = len(boxes), joints.shape[2]
    count = np.zeros((batch, 1), np.int32)
    out_boxes = np.zeros((batch, limit, 4), np.float32)
    out_scores = np.zeros((batch, limit), np.float32)
    out_joints = np.zeros((batch, limit, joints_count, 3), np.float32)
    for image in range(batch):
        kept = keep(boxes[image], scores[image], score_threshold, iou_threshold, candidates, limit)
        rows = len(kept)
        count[image] = rows
        out_boxes[image, :rows], out_scores[image, :rows] = boxes[image][kept], scores[image, kept, 0]
        out_joints[image, :rows] = joints[image][kept]
    return count, out_boxes, out_scores, out_joints


def detection_nms(boxes, scores, score_threshold, iou_threshold, candidates, limit):
    """DetectionNMS_TRT as operators/README.md states it: (B, A, 4), (B, A, K) to the four outputs."""
    batch, classes = len(boxes), scores.shape[2]
    count = np.zeros((batch, 1), np.int32)
    out_boxes = np.zeros((batch, limit, 4), np.float32)
    out_scores = np.zeros((batch, limit), np.float32)
    out_classes = np.full((batch, limit), -1, np.int32)
    for image in range(batch):
        pairs = keep(boxes[image], scores[image], score_threshold, iou_threshold, candidates, limit)
        count[image] = len(pairs)
        for row, pair in enumerate(pairs):
            anchor, kind = divmod(int(pair), classes)
            out_boxes[image, row], out_scores[image, row] = boxes[image, anchor], scores[image, anchor, kind]
            out_classes[image, row] = kind
    return count, out_boxes, out_scores, out_classes


def keep(boxes, scores, score_threshold, iou_threshold, candidates, limit):
    """One image, (A, 4) and (A, K), to the kept pairs, anchor * K + class, best first."""
    classes = scores.shape[1]
    score = scores.reshape(-1)
    above = np.flatnonzero(score > np.float32(score_threshold))
    order = above[np.argsort(-score[above], kind="stable")][:candidates]
    with np.errstate(all="ignore"):
        corners = boxes[order // classes]
        swap = ~(corners[:, :2] < corners[:, 2:])
        low = np.where(swap, corners[:, 2:], corners[:, :2])
        high = np.where(swap, corners[:, :2], corners[:, 2:])
        area = (high[:, 0] - low[:, 0]) * (high[:, 1] - low[:, 1])
        alive = np.ones(len(order), bool)
        kept = []
        for place in range(len(order)):
            if not alive[place]:
                continue
            if len(kept) == limit:
                break
            kept.append(order[place])
            # The formulas with their comparisons, so that NaN and infinities go the way they state.
            left = np.where(low[place] > low, low[place], low)
            right = np.where(high[place] < high, high[place], high)
            width, height = (right - left).T
            common = width * height
            union = area[place] + area - common
            hit = (width > 0) & (height > 0) & (union > 0) & (common / union > np.float32(iou_threshold))
            alive &= ~(hit & (order % classes == order[place] % classes))
    return kept
