"""The book's own Sphinx extension: what it changes in the way chapters are executed."""

import sys
from types import SimpleNamespace

import nbformat
from conftest import ROOT
from nbclient import NotebookClient
from nbclient.output_widget import OutputWidget

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
