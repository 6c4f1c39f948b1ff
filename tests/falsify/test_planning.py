"""Plans: required cells, stand-ins that can earn PARTIAL, what blocks before it starts, what a cost leaves out."""

from __future__ import annotations

import pytest

from pv.contract.project import Project
from pv.contract.vocabulary import Cell, Cost, DeviceClass
from pv.falsify.devices import DeviceReport
from pv.falsify.discovery import find_in
from pv.falsify.planning import Plan, cell_cost, devices_needed, plan
from pv.falsify.selection import Row

CPU, CUDA, VULKAN, SOFTWARE = DeviceClass.CPU, DeviceClass.CUDA, DeviceClass.VULKAN, DeviceClass.VULKAN_SW
QUICK = frozenset({Cost.QUICK})
EVERY = frozenset(Cost)


def machine(*here: DeviceClass) -> dict[DeviceClass, DeviceReport]:
    return {
        device: DeviceReport(device, "a device") if device in here else DeviceReport(device, why_not="none here")
        for device in DeviceClass
    }


@pytest.fixture
def planned(checks):
    """Plan one claim with the given cells on a given machine."""

    def planned(cells, devices, costs=EVERY, subjects=None, *, control_cells="()", more="", only=(), **entry):
        contract = checks.contract("x-v1", checks.entry("FALSIFY-X-001", cells=cells, **entry))
        body = checks.registration("FALSIFY-X-001", cells=control_cells, more=more) + "def check(ctx): ...\n"
        checks.write("x_v1", body)
        project = Project(root=checks.root, falsifiers=checks.folder, subjects=subjects or {})
        rows = [Row(contract, contract.claims[0], has_check=True)]
        return plan(rows, find_in(checks.folder, checks.root), devices, project, costs=costs, only_devices=only)

    return planned


def shown(made: Plan) -> list[str]:
    """`device·subject` of every task, with `?` before a stand-in and `!` before a blocked one."""
    return [
        f"{'' if task.required else '?'}{'!' if task.missing else ''}{task.cell.device.value}·{task.cell.subject}"
        for task in made.tasks
    ]


GPU_CELLS = (("cuda", "tiny-teacher"), ("cuda", "synthetic:7b"), ("vulkan", "tiny-teacher"))


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        ((CPU,), ["!cuda·tiny-teacher", "!cuda·synthetic:7b", "!vulkan·tiny-teacher"]),
        (
            (CPU, SOFTWARE),
            ["!cuda·tiny-teacher", "!cuda·synthetic:7b", "!vulkan·tiny-teacher", "?vulkan-sw·tiny-teacher"],
        ),
        ((CPU, CUDA), ["cuda·tiny-teacher", "cuda·synthetic:7b", "!vulkan·tiny-teacher"]),
        ((CPU, CUDA, VULKAN), ["cuda·tiny-teacher", "cuda·synthetic:7b", "vulkan·tiny-teacher"]),
    ],
)
def test_a_gpu_claim_runs_where_it_can_and_software_vulkan_stands_in(planned, here, expected):
    assert shown(planned(GPU_CELLS, machine(*here))) == expected


def test_a_claim_about_cuda_alone_has_no_stand_in(planned):
    assert shown(planned((("cuda", "code"),), machine(CPU, SOFTWARE))) == ["!cuda·code"]


def test_what_is_missing_is_named(planned):
    (task,) = planned((("cuda", "code"),), machine(CPU)).tasks
    assert task.missing == ("cuda: none here",)


def test_without_a_control_that_fits_there_is_no_stand_in(planned):
    cells = (("cuda", "t"), ("vulkan", "t"))
    assert shown(planned(cells, machine(CPU, SOFTWARE), control_cells='("cuda",)'))[2:] == []
    assert shown(planned(cells, machine(CPU, SOFTWARE), control_cells='("vulkan",)'))[2:] == ["?vulkan-sw·t"]


def test_a_real_model_that_is_not_given_blocks_and_the_tiny_teacher_stands_in(planned, tmp_path):
    (tmp_path / "teacher").mkdir()
    subjects = {"tiny-teacher": tmp_path / "teacher"}
    made = planned((("cpu", "model-1"),), machine(CPU), subjects=subjects, cost="operator", blocked_on=["model-1"])
    assert shown(made) == ["!cpu·model-1", "?cpu·tiny-teacher"]
    assert made.tasks[0].missing == ("model-1: set PV_SUBJECT_MODEL_1, or model-1 in [tool.pv.subjects], to its path",)
    (tmp_path / "model").mkdir()
    subjects["model-1"] = tmp_path / "model"
    made = planned((("cpu", "model-1"),), machine(CPU), subjects=subjects, cost="operator", blocked_on=["model-1"])
    assert shown(made) == ["cpu·model-1", "?cpu·tiny-teacher"]


def test_a_subject_whose_path_is_gone_is_not_given(planned, tmp_path):
    made = planned((("cpu", "model-1"),), machine(CPU), subjects={"model-1": tmp_path / "gone"})
    assert shown(made) == ["!cpu·model-1"]


@pytest.mark.parametrize(
    ("blocked_on", "here", "expected"),
    [
        (["a permit"], (CPU,), ["!cpu·code"]),
        (["cuda"], (CPU,), ["!cpu·code"]),
        (["cuda"], (CPU, CUDA), ["cpu·code"]),
        ([], (CPU,), ["cpu·code"]),
    ],
)
def test_a_claim_that_is_blocked_on_something_waits_for_it(planned, blocked_on, here, expected):
    assert shown(planned((("cpu", "code"),), machine(*here), blocked_on=blocked_on)) == expected


@pytest.mark.parametrize(
    ("cost", "cell", "required", "expected"),
    [
        (Cost.QUICK, Cell(CUDA, "t"), True, Cost.QUICK),
        (Cost.DEVICE, Cell(CUDA, "t"), True, Cost.DEVICE),
        (Cost.DEVICE, Cell(VULKAN, "t"), True, Cost.DEVICE),
        (Cost.DEVICE, Cell(CPU, "t"), True, Cost.QUICK),
        (Cost.DEVICE, Cell(SOFTWARE, "t"), True, Cost.QUICK),
        (Cost.SLOW, Cell(CPU, "small"), True, Cost.SLOW),
        (Cost.SLOW, Cell(CUDA, "full"), True, Cost.DEVICE),
        (Cost.OPERATOR, Cell(CPU, "model-1"), True, Cost.OPERATOR),
        (Cost.OPERATOR, Cell(CPU, "tiny-teacher"), False, Cost.QUICK),
    ],
)
def test_what_a_cell_costs(cost, cell, required, expected):
    assert cell_cost(cost, cell, required=required) is expected


def test_a_cost_that_was_not_asked_for_leaves_the_cell_out_but_an_absent_device_is_told(planned):
    cells = (("cuda", "t"), ("vulkan", "t"))
    made = planned(cells, machine(CPU, CUDA, SOFTWARE), QUICK, cost="device")
    assert shown(made) == ["!vulkan·t", "?vulkan-sw·t"]
    assert [(left.claim.id, left.cell, left.cost) for left in made.left_out] == [
        ("FALSIFY-X-001", Cell(CUDA, "t"), Cost.DEVICE)
    ]


def test_the_cost_of_the_check_wins_over_that_of_the_contract(planned):
    made = planned((("cpu", "code"),), machine(CPU), QUICK, more=', cost="slow"', cost="quick")
    assert [left.cost for left in made.left_out] == [Cost.SLOW]


def test_cells_can_be_narrowed_to_a_device(planned):
    assert shown(planned(GPU_CELLS, machine(CPU, CUDA, SOFTWARE), only=(SOFTWARE,))) == ["?vulkan-sw·tiny-teacher"]


def test_a_claim_without_a_check_is_told_apart(checks, tmp_path):
    contract = checks.contract("x-v1", checks.entry("FALSIFY-X-001"))
    row = Row(contract, contract.claims[0])
    made = plan([row], find_in(checks.folder, checks.root), machine(CPU), Project(root=tmp_path), costs=EVERY)
    assert (made.tasks, made.unchecked) == ((), (row,))


def test_only_devices_that_are_asked_about_are_probed(checks):
    def needed(**more):
        contract = checks.contract("x-v1", checks.entry("FALSIFY-X-001", **more))
        return devices_needed([Row(contract, contract.claims[0])])

    assert needed() == {CPU}
    assert needed(cells=(("vulkan", "t"),)) == {CPU, CUDA, VULKAN, SOFTWARE}
    assert needed(cells=(("cuda", "t"),)) == {CPU, CUDA}
    assert needed(blocked_on=["cuda", "a permit"]) == {CPU, CUDA}
