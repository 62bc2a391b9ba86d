"""A notebook's cells in an IPython shell without ZMQ, their outputs kept as nbformat dictionaries.

Runs in the child process beside `runner`, which imports it by its bare name; it imports IPython and the standard
library only.
"""

import base64
import io
import json
import sys

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

MAX_OUTPUT = 200_000  # characters kept of one cell's outputs


class Outputs:
    """The outputs of one cell as nbformat dictionaries, cut off at `MAX_OUTPUT` characters."""

    def __init__(self):
        self.clear()

    def clear(self):
        self.collected = []
        self.characters = 0

    def has_room(self, characters):
        """Count `characters` more; say once, in the outputs themselves, that the limit is reached."""
        was_full = self.characters > MAX_OUTPUT
        self.characters += characters
        if self.characters > MAX_OUTPUT and not was_full:
            self.collected.append(
                {"output_type": "stream", "name": "stdout", "text": "\n[output cut off here]\n"}
            )
        return self.characters <= MAX_OUTPUT

    def stream(self, name, text):
        if not self.has_room(len(text)):
            return
        last = self.collected[-1] if self.collected else {}
        if last.get("name") == name:
            last["text"] += text
        else:
            self.collected.append({"output_type": "stream", "name": name, "text": text})

    def rich(self, output_type, data, metadata, **more):
        data = {
            mime: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for mime, value in data.items()
        }
        output = {"output_type": output_type, "data": data, "metadata": metadata or {}, **more}
        if self.has_room(len(json.dumps(output, default=str))):
            self.collected.append(output)

    def error(self, name, message, traceback):
        # An error shows even where the limit is reached: it is what the learner needs most.
        self.collected.append(
            {
                "output_type": "error",
                "ename": name,
                "evalue": message[:MAX_OUTPUT],
                "traceback": [line[:MAX_OUTPUT] for line in traceback],
            }
        )


class Stream(io.TextIOBase):
    """A text stream that writes into `Outputs`."""

    encoding = "utf-8"

    def __init__(self, outputs, name):
        self.outputs = outputs
        self.stream_name = name

    def writable(self):
        return True

    def write(self, text):
        self.outputs.stream(self.stream_name, text)
        return len(text)


def start():
    """Start the shell and turn stdout and stderr to its outputs: (Outputs, InteractiveShell)."""
    outputs = Outputs()
    sys.stdout, sys.stderr = Stream(outputs, "stdout"), Stream(outputs, "stderr")

    class Hook(DisplayHook):
        def write_output_prompt(self):
            pass

        def write_format_data(self, format_dict, md_dict=None):
            outputs.rich("execute_result", format_dict, md_dict, execution_count=self.prompt_count)

        def finish_displayhook(self):
            self._is_active = False

    class Publisher(DisplayPublisher):
        def publish(self, data, metadata=None, **more):
            outputs.rich("display_data", data, metadata)

        def clear_output(self, wait=False):
            outputs.clear()

    class Shell(InteractiveShell):
        def _showtraceback(self, etype, evalue, stb):
            try:
                message = str(evalue)
            except Exception as error:
                message = f"(its message could not be shown: {type(error).__name__})"
            outputs.error(etype.__name__, message, stb)

        def ask_exit(self):
            self.write_err("exit() has no effect in a graded notebook\n")

        def write_err(self, text):
            outputs.stream("stderr", text)

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    shell = Shell.instance(config=config, displayhook_class=Hook, display_pub_class=Publisher)
    shell.user_ns["__name__"] = "__main__"
    return outputs, shell
