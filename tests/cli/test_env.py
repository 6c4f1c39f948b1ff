"""`pv env`: facts with reasons, the same for people and programs."""

from __future__ import annotations

import json
import platform

from pv import __version__
from pv.contract.vocabulary import DeviceClass
from pv.falsify.devices import Card, DeviceReport


def test_every_fact_is_there_for_programs(house, pv):
    (house.root / "pyproject.toml").write_text('[tool.pv]\n[tool.pv.subjects]\nhere = "falsifiers"\ngone = "nowhere"\n')
    ran = pv("env", "--json")
    assert ran.code == 0
    facts = json.loads(ran.out)
    assert (facts["pv"], facts["python"]) == (__version__, platform.python_version())
    assert set(facts["devices"]) == {"cpu", "cuda", "vulkan", "vulkan-sw", "metal"}
    assert facts["devices"]["cpu"]["present"]
    for name, device in facts["devices"].items():
        assert device["present"] == (not device["why_not"]), name
        assert bool(device["name"]) == device["present"], name
    assert facts["libraries"]["click"]
    assert facts["project"]["root"] == str(house.root)
    assert facts["subjects"]["here"]["present"]
    assert not facts["subjects"]["gone"]["present"]


def test_people_read_the_reason_of_what_is_missing(house, pv):
    ran = pv("env")
    assert ran.code == 0
    assert f"pv           {__version__}" in ran.out
    devices = {line.split()[0]: line for line in ran.out.splitlines() if line.startswith("  ")}
    facts = json.loads(pv("env", "--json").out)["devices"]
    for name, device in facts.items():
        assert (device["name"] if device["present"] else device["why_not"]) in devices[name]
        assert devices[name].split()[1] == ("yes" if device["present"] else "no")
    assert "none; name them in [tool.pv.subjects]" in ran.out


def test_a_library_that_is_not_installed_is_told(monkeypatch, house, pv):
    monkeypatch.setattr("pv.cli.env.LIBRARIES", ("click", "no-such-library"))
    out = pv("env").out
    assert "no-such-library not installed" in " ".join(out.split())


def test_several_cards_are_counted_and_named(monkeypatch, house, pv):
    cards = (Card("0", "a card", "u-0"), Card("3", "another card", "u-3"))
    cuda = DeviceReport(DeviceClass.CUDA, "a card", "1.0", cards=cards)
    monkeypatch.setattr("pv.falsify.devices.present", lambda *_: {DeviceClass.CUDA: cuda})
    told = next(line for line in pv("env").out.splitlines() if line.startswith("  cuda"))
    assert told.split() == "cuda yes a card (driver 1.0), 2 cards".split()
    listed = json.loads(pv("env", "--json").out)["devices"]["cuda"]["cards"]
    assert listed == [{"name": "a card", "visible": "0"}, {"name": "another card", "visible": "3"}]


def test_what_ray_must_be_told_is_one_line_of_json(monkeypatch, house, pv):
    def present(wanted):
        return {one: DeviceReport(one, "x", why_not="" if one is DeviceClass.VULKAN else "none") for one in wanted}

    monkeypatch.setattr("pv.falsify.ray_engine.present", present)
    assert pv("env", "--ray").out == '{"vulkan": 1}\n'
