"""The book's own Sphinx extension: how chapters are executed, and where a name in the reference leads."""

import importlib
import sys
from types import SimpleNamespace

import nbformat
import pytest
from conftest import ROOT
from docutils.nodes import literal
from nbclient import NotebookClient
from nbclient.output_widget import OutputWidget
from sphinx.addnodes import pending_xref

sys.path.append(str(ROOT / "tools"))
import book_extension

CELLS = ("from ipywidgets import interact", "@interact(s=(0.0, 1.0))\ndef show(s=0.5):\n    print(s)", "print(show(0.25))")


def messages_while_executing(monkeypatch) -> int:
    """How often nbclient writes to the kernel about an Output widget while three cells run, and that they do run."""
    sent = []
    monkeypatch.setattr(OutputWidget, "send", lambda widget, *args, **kwargs: sent.append(widget))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    executed = NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    assert executed.cells[2].outputs[0].text == "0.25\nNone\n"
    return len(sent)


def test_nothing_is_sent_on_the_socket_that_waits_for_the_reply(monkeypatch):
    monkeypatch.setattr(OutputWidget, "sync_state", OutputWidget.sync_state)  # as it is, and again after the test
    assert messages_while_executing(monkeypatch) > 0
    book_extension.setup(SimpleNamespace(connect=lambda *args, **kwargs: None, add_js_file=lambda *args, **kwargs: None))
    assert messages_while_executing(monkeypatch) == 0


@pytest.mark.parametrize(
    "name, module, leads_to",
    [
        ("fit", "number_readers", "stn_helpers.training.fit"),
        ("training.fit", "number_readers", "stn_helpers.training.fit"),
        ("fcn_localization", "paper_networks", "stn_helpers.paper_networks.fcn_localization"),
        ("fcn_localization", "number_readers", None),  # the reference has only the other module's
        ("digits", "number_readers", None),  # two have it
    ],
)
def test_a_short_name_leads_to_the_one_thing_that_is_meant(name, module, leads_to):
    importlib.import_module(f"stn_helpers.{module}")  # as autodoc has, before
    things = ("training.fit", "paper_networks.fcn_localization", "data.Splits.digits", "svhn.Slice.digits")
    objects = {f"stn_helpers.{thing}": SimpleNamespace(docname="api", node_id=thing, aliased=False) for thing in things}
    env = SimpleNamespace(get_domain=lambda domain: SimpleNamespace(objects=objects))
    node = pending_xref(refdomain="py", reftarget=name, refdoc="api", **{"py:module": f"stn_helpers.{module}"})
    found = book_extension.find_short_name(SimpleNamespace(builder=None), env, node, literal())
    assert (found and f"stn_helpers.{found['refid']}") == leads_to
