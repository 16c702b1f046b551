"""`llmforge chat`: a talk in a terminal, or over a pipe.

In: lines that a person types, or a script writes; a talk (`talk.py`). Out: answers on stdout as
they are generated; what llmforge itself has to say on stderr, so that a script reads answers alone.
Lines that begin with `/` are commands, see `HELP`; one that ends in a backslash goes on below.

Ctrl-C stops an answer and keeps the talk, Ctrl-D or `/quit` ends it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from llmforge.diagnostics import ConfigRefused, did_you_mean
from llmforge.stages.stops import printable
from llmforge.stages.talk import Talk, TurnTooLong

HELP = """\
/system TEXT     another system prompt from now on; without TEXT, none
/reset           begin anew; the system prompt stays
/undo            take back the last turn and its answer
/adapter NAME    switch the adapter; `none` is the base alone; without NAME, list them
/set KEY=VALUE   a setting of the section `generation` (temperature=0.7, preset=creative);
                 without one, show them
/save FILE       write the talk: FILE.jsonl can be trained on, FILE.md is for people
/help            this list
/quit            end (or Ctrl-D); Ctrl-C stops an answer
A line that ends in \\ goes on below; one that begins with // begins with /."""

_YOU, _MODEL, _MORE = "you> ", "model> ", "...> "
_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


class Chat:
    """Reads turns and commands until the end of input."""

    def __init__(
        self,
        talk: Talk,
        lines: TextIO | None = None,
        out: TextIO | None = None,
        err: TextIO | None = None,
        log: Path | None = None,
    ) -> None:
        """
        Args:
            talk: to go on with.
            lines: where turns come from; stdin when nothing is said, with line editing in a
                terminal.
            out: for answers.
            err: for everything else.
            log: written after each answer, see `Talk.save`.
        """
        self.talk = talk
        self._in, self._out, self._err = lines or sys.stdin, out or sys.stdout, err or sys.stderr
        self._log = log
        self._past: list[str] = []
        """Talks that `/reset` has ended, as they stand in the log."""
        self.terminal = self._in.isatty() and self._out.isatty()
        self._off: Any = None
        """Set while the base is asked without its adapter."""
        self.failed = False
        """Did a turn or command of a script go wrong?"""

    def run(self) -> int:
        """Talk; returns an exit code: 1 when a line of a script could not be carried out."""
        if self.terminal:
            self._prepare_terminal()
            self._tell(f"{self.talk.label}; /help lists commands, Ctrl-D ends")
        if self.talk.plain:
            self._tell(
                "this model's tokenizer has no chat template: turns are written plainly, under "
                "System:, User: and Model:"
            )
        for line in self._lines():
            if not line.strip():
                continue
            if line.startswith("/") and not line.startswith("//"):
                if not self._command(line[1:].strip()):
                    break
            else:
                self._turn(line.removeprefix("/") if line.startswith("//") else line)
        if self._log is not None and (self.talk.messages or self._past) and self._keep_log():
            self._tell(f"the talk is in {self._log}")
        return 0 if self.terminal or not self.failed else 1

    # -- turns ---------------------------------------------------------------------------------

    def _turn(self, text: str) -> None:
        if self.terminal:
            self._out.write(f"{_BOLD}{_MODEL}{_PLAIN}")
            self._out.flush()
        try:
            found = self.talk.say(text, self._stream, self._tell)
        except KeyboardInterrupt:
            self._out.write("\n")
            kept = self.talk.messages and self.talk.messages[-1].get("stopped")
            self._tell("stopped" if kept else "stopped before a word was said; the turn is gone")
        except ValueError as error:  # what does not fit this model or its context
            self._out.write("\n" if self.terminal else "")
            self._fault(str(error), undone=isinstance(error, TurnTooLong))
        else:
            self._out.write("\n")
            if found.ended == "length":
                self._tell(
                    f"(cut at {found.tokens} tokens; /set max_new_tokens={2 * found.tokens or 64})"
                )
        self._out.flush()
        self._keep_log()

    def _stream(self, piece: str) -> None:
        self._out.write(printable(piece) if self.terminal else piece)
        self._out.flush()

    # -- commands ------------------------------------------------------------------------------

    def _command(self, line: str) -> bool:
        """Carry a command out; False ends the talk."""
        name, _, rest = line.partition(" ")
        known: dict[str, Callable[[str], None]] = {
            "system": self._system, "reset": self._reset, "undo": self._undo,
            "adapter": self._adapter, "set": self._set, "save": self._save_as, "help": self._help,
        }  # fmt: skip
        if name in ("quit", "exit"):
            return False
        if name in known:
            known[name](rest.strip())
        else:
            near = did_you_mean(name, (*known, "quit"))
            self._fault(f"there is no command /{name}; {near[0] if near else '/help lists them'}")
        return True

    def _system(self, text: str) -> None:
        self.talk.change_system(text)
        self._tell("the system prompt is changed" if text else "there is no system prompt now")

    def _reset(self, _: str) -> None:
        if self._log is not None and self.talk.messages:
            self._past.append(self.talk.text(self._log.suffix == ".md"))
        self.talk.reset()
        self._tell("a new talk")

    def _undo(self, _: str) -> None:
        gone = self.talk.undo()
        self._tell("the last turn is taken back" if gone else "there is nothing to take back")

    def _adapter(self, name: str) -> None:
        model = self.talk.model
        names = list(getattr(model, "peft_config", {}))
        if not names:
            self._fault("this model has no adapters; llmforge chat REF --adapter NAME=OTHER")
        elif not name:
            now = "none" if self._off else model.active_adapter
            self._tell(f"adapters: {', '.join(names)}, none; active: {now}")
        elif name == "none":
            if self._off is None:
                self._off = model.disable_adapter()
                self._off.__enter__()
            self._tell("the base alone answers now")
        elif name not in names:
            near = did_you_mean(name, names)
            self._fault(f"there is no adapter {name}; {near[0] if near else ', '.join(names)}")
        else:
            if self._off is not None:
                self._off.__exit__(None, None, None)
                self._off = None
            model.set_adapter(name)
            model.requires_grad_(False)  # PEFT makes the adapter that it switches to trainable
            self._tell(f"adapter {name} answers now")

    def _set(self, text: str) -> None:
        from llmforge.compiler.generation import with_setting

        if not text:
            shown = {k: v for k, v in self.talk.generation.items() if k != "system"}
            self._tell("\n".join(f"{key}={value}" for key, value in shown.items()))
            return
        try:
            changed = with_setting(self.talk.generation, text)
        except ConfigRefused as error:
            self._fault("; ".join(one.message for one in error.diagnostics))
            return
        if changed["num_beams"] > 1:
            self._fault("beam search changes what it has written, and a talk is streamed")
            return
        if changed["system"] != self.talk.generation["system"]:
            self.talk.change_system(changed["system"])
        self.talk.generation = changed
        self._tell(text)

    def _save_as(self, name: str) -> None:
        try:
            words = shlex.split(name)
        except ValueError:
            words = []
        if len(words) != 1:
            self._fault("/save FILE.jsonl or /save FILE.md")
        elif self._save(Path(words[0]).expanduser()):
            self._tell(f"saved to {words[0]}")

    def _help(self, _: str) -> None:
        self._tell(HELP)

    def _keep_log(self) -> bool:
        return self._log is not None and self._save(self._log, self._past)

    def _save(self, path: Path, before: Sequence[str] = ()) -> bool:
        try:
            self.talk.save(path, before)
        except OSError as error:
            self._fault(f"{path} cannot be written: {error.strerror or error}")
            return False
        return True

    # -- the terminal --------------------------------------------------------------------------

    def _lines(self) -> Iterator[str]:
        """Turns and commands; several lines where a backslash joins them."""
        held: list[str] = []
        while True:
            try:
                line = self._read(_MORE if held else _YOU)
            except KeyboardInterrupt:
                held = []
                self._out.write("\n")
                self._tell("Ctrl-D or /quit ends the talk")
                continue
            if line is None:
                break
            if line.endswith("\\"):
                held.append(line[:-1])
                continue
            yield "\n".join([*held, line])
            held = []
        if held:
            yield "\n".join(held)

    def _read(self, prompt: str) -> str | None:
        if not self.terminal:
            line = self._in.readline()
            return line.rstrip("\r\n") if line else None
        try:
            return input(prompt)
        except EOFError:
            self._out.write("\n")
            return None

    def _prepare_terminal(self) -> None:
        with suppress(ImportError):  # a Python without it reads lines all the same
            import readline

            readline.parse_and_bind("set enable-bracketed-paste on")

    def _tell(self, text: str) -> None:
        dim, plain = (_DIM, _PLAIN) if self.terminal else ("", "")
        self._out.flush()
        print(f"{dim}{text}{plain}", file=self._err, flush=True)

    def _fault(self, text: str, undone: bool = False) -> None:
        self.failed = True
        self._tell(f"{text}{'; the turn is taken back' if undone else ''}")
