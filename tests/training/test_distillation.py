"""A student learns from a teacher: the loss number by number, the teacher's own view of the images, resumption."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import torch
from keras import ops

from keras_resnext import cli
from keras_resnext.classifier import open_classifier
from keras_resnext.network.input_preprocessing import get_preprocessing, set_preprocessing
from keras_resnext.preprocessing import Preprocessing
from keras_resnext.training import Distillation, session, train
from keras_resnext.training.distillation import SoftTargets, find_order, make_teacher
from keras_resnext.training.state import save_state
from keras_resnext.training.step import CrossEntropy, compile_model
from tests.training.small_runs import QUIET, RECIPE, SMALL, build, weights

pytestmark = pytest.mark.usefixtures("no_curves")
RNG = np.random.default_rng(0)
PIXELS = RNG.uniform(0, 255, (6, 8, 8, 3)).astype("float32")
DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def teacher():
    """Of another depth, size and normalisation, in BGR, and it gives logits."""
    model = build(blocks=(2, 1), classifier_activation=None)
    set_preprocessing(model, Preprocessing(8, mean=(10.0, 20.0, 30.0), std=(40.0, 50.0, 60.0), channels="BGR"))
    return open_classifier(model)


def softened(logits, temperature):
    return torch.log_softmax(torch.tensor(logits, dtype=torch.float64) / temperature, -1)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_that_of_pytorch(temperature):
    teacher, student = RNG.normal(0, 3, (2, 5, 7)).astype("float32")
    found = SoftTargets(temperature, reduction="none")(teacher, student)
    target, scores = softened(teacher, temperature), softened(student, temperature)
    expected = torch.nn.functional.kl_div(scores, target, log_target=True, reduction="none").sum(-1) * temperature**2
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert float(SoftTargets(temperature)(student, student)) == 0


def test_a_step_adds_both_losses_and_validation_the_labels_alone(teacher):
    student = build()
    labels = np.eye(10, dtype="float32")[[1, 2, 3, 4, 5, 6]]
    how, own = get_preprocessing(student), teacher.preprocessing
    images = (PIXELS - np.float32(how.mean)) / np.float32(how.std)
    as_taught = ((PIXELS - np.float32(own.mean)) / np.float32(own.std))[..., ::-1]
    logits = ops.convert_to_numpy(teacher.model(as_taught, training=False))
    given = ops.convert_to_numpy(student(images, training=True))
    student = build()
    compile_model(student, replace(RECIPE, label_smoothing=0.1), 1)
    hard = float(CrossEntropy(0.1)(labels, given))
    target, scores = softened(logits, 3.0), softened(np.log(given), 3.0)
    soft = float((target.exp() * (target - scores)).sum(-1).mean()) * 9
    student.run_eagerly = True  # no tracing: it takes longer than all the rest
    with Distillation(teacher, 0.7, 3.0).applied(student, DIGITS):
        found = student.train_on_batch(images, labels, return_dict=True)["loss"]
        student.reset_metrics()
        plain = student.test_on_batch(images, labels, return_dict=True)["loss"]
    np.testing.assert_allclose(found, 0.3 * hard + 0.7 * soft, rtol=1e-4)
    np.testing.assert_allclose(plain, CrossEntropy(0.1)(labels, student(images)), rtol=1e-4)
    assert "compute_loss" not in vars(student)


def test_the_teacher_sees_its_own_size_and_order_of_classes(teacher):
    larger = open_classifier(build(input_shape=(16, 16, 3)), labels=DIGITS[::-1])
    order = find_order(larger, DIGITS)
    assert order.tolist() == list(range(9, -1, -1))
    grey = np.full((1, 8, 8, 3), 90.0, "float32")
    seen = get_preprocessing(build())
    found = make_teacher(larger, seen, order)((grey - np.float32(seen.mean)) / np.float32(seen.std))
    expected = larger.scores(np.full((1, 16, 16, 3), 90.0, "float32"))[:, order]
    np.testing.assert_allclose(ops.softmax(found), expected, rtol=1e-4)


def test_a_run_that_is_cut_off_ends_in_the_same_student(few, teacher, tmp_path, monkeypatch):
    recipe = replace(RECIPE, epochs=1)
    options = {"recipe": recipe, "console": QUIET, "save_steps": 3, "distillation": Distillation(teacher)}
    whole = build()
    train(whole, few[0], output=tmp_path / "whole", **options)

    def cut(*arguments):
        save_state(*arguments)
        raise InterruptedError

    with monkeypatch.context() as changed:
        changed.setattr(session, "save_state", cut)
        with pytest.raises(InterruptedError):
            train(build(), few[0], output=tmp_path / "cut", **options)
    resumed = build()
    train(resumed, few[0], output=tmp_path / "cut", **options)
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    saved = keras.saving.load_model(tmp_path / "cut" / "best.keras")
    assert saved.count_params() == build().count_params()
    with pytest.raises(ValueError, match=r"distill_weight=0\.5 was 0\.9"):
        train(build(), few[0], output=tmp_path / "cut", **options | {"distillation": Distillation(teacher, 0.5)})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weight": 0.0}, "distill_weight=0.0 must be above 0"),
        ({"weight": 1.1}, "distill_weight=1.1 must be above 0 and at most 1"),
        ({"temperature": 0.0}, "temperature=0.0 must be a number above 0"),
    ],
)
def test_numbers_out_of_range(teacher, given, message):
    with pytest.raises(ValueError, match=message):
        Distillation(teacher, **given)


def test_a_teacher_of_other_classes_or_another_kind_is_an_error(teacher):
    with pytest.raises(ValueError, match="has 10 classes, the images have 3"):
        find_order(teacher, ("a", "b", "c"))
    with pytest.raises(ValueError, match="other classes: 'x' of the images is none of them, and its '9' is none of"):
        find_order(replace(teacher, labels=DIGITS), (*DIGITS[:9], "x"))
    with pytest.raises(ValueError, match="gives 'multi' scores"):
        Distillation(replace(teacher, kind="multi"))
    with pytest.raises(ValueError, match="is an export"):
        Distillation(replace(teacher, model=None))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "2"], "--temperature 2.0 needs teacher"),
        (["--teacher", "none.keras"], "none.keras"),
        (["--teacher", "resnext50_32x4d"], "has 1000 classes, the images have 10"),
    ],
)
def test_bad_options_are_one_line(digits, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        cli.main(["train", str(digits), "--output", str(tmp_path / "x"), *SMALL, *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "x").exists()
