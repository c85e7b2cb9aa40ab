import pytest
import torch
from learners import SETTINGS, body, maps, pixels
from torch import nn
from torch.nn import functional as F
from training_runs import tiny_network  # noqa: F401

from sppfeat.errors import SppfeatError
from sppfeat.training.learners import TeacherAdapter, TeacherLearner, TeacherTargets
from sppfeat.training.settings import NetworkSettings

LEVELS = (3, 2, 1)

pytestmark = pytest.mark.usefixtures("tiny_network")


def test_a_teacher_is_standardised_by_channel_over_all_maps():
    adapter = TeacherAdapter(3, 4, NetworkSettings(), "map")
    sample = [3 * maps(2, 4, 5, 6) + 7, 3 * maps(1, 4, 2, 9, seed=1) + 7]
    adapter.standardize_by([adapter.moments(m) for m in sample])
    values = torch.cat([adapter.target(m).transpose(0, 1).flatten(1) for m in sample], 1)
    torch.testing.assert_close(values.mean(1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(1, correction=0), torch.ones(4), atol=1e-5, rtol=0)


def test_a_channel_that_is_dead_in_the_sample_does_not_outweigh_the_others():
    adapter = TeacherAdapter(3, 4, NetworkSettings(), "map")
    sample = maps(2, 4, 6, 6)
    sample[:, 1] = 0
    adapter.standardize_by([adapter.moments(sample)])
    awake = sample.clone()
    awake[:, 1] = 1
    assert adapter.target(sample)[:, 1].abs().max() == 0
    assert 1 < adapter.target(awake)[:, 1].max() < 20
    adapter.standardize_by([adapter.moments(torch.zeros(1, 4, 3, 3))])
    assert adapter.target(torch.ones(1, 4, 3, 3)).isfinite().all()


@pytest.mark.parametrize(
    ("student", "teacher", "common"),
    [((8, 6), (4, 3), (4, 3)), ((4, 3), (8, 6), (4, 3)), ((4, 9), (8, 3), (4, 3))],
)
def test_the_finer_grid_is_averaged_to_the_coarser_one(student, teacher, common):
    adapter = TeacherAdapter(3, 5, NetworkSettings(), "map")
    feature_map, target = maps(2, 3, *student).requires_grad_(), maps(2, 5, *teacher, seed=1)
    given, wanted = adapter(feature_map, adapter.target(target))
    assert given.shape == wanted.shape == (2, 5, *common)
    torch.testing.assert_close(wanted, F.adaptive_avg_pool2d(target, common))
    weight = adapter.linear.weight[:, :, 0, 0]
    pooled = F.adaptive_avg_pool2d(feature_map, common)
    expected = torch.einsum("oc,nchw->nohw", weight, pooled) + adapter.linear.bias[:, None, None]
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    given.square().sum().backward()
    assert feature_map.grad.abs().min() > 0
    assert adapter.linear.weight.grad.abs().min() > 0


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_descriptors_are_compared_bin_by_bin_whatever_the_grids(pool):
    adapter = TeacherAdapter(3, 5, NetworkSettings(levels=LEVELS, pool=pool), "descriptor")
    pooled = F.adaptive_max_pool2d if pool == "max" else F.adaptive_avg_pool2d
    feature_map, teacher = maps(2, 3, 7, 9), maps(2, 5, 4, 13, seed=1)
    given, wanted = adapter(feature_map, adapter.target(teacher))
    assert given.shape == wanted.shape == (2, 5, 14, 1)
    expected = torch.cat([pooled(teacher, n).flatten(2) for n in LEVELS], 2)[..., None]
    torch.testing.assert_close(wanted, expected)


def test_a_student_that_is_its_teacher_has_no_loss_and_explains_everything():
    teacher = body().eval()
    adapter = TeacherAdapter(16, 16, SETTINGS, "map")
    targets = TeacherTargets([teacher], [adapter], ["twin:features"])
    targets.standardize([pixels()])
    student = TeacherLearner(body(), [adapter]).eval()
    scale, mean = adapter.scale.flatten(), adapter.mean.flatten()
    with torch.no_grad():  # the linear map that standardises
        adapter.linear.weight.copy_(torch.diag(scale)[:, :, None, None])
        adapter.linear.bias.copy_(-mean * scale)
        answer = student(pixels(), targets(torch.arange(4), pixels()))
    assert float(answer.loss) < 1e-9
    judged = targets.judge(torch.arange(4), answer.scores)
    assert judged == pytest.approx({"explained_twin:features": 1.0})


def test_the_loss_of_teachers_is_the_sum_of_mean_squares_and_the_mean_explains_nothing():
    adapters = [TeacherAdapter(16, 16, SETTINGS, mode) for mode in ("map", "descriptor")]
    targets = TeacherTargets([body(6).eval(), body(7).eval()], adapters, ["a", "b"])
    targets.standardize([pixels()])
    student = TeacherLearner(body(), adapters).eval()
    wanted = targets(torch.arange(4), pixels())
    answer = student(pixels(), wanted)
    feature_map = student.body(pixels())[0]
    by_hand = 0.0
    for adapter, target in zip(adapters, wanted, strict=True):
        given, cells = adapter(feature_map, target)
        by_hand += float((given - cells).detach().square().mean())
    assert float(answer.loss.detach()) == pytest.approx(by_hand, rel=1e-4)
    for adapter in adapters:
        nn.init.zeros_(adapter.linear.weight)
        nn.init.zeros_(adapter.linear.bias)
    explained = targets.judge(torch.arange(4), student(pixels(), wanted).scores)
    alive = [float((adapter.scale.flatten() > 0).float().mean()) for adapter in adapters]
    assert all(-0.01 <= 1 - share <= 1 for share in alive)
    assert all(-0.05 < share < 1 for share in explained.values())


def test_nothing_to_standardise_by():
    with pytest.raises(SppfeatError, match="no image could be read"):
        TeacherTargets([body().eval()], [TeacherAdapter(16, 16, SETTINGS, "map")], ["a"]).standardize([])
