import math

import numpy as np
from PIL import Image

from fttune.report.figures.lr_curve import draw_lr_curve, lr_chart

RATES = [10 ** (-6 + step / 10) for step in range(61)]
LOSSES = [2 - math.exp(-((math.log10(lr) + 1) ** 2)) for lr in RATES]


def test_a_curve_is_drawn_as_a_png_with_and_without_a_range(tmp_path):
    plain, shaded = tmp_path / "plain.png", tmp_path / "new" / "shaded.png"
    for file, proposed in ((plain, None), (shaded, (1e-4, 1e-2))):
        draw_lr_curve(file, "tiny", rates=RATES, losses=LOSSES, smoothed=LOSSES, proposed=proposed)
    greens = []
    for file in (plain, shaded):
        with Image.open(file) as image:
            assert image.size == (960, 540)
            red, green, blue = np.asarray(image.convert("RGB")).astype(int).transpose(2, 0, 1)
        greens.append(((green > red + 10) & (green > blue + 10)).any(axis=0).mean())
    assert greens[0] == 0
    assert 0.25 < greens[1] < 0.4  # two of six decades


def test_the_chart_has_a_star_where_the_loss_is_lowest_and_marks_the_range():
    lines = lr_chart(RATES, LOSSES, (1e-4, 1e-2)).splitlines()
    lowest, axis = lines[-3], lines[-2]
    assert lowest.split()[0] == "1"
    column = 10 + round(5 / 6 * 63)  # lr 0.1 on an axis of 64 columns from 1e-6 to 1
    assert lowest[column] == "*"
    assert (axis.index("="), axis.rindex("=")) == (10 + round(2 / 6 * 63), 10 + round(4 / 6 * 63))
    assert max(map(len, lines)) <= 80


def test_a_flat_curve_and_a_single_point_can_be_charted():
    assert lr_chart([0.1], [1.0], None).count("*") == 1
    assert lr_chart(RATES, [1.0] * 61, None).count("*") == 61
